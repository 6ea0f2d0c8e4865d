"""Run the benchmark of `netweight extract-lora`; figures go to benchmarks/results/<date>-extract-lora.json.

    python benchmarks/extract_lora.py               # the 1b shape, rank 32, against mergekit-extract-lora: 8 GB of disk
    python benchmarks/extract_lora.py --shape tiny  # a minute: does everything work?

The comparison needs mergekit's environment: benchmarks/mergekit/setup.sh makes it once. The errors of both adapters are
computed in the same way, from their files: ||D - B A|| / ||D|| in float64, of the matrices in which both have factors.
mergekit copies embeddings as a rule, where netweight factorises them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from math import sqrt
from pathlib import Path

import ml_dtypes  # noqa: F401 - bfloat16, in which mergekit writes
import numpy as np
from safetensors.numpy import load_file

import netweight
from measure import CommandFailedError, Measurement, machine, measure, median
from netweight.kernels.choose import factor_kernels_for
from netweight.passes.task_vectors import TaskVector, TaskVectorRows
from run import HERE, once, repeat, say
from shapes import SHAPES

MERGEKIT = HERE / "mergekit" / ".venv" / "bin" / "mergekit-extract-lora"
PROGRAM = str(Path(sys.executable).with_name("netweight"))
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_A\.weight")


def into(out: Path, command: list[str], log: Path) -> Callable[[], Measurement]:
    """A measurement of a command that makes the folder `out` anew."""

    def run() -> Measurement:
        if out.is_dir():
            shutil.rmtree(out)
        os.sync()  # a system with much to be written makes writers wait
        return measure(command, log)

    return run


def squares(base: Path, model: Path, adapters: list[Path]) -> dict[str, list[float]]:
    """{module: squared norm of its task vector, then what each adapter leaves of it}, where all have factors."""
    kernels = factor_kernels_for("cpu")
    factors = [load_file(adapter / "adapter_model.safetensors") for adapter in adapters]
    shared = set.intersection(*({f["module"] for name in held if (f := _FACTOR.fullmatch(name))} for held in factors))
    found: dict[str, list[float]] = {}
    with netweight.open(base) as one, netweight.open(model) as other:
        for module in sorted(shared & {name.removesuffix(".weight") for name in one}):
            name = f"{module}.weight"
            rows = TaskVectorRows(TaskVector(name, one[name], other[name], "factors"))
            parts = [[f"base_model.model.{module}.lora_{part}.weight" for part in "BA"]] * len(factors)
            sides = [[held[p].astype(np.float64) for p in names] for held, names in zip(factors, parts, strict=True)]
            sums, first = [0.0] * (1 + len(sides)), 0
            for block in rows.blocks():
                sums[0] += float(np.square(block.astype(np.float64)).sum())
                for i, (left, right) in enumerate(sides, 1):
                    sums[i] += kernels.residual(block, left[first : first + len(block)], right)
                first += len(block)
            found[module] = sums
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=HERE / "data")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--mergekit", type=Path, default=MERGEKIT, help="mergekit-extract-lora, where it is elsewhere")
    parser.add_argument("--skip-mergekit", action="store_true")
    parser.add_argument("--skip-dry-run", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the models for the next run")
    asked = parser.parse_args(arguments)
    try:
        return _run(asked)
    except CommandFailedError as error:
        say(str(error))
        return 1


def _run(asked: argparse.Namespace) -> int:
    folder = asked.workdir / asked.shape
    folder.mkdir(parents=True, exist_ok=True)
    log, fresh = folder / "last-command.log", not (folder / "base").exists()
    script = [
        sys.executable,
        str(HERE / "make_models.py"),
        "--shape",
        asked.shape,
        "--fine-tunes",
        "1",
        "--out",
        str(folder),
    ]
    say(f"making {asked.shape} models")
    measure(script, log)
    base, model, ours, theirs = (folder / name for name in ("base", "fine-tune-1", "out-ours", "out-theirs"))
    both = ["--base", str(base), "--model", str(model)]
    command = [PROGRAM, "extract-lora", *both, "--output", str(ours), "--rank", str(asked.rank)]
    rows: dict[str, list[Measurement]] = {}
    rows["netweight extract-lora"] = repeat("netweight extract-lora", into(ours, command, log), asked.runs)
    rows["netweight verify"] = [once("netweight verify", lambda: measure([PROGRAM, "verify", str(ours)], log))]
    if not asked.skip_dry_run:
        dry = [PROGRAM, "extract-lora", *both, "--dry-run"]
        rows["netweight extract-lora --dry-run"] = [once("netweight extract-lora --dry-run", lambda: measure(dry, log))]
    errors: dict[str, float] = {}
    if not asked.skip_mergekit:
        command = ["env", "HF_HUB_OFFLINE=1", str(asked.mergekit), "--model", str(model), "--base-model", str(base)]
        command += ["--out-path", str(theirs), "--max-rank", str(asked.rank), "--quiet"]
        rows["mergekit-extract-lora"] = [once("mergekit-extract-lora", into(theirs, command, log))]
        errors = _errors(squares(base, model, [ours, theirs]))
    record = json.loads((ours / "netweight_extract_lora.json").read_text())
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
        "shape": asked.shape,
        "rank": asked.rank,
        "rows": {name: [asdict(run) for run in runs] for name, runs in rows.items()},
        "whole": record["whole"],
        "errors_of_shared_matrices": errors,
    }
    path = asked.results / f"{result['date']}-extract-lora{'' if asked.shape == '1b' else f'-{asked.shape}'}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(_table(rows, errors))
    for out in (ours, theirs):
        shutil.rmtree(out, ignore_errors=True)
    if fresh and not asked.keep:
        shutil.rmtree(folder)
    return 0


def _errors(found: dict[str, list[float]]) -> dict[str, float]:
    """Relative errors of all shared matrices together, and the largest ratio of one matrix's."""
    total, ours, theirs = (sum(sums[i] for sums in found.values()) for i in range(3))
    return {
        "matrices": len(found),
        "netweight": sqrt(ours / total),
        "mergekit": sqrt(theirs / total),
        "largest_excess": max(sqrt(one / other) - 1 for _, one, other in found.values()),
    }


def _table(rows: dict[str, list[Measurement]], errors: dict[str, float]) -> str:
    lines = ["| command | wall | CPU | peak memory | runs |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, runs in rows.items():
        m, walls = median(runs), [run.wall for run in runs]
        spread = f" ({min(walls):.1f} to {max(walls):.1f})" if len(runs) > 1 else ""
        lines.append(f"| {name} | {m.wall:.1f} s{spread} | {m.cpu:.1f} s | {m.peak_rss / 1e9:.2f} GB | {len(runs)} |")
    if errors:
        one, other = (median(rows[name]) for name in ("netweight extract-lora", "mergekit-extract-lora"))
        ratios = (other.wall / one.wall, other.cpu / one.cpu, other.peak_rss / one.peak_rss)
        lines.append("| **mergekit / netweight** | " + " | ".join(f"**{ratio:.1f}x**" for ratio in ratios) + " | |")
        lines.append(
            f"\nRelative error of the {errors['matrices']} matrices in which both have factors: netweight"
            f" {errors['netweight']:.8f}, mergekit {errors['mergekit']:.8f}; of one matrix, netweight's is larger by"
            f" {errors['largest_excess']:.1e} of it at most."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
