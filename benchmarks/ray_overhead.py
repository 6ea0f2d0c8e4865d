"""What a cluster costs: the time that one task takes beyond its work, and the bytes that go from process to process.

Starts a Ray cluster on this machine, makes two small bfloat16 models, and measures their difference and their merge
with it. Prints one line a figure, and leaves with 1 where a bound is broken:

    python benchmarks/ray_overhead.py [--workers 2] [--megabytes 128]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import netweight
from netweight.run.ray_executor import RayExecutor

TASKS = 2000
MOST_SECONDS = 0.005  # a task
MOST_SHARE = 0.01  # of the bytes read
WIDTH = 2048


def overhead(executor: RayExecutor) -> float:
    """Seconds a task, of tasks that do nothing but carry what a small stretch's would."""
    first = iter(range(10 * executor.workers))
    list(executor.run(lambda: next(first, None), lambda _: time.sleep(0.1)))  # workers are there
    tasks = iter(range(TASKS))
    began = time.perf_counter()
    done = sum(1 for _ in executor.run(lambda: next(tasks, None), lambda _: bytes(2000)))
    assert done == TASKS
    return (time.perf_counter() - began) / TASKS


def write_models(folder: Path, megabytes: int) -> int:
    """A base and a fine-tune of so many MB each; their bytes together."""
    random = np.random.default_rng(0)
    layers = max(1, megabytes * 10**6 // (2 * WIDTH * WIDTH))
    base = {
        f"model.layers.{i}.mlp.up_proj.weight": random.standard_normal((WIDTH, WIDTH)) * 0.02 for i in range(layers)
    }
    for name, moved in (("base", 0.0), ("tuned", 1e-3)):
        (folder / name).mkdir()
        arrays = {n: (a + moved * random.standard_normal(a.shape)).astype(ml_dtypes.bfloat16) for n, a in base.items()}
        save_file(arrays, folder / name / "model.safetensors")
    return 2 * sum(2 * a.size for a in base.values())


def moved(executor: RayExecutor, folder: Path, read: int) -> dict[str, float]:
    """{job: bytes that crossed, as a share of those read once}."""
    base, tuned = folder / "base", folder / "tuned"
    found = {}
    for job in ("delta", "merge", "scan"):
        before = executor.moved
        if job == "delta":
            netweight.delta(base, [tuned], executor=executor)
        elif job == "merge":
            ties = {"method": "ties", "weights": [1.0], "settings": {"density": 0.3}}
            netweight.merge(None, folder / "merged", base=base, models=[tuned], executor=executor, **ties)
        else:
            netweight.scan(base, executor=executor)
        found[job] = (executor.moved - before) / (read / 2 if job == "scan" else read)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=128, help="of each model")
    given = parser.parse_args()
    executor = RayExecutor(given.workers)
    try:
        seconds = overhead(executor)
        print(f"overhead of a task: {1000 * seconds:.2f} ms (bound {1000 * MOST_SECONDS:g} ms)")
        with tempfile.TemporaryDirectory() as folder:
            shares = moved(executor, Path(folder), write_models(Path(folder), given.megabytes))
        for job, share in shares.items():
            print(f"{job}: {100 * share:.3f}% of the bytes read go between processes (bound {100 * MOST_SHARE:g}%)")
    finally:
        executor.close()
    return int(seconds > MOST_SECONDS or max(shares.values()) > MOST_SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
