"""Run the benchmark of adapters; figures go to benchmarks/results/<date>-adapters.json.

    python benchmarks/adapters.py                     # both parts: 15 GB of disk
    python benchmarks/adapters.py --parts factors     # two adapters of the 8b shape, by their factors: a minute
    python benchmarks/adapters.py --shape tiny        # does everything work?

Part one: `netweight delta` of rank-16 adapters on all matrices of the 8b shape, without a base, as a whole process;
beside it what a one-off script does for the same cosine, the dense products by torch (adapters_torch.py). Part two:
`netweight merge` of a base and three adapters of the 1b shape, against the merge of the three dense models that they
are, from the page cache and from the disk.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from make_models import SHARD_BYTES, Values, make_model, normal_pool
from measure import CommandFailedError, Measurement, drop_page_cache, machine, measure, median
from run import HERE, repeat, say
from shapes import SHAPES, Shape

PROGRAM = str(Path(sys.executable).with_name("netweight"))
RANK = 16
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
METHODS = {"task_arithmetic": ["--weights", "0.4", "0.4", "0.4"], "ties": ["--method", "ties", "--set", "density=0.5"]}


def make_adapter(folder: Path, shape: Shape, seed: int) -> None:
    """A LoRA of RANK on every matrix of the blocks, float32 as PEFT saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    held = {}
    for name, (rows, cols) in ((n, s) for n, s in shape.tensors().items() if n.split(".")[-2] in MATRICES):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        held[f"{module}.lora_A.weight"] = rng.standard_normal((RANK, cols), np.float32) / np.float32(cols**0.5)
        held[f"{module}.lora_B.weight"] = np.float32(0.01) * rng.standard_normal((rows, RANK), np.float32)
    save_file(held, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "../base"}
    (folder / "adapter_config.json").write_text(json.dumps(about))


def into(out: Path, command: list[str], log: Path, cold: list[Path] | None = None) -> Callable[[], Measurement]:
    """A measurement of a command that makes the folder `out` anew; of files that are not in the page cache."""

    def run() -> Measurement:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        if cold is not None:
            drop_page_cache(file for folder in cold for file in folder.glob("*.safetensors"))
        return measure(command, log)

    return run


def by_factors(work: Path, shape: Shape, runs: int) -> dict[str, object]:
    """One adapter, two of them, and the dense products in torch."""
    folders = [work / f"lora-{shape.name}-{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(folders):
        if not folder.is_dir():
            make_adapter(folder, shape, seed)
    out, log = work / "delta", work / "log"
    command = [PROGRAM, "delta", "--outdir", str(out), "--models"]
    one = repeat("one adapter", into(out, [*command, str(folders[0])], log), runs)
    two = repeat("two adapters", into(out, [*command, *map(str, folders)], log), runs)
    script = [sys.executable, str(HERE / "adapters_torch.py"), *map(str, folders)]
    torch = repeat("dense products by torch", into(out, script, log), max(1, runs // 2))
    say(f"{median(torch).wall / median(two).wall:.1f} times as fast as dense products")
    return {name: [asdict(run) for run in held] for name, held in (("one", one), ("two", two), ("torch", torch))}


def merges(work: Path, shape: Shape, runs: int) -> dict[str, object]:
    """A base and three adapters against a base and the three models that they are."""
    base = work / f"base-{shape.name}"
    if not base.is_dir():
        make_model(base, shape, Values(normal_pool(0), 0, 0), SHARD_BYTES)
    adapters, dense = ([work / f"{kind}-{shape.name}-{seed}" for seed in (1, 2, 3)] for kind in ("lora", "dense"))
    for seed, (adapter, model) in enumerate(zip(adapters, dense, strict=True), 1):
        if not adapter.is_dir():
            make_adapter(adapter, shape, seed)
        if not model.is_dir():
            measure([PROGRAM, "convert", f"{base}+{adapter}", "--output", str(model)], work / "log")
    out, found = work / "merged", dict[str, object]()
    for method, settings in METHODS.items():
        for state in ("warm", "cold"):
            pair = {}
            for kind, models in (("adapters", adapters), ("dense", dense)):
                command = [PROGRAM, "merge", "--base", str(base), "--models", *map(str, models), *settings]
                files = [base, *models] if state == "cold" else None
                run = into(out, [*command, "--output", str(out)], work / "log", files)
                pair[kind] = repeat(f"{method}, {kind}, {state}", run, runs)
            ratio = median(pair["adapters"]).wall / median(pair["dense"]).wall
            say(f"{method}, {state}: adapters take {ratio:.2f} times what dense models take")
            found[f"{method} {state}"] = {kind: [asdict(run) for run in held] for kind, held in pair.items()}
    shutil.rmtree(out, ignore_errors=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("factors", "merge"), default=["factors", "merge"])
    parser.add_argument("--shape", choices=sorted(SHAPES), help="of both parts; otherwise 8b and 1b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=HERE / "work" / "adapters")
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "machine": machine(), "rank": RANK}
    try:
        if "factors" in asked.parts:
            report["factors"] = by_factors(asked.work, SHAPES[asked.shape or "8b"], asked.runs)
        if "merge" in asked.parts:
            report["merge"] = merges(asked.work, SHAPES[asked.shape or "1b"], asked.runs)
    except CommandFailedError as error:
        say(str(error))
        return 1
    if asked.shape is None:
        path = HERE / "results" / f"{report['date']}-adapters.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        say(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
