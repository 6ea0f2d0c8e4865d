"""Record what mergekit makes of small models, for netweight's tests: tests/merging/recorded/.

    benchmarks/mergekit/setup.sh
    benchmarks/mergekit/.venv/bin/python benchmarks/mergekit/record.py

mergekit is a black box here: its command `mergekit-yaml` is called with each recipe of recipes.py on the models of
tests/merging/small_models.py, in one process, because its start takes seconds. `cases.json` holds the recipes, what
became of each tensor name, and the moments of random methods; `outputs.safetensors` the tensors, named
`case number/tensor`. A recipe that mergekit refuses is recorded with its error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
TESTS = HERE.parents[1] / "tests" / "merging"
sys.path.insert(0, str(TESTS))

from recipes import CASES, SAMPLE, Case  # noqa: E402
from small_models import FAMILIES, moments  # noqa: E402

Tensors = dict[str, torch.Tensor]

# The model card would ask the hub whether each folder's name is a repository there.
OPTIONS = ["--no-write-model-card", "--no-copy-tokenizer", "--quiet", "--random-seed", "7"]


def mergekit_yaml(recipe: Path, out: Path) -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="mergekit-yaml")
    command.load()([str(recipe), str(out), *OPTIONS], standalone_mode=False)


def of_family(recipe: Any, family: str) -> Any:
    """The recipe with `family/` before each model: mergekit remembers under a path what it opened there."""
    if isinstance(recipe, list):
        return [of_family(entry, family) for entry in recipe]
    if not isinstance(recipe, dict):
        return recipe
    named = {"base_model", "model"}
    return {key: f"{family}/{value}" if key in named else of_family(value, family) for key, value in recipe.items()}


def run(text: str, folder: Path) -> tuple[Tensors, str]:
    """The output's tensors, and the error where there are none."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    (folder / "recipe.yml").write_text(text, encoding="utf-8")
    with contextlib.chdir(folder):
        try:
            mergekit_yaml(folder / "recipe.yml", out)
        except Exception as problem:  # whatever it is, it is what mergekit says
            return {}, f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
    tensors: Tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TESTS / "recorded", metavar="DIR")
    parser.add_argument("--only", metavar="TEXT", help="only the cases whose name contains this")
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    kept: Tensors = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in FAMILIES.values():
            family.write(folder / family.name)
        for case in CASES:
            if asked.only and asked.only not in case.name:
                continue
            text = yaml.safe_dump(of_family(case.recipe, case.family), sort_keys=False)
            tensors, error = run(text, folder)
            row: dict[str, Any] = {"name": case.name, "family": case.family, "recipe": text}
            if error:
                row["error"] = error
            else:
                row |= recorded(case, tensors, len(found), kept)
            found.append(row)
            print(case.name, error or row.get("moments", ""), file=sys.stderr, flush=True)
    versions = {
        package: importlib.metadata.version(package) for package in ("mergekit", "torch", "transformers", "numpy")
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "cases.json").write_text(json.dumps({"versions": versions, "cases": found}, indent=1) + "\n")
    save_file(kept, asked.out / "outputs.safetensors")


def recorded(
    case: Case, tensors: dict[str, torch.Tensor], number: int, kept: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The row's further fields; tensors to be kept are put into `kept`."""
    shapes = FAMILIES[case.family].shapes
    row: dict[str, Any] = {"dtypes": sorted({str(w.dtype).removeprefix("torch.") for w in tensors.values()})}
    row |= {"dropped": sorted(shapes.keys() - tensors.keys()), "added": sorted(tensors.keys() - shapes.keys())}
    if case.moments:
        weights = FAMILIES[case.family].models()
        name = "model.embed_tokens.weight"
        merged = tensors[name].numpy().astype(np.float64)
        row["moments"] = moments(merged, [weights[model][name] for model in "ab"])
        return row
    for name, tensor in tensors.items():
        if case.full or any(part in name for part in SAMPLE):
            kept[f"{number}/{name}"] = tensor.contiguous()
    return row


if __name__ == "__main__":
    main()
