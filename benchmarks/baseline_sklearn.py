"""What a script does without netweight: the embedding as float32 in memory, scikit-learn's KMeans on all rows for each
k, F, and the silhouette of a sample. Prints seconds by k.

    python benchmarks/baseline_sklearn.py MODEL --ks 2 10 30
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import calinski_harabasz_score, silhouette_score


def read(path: Path) -> np.ndarray:
    """The only tensor of a safetensors file in bfloat16, as float32."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        (about,) = (entry for name, entry in header.items() if name != "__metadata__")
        bits = np.fromfile(file, "<u2").reshape(about["shape"])
    return (bits.astype(np.uint32) << 16).view(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--ks", type=int, nargs="+", required=True)
    asked = parser.parse_args()
    x = read(asked.model / "model.safetensors")
    found = {}
    for k in asked.ks:
        started = time.perf_counter()
        model = KMeans(k, random_state=0).fit(x)
        f = calinski_harabasz_score(x, model.labels_)
        silhouette_score(x, model.labels_, sample_size=5000, random_state=0)
        seconds = time.perf_counter() - started
        found[k] = {
            "seconds": seconds,
            "iterations": int(model.n_iter_),
            "f": float(f),
            "inertia": float(model.inertia_),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
