"""How long commands take on a tiny model: with everything compiled, and the first time.

    python benchmarks/start.py MODELS [--runs 7]

MODELS is the folder `models` that `netweight demo` makes. Wall and processor seconds of whole processes, medians; the
first run has an empty folder for compiled loops, and is measured once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import measure


def commands(models: Path, work: Path) -> dict[str, list[str]]:
    """The arguments of each command."""
    base, one, two = (str(models / name) for name in ("demo-base", "demo-math", "demo-dpo"))
    ties = ["--method", "ties", "--set", "density=0.5", "--weights", "0.5", "0.5"]
    merged = ["--output", str(work / "merged"), "--overwrite"]
    return {
        "info": ["info", base],
        "scan": ["scan", base],
        "scan, all": ["scan", base, "--methods", "all"],
        "compare": ["compare", base, one],
        "delta": ["delta", "--base", base, "--models", one, "--outdir", str(work / "tv")],
        "merge, task_arithmetic": ["merge", "--base", base, "--models", one, two, "--weights", "0.5", "0.5", *merged],
        "merge, ties": ["merge", "--base", base, "--models", one, two, *ties, *merged],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    print("| command | wall | processor | first run | of the processor |\n| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name, arguments in commands(asked.models, work).items():
            command = [sys.executable, "-m", "netweight", *arguments]
            first = measure(["env", f"NUMBA_CACHE_DIR={work / name}", *command], work / "log")
            runs = [
                measure(["env", f"NUMBA_CACHE_DIR={work / name}", *command], work / "log") for _ in range(asked.runs)
            ]
            wall, processor = (
                statistics.median(values) for values in zip(*((r.wall, r.cpu) for r in runs), strict=True)
            )
            print(
                f"| `{name}` | {wall:.2f} s | {processor:.2f} s | {first.wall:.1f} s | {first.cpu:.1f} s |", flush=True
            )


if __name__ == "__main__":
    main()
