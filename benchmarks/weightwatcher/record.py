"""Record what WeightWatcher says of small matrices, for netweight's tests: tests/measures/weightwatcher_values.json.

    benchmarks/weightwatcher/setup.sh
    benchmarks/weightwatcher/.venv/bin/python benchmarks/weightwatcher/record.py [--realweights DIR]

Each matrix is the weight of a torch.nn.Linear without bias (or Embedding) and analysed by itself with
`WeightWatcher(model).analyze()`: with default options, and with those of FURTHER, of which the columns that differ are
kept. No GPU, where WeightWatcher would round the weights to float16.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import logging
import math
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}

import numpy as np
import torch

import weightwatcher

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "measures"
sys.path.insert(0, str(TESTS))

from weightwatcher_matrices import build  # noqa: E402

Recipe = dict[str, Any]

SILERO = "snakers4__silero-vad__src_silero_vad_data_silero_vad_16k.safetensors"
LITTLE_GPT = "JunSuzukiJapan__tl__model_2digit@f262cc.safetensors"
LEFT_OUT = {"layer_id", "name", "longname", "layer_type", "has_esd", "rf"}


def gaussian(rows: int, cols: int, seed: int, scale: float = 0.02, **more: Any) -> Recipe:
    return {"kind": "gaussian", "rows": rows, "cols": cols, "seed": seed, "scale": scale, **more}


def pareto(rows: int, cols: int, seed: int, tail: float, scale: float = 0.005) -> Recipe:
    return {"kind": "pareto", "rows": rows, "cols": cols, "seed": seed, "tail": tail, "scale": scale}


def trained(rows: int, cols: int, seed: int, rank: int, decay: float, noise: float = 0.02, **more: Any) -> Recipe:
    shape = {"kind": "trained", "rows": rows, "cols": cols, "seed": seed}
    return {**shape, "rank": rank, "decay": decay, "noise": noise, "scale": 20.0, **more}


def tensor(file: str, name: str) -> Recipe:
    return {"kind": "file", "file": file, "tensor": name}


def diagonal(*values: float) -> Recipe:
    return {"kind": "diagonal", "values": list(values)}


CASES: dict[str, Recipe] = {
    **{f"gaussian {r}x{c}": gaussian(r, c, r + c) for r, c in [(64, 64), (100, 300), (300, 100), (512, 512)]},
    **{f"gaussian {r}x{c}": gaussian(r, c, r + c) for r, c in [(768, 64), (256, 1024), (50, 5000)]},
    "gaussian of std 1": gaussian(200, 250, 1, 1.0),
    "gaussian of std 1e4": gaussian(100, 120, 2, 1e4),
    "heavy 0.8": pareto(200, 200, 3, 0.8),
    "heavy 1.5": pareto(256, 512, 4, 1.5),
    "heavy 2.5": pareto(512, 256, 5, 2.5),
    "heavy 4": pareto(150, 600, 6, 4.0),
    "trained, slow": trained(256, 256, 7, 200, 0.5),
    "trained, medium": trained(384, 1536, 8, 300, 0.8),
    "trained, fast": trained(768, 768, 9, 500, 1.2),
    "trained, a few spikes": trained(300, 400, 10, 5, 0.3),
    "trained, bfloat16": trained(256, 320, 11, 128, 0.7, stored="bfloat16"),
    "trained, float16": trained(320, 256, 12, 128, 0.7, stored="float16"),
    "trained, float64": trained(200, 220, 13, 128, 0.7, stored="float64"),
    "embedding": trained(2000, 64, 14, 64, 0.6, layer="embedding"),
    "some eigenvalues below 1e-5": gaussian(128, 128, 15, 3e-4),
    "7 above 1e-5": diagonal(*[0.01 * i for i in range(1, 8)], *[1e-3] * 20),
    "none above 1e-5": gaussian(64, 64, 16, 1e-5),
    "8 eigenvalues": gaussian(8, 100, 17),
    "12 eigenvalues": trained(12, 40, 18, 8, 0.7),
    "19 eigenvalues": gaussian(30, 19, 19),
    "20 eigenvalues": gaussian(20, 30, 20),
    "21 eigenvalues": trained(21, 21, 21, 21, 0.5),
    "rank 30 of 96": trained(96, 96, 22, 30, 0.5, noise=0.0),
    "rank 1": trained(64, 80, 23, 1, 0.5, noise=0.0),
    "zero": gaussian(32, 32, 24, 0.0),
    "equal values": diagonal(*[2.0] * 30),
    "pairs of equal values": diagonal(*[0.1 * (1 + i // 2) for i in range(60)]),
    "lstm input": tensor(SILERO, "lstm_cell.weight_ih"),
    "lstm hidden": tensor(SILERO, "lstm_cell.weight_hh"),
    "attention": tensor(LITTLE_GPT, "b.a.a.W"),
    "mlp": tensor(LITTLE_GPT, "b.m.f.W"),
}

FURTHER: dict[str, dict[str, Any]] = {
    "clip_xmax": {"fix_fingers": "clip_xmax"},
    "xmin_peak": {"fix_fingers": "xmin_peak", "pl_package": "powerlaw"},
    "random": {"ERG": True, "mp_fit": True, "randomize": True},
}
SEED = 7
"""Of numpy's global generator before each analysis: what `randomize` draws from."""

