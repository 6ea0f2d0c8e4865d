"""How `netweight lineage` does with thousands of models: an invented index of the 8b shape.

    python benchmarks/lineage/scale.py WORK [--models 1000] [--listed 10000] [--json FILE]

WORK gets a sparse checkpoint of the 8b shape, whose sketch says which tensors there are, and an index of `--models`
sketches of invented weights, in families of twenty: normal numbers in bfloat16, a fine-tune with 5% of noise over its
base. Their list and vectors are then made longer by invented vectors, to `--listed` models. Timed, each as a process of
its own: sketching the checkpoint given by --checkpoint (a real one of the 8b shape, made by make_models.py); one model
against the long index; all pairs of the short one.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from netweight.jobs.lineage.features import SIZE
from netweight.jobs.lineage.index import Index, adding
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.sketching import sketch_of
from netweight.passes.corners import Corner

ROOT = Path(__file__).parents[2]
FAMILY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--listed", type=int, default=10_000)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    shape = asked.work / "shape"
    if not shape.exists():
        sys.path[:0] = [str(ROOT / "tests" / "hub"), str(ROOT / "benchmarks")]
        from hub_models import write_shape

        from shapes import SHAPES

        write_shape(shape, SHAPES["8b"])
    plain = sketch_of(shape)
    short, long = asked.work / "index", asked.work / "long"
    fill(short, plain, asked.models)
    lengthen(short, long, asked.listed)
    size = sum(file.stat().st_size for file in (short / "sketches").iterdir())
    found = {
        "sketch_bytes": size / asked.models,
        "index_bytes_10000": size / asked.models * 10_000 + 2 * SIZE * 10_000,
        "read_bytes": plain.about.read_bytes,
    }
    if asked.checkpoint:
        found["sketch"] = timed("lineage", "index", str(asked.checkpoint), "-o", str(asked.work / "one"))
        shutil.rmtree(asked.work / "one")
        found["query"] = timed("lineage", str(asked.checkpoint), "--index", str(long))
    found["all_pairs"] = timed("lineage", "--index", str(short), "-q", ok=True)
    for name, value in found.items():
        print(name, value)
    if asked.json:
        asked.json.write_text(json.dumps(found | {"models": asked.models, "listed": asked.listed}, indent=1) + "\n")


def fill(folder: Path, plain: Sketch, models: int) -> None:
    """An index of so many invented models."""
    there = len(Index.open(folder)) if (folder / "index.json").exists() else 0
    if there >= models:
        return
    with adding(folder) as work:
        for number in range(there, models):
            work.add(invented(plain, number), "invented")


def invented(plain: Sketch, number: int) -> Sketch:
    """Model `number`: the first of its family, or with noise over it."""
    family, own = divmod(number, FAMILY)
    base, noise = np.random.default_rng(family), np.random.default_rng((family, own))
    tensors: dict[str, Corner] = {}
    for key, held in plain.tensors.items():
        values = 0.02 * base.standard_normal(held.values.shape, np.float32)
        if own:
            values += 0.001 * noise.standard_normal(held.values.shape, np.float32)
        bits = values.view(np.uint32) & 0xFFFF0000
        tensors[key] = replace(held, values=bits.view(np.float32), digest=f"{number:08x}{held.digest[8:]}")
    name = f"family{family:03}-{own:02}"
    about = replace(
        plain.about, name=name, identity=dict(plain.about.identity) | {"ref": name, "path": f"/invented/{name}"}
    )
    return Sketch(about, tensors)


def lengthen(short: Path, long: Path, listed: int) -> None:
    """The same index with invented vectors behind it."""
    if (long / "index.json").exists():
        return
    long.mkdir()
    (long / "sketches").symlink_to((short / "sketches").resolve())
    held = json.loads((short / "index.json").read_text())
    index = Index.open(short)
    chance = np.random.default_rng(1)
    with (long / "features-0.f16").open("wb") as vectors:
        vectors.write(np.array(index.features()).astype("<f2").tobytes())
        for row in range(len(index), listed):
            vector = chance.standard_normal(SIZE, np.float32)
            vectors.write((vector / np.sqrt(SIZE)).astype("<f2").tobytes())
            held["models"].append(asdict(index.entries[0]) | {"name": f"other{row}", "row": row})
    (long / "index.json").write_text(json.dumps(held | {"vectors": "features-0.f16"}))


def timed(*words: str, ok: bool = True) -> dict[str, float]:
    """Seconds and the most memory of a command."""
    code = f"from netweight.cli.main import main; import sys; sys.exit(main({list(words)!r}))"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if ok and done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    print(done.stdout[:1500])
    return {"seconds": seconds, "rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3}


if __name__ == "__main__":
    main()
