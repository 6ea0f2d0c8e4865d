"""Record what mergekit makes of the recipe suite, for netweight's tests: tests/jobs/merge/suite/.

    benchmarks/mergekit/setup.sh
    benchmarks/mergekit/.venv/bin/python benchmarks/mergekit/record_suite.py

mergekit is a black box here: its command `mergekit-yaml` is called with each recipe of tests/jobs/merge/suite on the
models of tests/jobs/suite_models.py, in one process, because its start takes seconds. `recorded.json` holds what
tests/jobs/suite_facts.py says of each result, `values.safetensors` the values of its tensors. All of it is done with
several seeds of Python's hashes (`PYTHONHASHSEED`), because mergekit takes some tokenizers, special tokens and
templates from a model that changes from run to run (`changing`); `also` has what the first run does not show.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
from safetensors.numpy import load_file, save_file

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(TESTS / "jobs"), str(TESTS / "merging")]

from suite_facts import digest, error_line, facts, strings  # noqa: E402
from suite_models import digest_of_models, write_models  # noqa: E402

RUNS = 8
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
RECIPES = TESTS / "jobs" / "merge" / "suite"
OPTIONS = ["--no-write-model-card", "--copy-tokenizer", "--allow-crimes", "--quiet", "--random-seed", "7"]


def changing(recipe: str) -> bool:
    """Whether a recipe's result may be another in the next run: it says of no one model that the tokenizer is its."""
    return "base_model" not in recipe or any(word in recipe for word in ("auto", "union"))


def mergekit_yaml(recipe: Path, out: Path) -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="mergekit-yaml")
    command.load()([str(recipe), str(out), *OPTIONS, "--lora-merge-cache", "adapters"], standalone_mode=False)


def record(out: Path, only: str | None, *, again: bool) -> None:
    """Run every recipe, `again` those whose result may be another, and write what became of it."""
    rows: dict[str, dict[str, Any]] = {}
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        models = digest_of_models(folder)
        for recipe in sorted(RECIPES.glob("*.yml")):
            if (only and only not in recipe.stem) or (again and not changing(recipe.read_text(encoding="utf-8"))):
                continue
            merged = folder / "out" / recipe.stem
            with contextlib.chdir(folder):
                try:
                    mergekit_yaml(recipe, merged)
                except Exception as problem:  # whatever it is, it is what mergekit says
                    rows[recipe.stem] = {"error": error_line(problem)}
                else:
                    rows[recipe.stem], values[recipe.stem], _ = facts(merged, recipe.stem)
            row = rows[recipe.stem]
            print(recipe.stem, row.get("error") or row["loads"], file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.json").write_text(json.dumps({"models": models, "rows": rows}), encoding="utf-8")
    save_file(values, out / "values.safetensors")


def together(parts: list[Path]) -> tuple[dict[str, dict[str, Any]], str, dict[str, np.ndarray]]:
    """The first run's rows, with what others have otherwise, the models' digest, and values."""
    runs = [json.loads((part / "rows.json").read_text(encoding="utf-8")) for part in parts]
    values = [load_file(part / "values.safetensors") for part in parts]
    rows = runs[0]["rows"]
    for name, row in rows.items():
        others = [run["rows"][name] for run in runs[1:] if name in run["rows"]]
        if "error" in row:
            continue
        assert all(other["tensors"] == row["tensors"] for other in others), name
        for own in values:
            assert name not in own or np.allclose(own[name], values[0][name], rtol=1e-7, atol=1e-9, equal_nan=True), (
                name
            )
        every = [{key: one[key] for key in ("config", "tokenizer", "loads")} for one in (row, *others)]
        if len({one["tokenizer"]["numbers"] for one in every}) > 1:  # numbers that change from run to run
            for one in every:
                one["config"] |= {key: None for key in one["config"] if key in {*SPECIAL, "generation"}}
                one["tokenizer"] |= {"numbers": None, "ids": None}
        different = [one for n, one in enumerate(every) if one not in every[:n]]
        if len(different) > 1:
            row["also"] = different[1:]
    return rows, runs[0]["models"], values[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RECIPES, metavar="DIR")
    parser.add_argument("--only", metavar="TEXT", help="only the recipes whose name contains this")
    parser.add_argument("--one-run", action="store_true", help="a part of the recording, as the script starts it")
    parser.add_argument("--again", action="store_true", help="likewise: only recipes whose result may be another")
    asked = parser.parse_args()
    if asked.one_run:
        record(asked.out, asked.only, again=asked.again)
        return
    with tempfile.TemporaryDirectory() as name:
        parts = [Path(name) / str(seed) for seed in range(RUNS)]
        for seed, part in enumerate(parts):
            command = [sys.executable, __file__, "--one-run", "--out", str(part)]
            command += ["--again"] if seed else []
            command += ["--only", asked.only] if asked.only else []
            subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": str(seed)}, check=True)
        rows, models, values = together(parts)
    layouts: list[Any] = []  # lists of tensors that several results share are written once
    for row in rows.values():
        if "tensors" in row:
            if row["tensors"] not in layouts:
                layouts.append(row["tensors"])
            row["tensors"] = layouts.index(row["tensors"])
    packages = ("mergekit", "torch", "transformers", "tokenizers", "numpy")
    made = {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "models": models,
        "strings": digest(strings()),
        "layouts": layouts,
        "cases": rows,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "recorded.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(values, asked.out / "values.safetensors")


if __name__ == "__main__":
    main()