CONVOLUTIONS: dict[str, Recipe] = {
    "conv 64x32x3x3": {**trained(64, 288, 30, 40, 0.6), "shape": [64, 32, 3, 3]},
    "conv 32x64x1x1": {**trained(32, 64, 31, 20, 0.5), "shape": [32, 64, 1, 1]},
    "conv 24x48x5x5": {**gaussian(24, 1200, 32), "shape": [24, 48, 5, 5]},
    "conv 40x40x3x2": {**pareto(40, 240, 33, 2.0), "shape": [40, 40, 3, 2]},
    "conv 16x9x3x3 of rank 5": {**trained(16, 81, 34, 5, 0.5, noise=0.0), "shape": [16, 9, 3, 3]},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "svd_method accurate": {"svd_method": "accurate"},
    "pl_package powerlaw": {"pl_package": "powerlaw"},
    "pl_package powerlaw, xmax force": {"pl_package": "powerlaw", "xmax": "force"},
}
"""What options of analyze() change, on one matrix: for the documents, no test reads them."""


def model_of(recipe: Recipe, realweights: Path) -> torch.nn.Sequential:
    weight = torch.from_numpy(build(recipe, realweights).copy())
    if recipe.get("layer") == "embedding":
        return torch.nn.Sequential(torch.nn.Embedding.from_pretrained(weight))
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight.data = weight
    return torch.nn.Sequential(linear)


def analyse(model: torch.nn.Module, **options: Any) -> dict[str, Any]:
    """WeightWatcher's row of the only layer, without names; infinities and NaN as text."""
    np.random.seed(SEED)  # noqa: NPY002 - the generator that WeightWatcher draws from
    with redirect_stdout(io.StringIO()):
        details = weightwatcher.WeightWatcher(model=model).analyze(**options)
    row = details.iloc[0].to_dict()
    return {name: plain(value) for name, value in row.items() if name not in LEFT_OUT}


def plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realweights", type=Path, default=ROOT.parent / "shared" / "realweights", metavar="DIR")
    parser.add_argument("--out", type=Path, default=TESTS / "weightwatcher_values.json", metavar="FILE")
    asked = parser.parse_args()
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    cases = []
    for name, recipe in CASES.items():
        model = model_of(recipe, asked.realweights)
        columns = analyse(model)
        further = {key: analyse(model, **options) for key, options in FURTHER.items()}
        changed = {
            key: {column: value for column, value in row.items() if column not in columns or columns[column] != value}
            for key, row in further.items()
        }
        cases.append({"name": name, "recipe": recipe, "columns": columns, **changed})
        print(name, columns["alpha"], file=sys.stderr)
    convolutions = []
    for name, recipe in CONVOLUTIONS.items():
        weight = torch.from_numpy(build(recipe).astype("float32").reshape(recipe["shape"]).copy())
        layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False)
        layer.weight.data = weight
        convolutions.append({"name": name, "recipe": recipe, "columns": analyse(torch.nn.Sequential(layer))})
    sample = model_of(CASES["trained, medium"], asked.realweights)
    found = {
        "versions": {name: importlib.metadata.version(name) for name in ("weightwatcher", "torch", "numpy", "scipy")},
        "seed": SEED,
        "cases": cases,
        "convolutions": convolutions,
        "options": {name: analyse(sample, **options) for name, options in OPTIONS.items()},
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
