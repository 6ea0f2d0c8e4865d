"""Make a model that is only a token embedding: clustered noise in bfloat16, by block, so that memory stays small.

    python benchmarks/make_embedding.py --rows 151936 --cols 2560 --out DIR

Zipf-sized clusters, a common offset, and a spectrum that falls as a power law, as trained embeddings have. The clusters
lie so close that no k stands out and k-means takes dozens of iterations, which is the slowest case.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import numpy as np

CLUSTERS = 40
BLOCK = 4096  # rows
NAME = "model.embed_tokens.weight"


def make(out: Path, rows: int, cols: int, seed: int) -> Path:
    """Write DIR/model.safetensors and config.json; the same arguments give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    header = {NAME: {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [0, 2 * rows * cols]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, cols + 1, dtype=np.float32) ** -0.4
    centres = 0.15 * rng.standard_normal((CLUSTERS, cols), dtype=np.float32) * spectrum
    share = 1 / np.arange(1, CLUSTERS + 1)
    with (out / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            labels = rng.choice(CLUSTERS, count, p=share / share.sum())
            x = centres[labels] + rng.standard_normal((count, cols), dtype=np.float32) * spectrum
            x = 0.02 * x * rng.lognormal(0, 0.2, (count, 1)).astype(np.float32) + np.float32(0.003)
            file.write((x.view(np.uint32) >> 16).astype("<u2").tobytes())  # cut, not rounded: it is noise
    (out / "config.json").write_text(json.dumps({"model_type": "qwen3", "tie_word_embeddings": True}), encoding="utf-8")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--cols", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    make(asked.out, asked.rows, asked.cols, asked.seed)


if __name__ == "__main__":
    main()
