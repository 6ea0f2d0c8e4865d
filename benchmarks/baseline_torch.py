"""The baseline: task vectors with plain torch, as scripts of this kind do it, models whole in memory.

    python benchmarks/baseline_torch.py --base B --models M1 M2 --outdir OUT

Per model: float32 difference of each parameter, its norms, moments and quantiles as one CSV row, norms per group in
summary.json. Then the cosine of each pair of models. Nothing is slowed down: torch uses the threads it chooses, and
where torch.quantile refuses a tensor for its size, numpy's quantile does it (five times faster than torch.sort would).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections import defaultdict
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

QUANTILES = [0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1]
COLUMNS = ["param", "shape", "l2", "l1", "maxabs", "mean", "std", "skew", "kurtosis_excess"]
COLUMNS += [f"q{round(100 * q)}" for q in QUANTILES]

seconds: dict[str, float] = defaultdict(float)


@contextmanager
def timed(stage: str):
    started = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - started


def load_model(folder: Path) -> dict[str, torch.Tensor]:
    with timed("load"):
        index = folder / "model.safetensors.index.json"
        if not index.is_file():
            return load_file(folder / "model.safetensors")
        state: dict[str, torch.Tensor] = {}
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            state.update(load_file(folder / shard))
        return state


def quantiles(delta: torch.Tensor) -> list[float]:
    with timed("quantiles"):
        try:
            return torch.quantile(delta, torch.tensor(QUANTILES)).tolist()
        except RuntimeError:  # more than 16 M elements
            return np.quantile(delta.numpy(), QUANTILES).tolist()


def row(name: str, shape: torch.Size, delta: torch.Tensor) -> list[object]:
    with timed("norms and moments"):
        mean = delta.mean()
        std = delta.std(unbiased=False)
        centred = delta - mean
        skew = kurtosis = 0.0
        if std > 0:
            z = centred / std
            skew = z.pow(3).mean().item()
            kurtosis = z.pow(4).mean().item() - 3
        sizes = [torch.linalg.vector_norm(delta).item(), delta.abs().sum().item(), delta.abs().max().item()]
        moments = [mean.item(), std.item(), skew, kurtosis]
    return [name, "x".join(map(str, shape)), *sizes, *moments, *quantiles(delta)]


def groups_of(name: str) -> list[str]:
    found = []
    if "embed" in name:
        found.append("embed")
    if "lm_head" in name:
        found.append("lm_head")
    if layer := re.search(r"layers\.(\d+)\.", name):
        found += ["layer", f"layer_{layer[1]}"]
    if "attn" in name:
        found.append("attn")
    if "mlp" in name:
        found.append("mlp")
    return found or ["other"]


def analyse(base: dict[str, torch.Tensor], model: dict[str, torch.Tensor], outdir: Path) -> None:
    outdir.mkdir(parents=True, exist_ok=True)
    rows: list[list[object]] = []
    groups: dict[str, dict[str, float]] = defaultdict(lambda: {"l2": 0.0, "l1": 0.0, "param_count_approx": 0})
    skipped = 0
    for name, weights in base.items():
        if name not in model or model[name].shape != weights.shape:
            skipped += 1
            continue
        delta = (model[name].float() - weights.float()).flatten()
        rows.append(row(name, weights.shape, delta))
        for group in ["global", *groups_of(name)]:
            groups[group]["l2"] += rows[-1][2] ** 2
            groups[group]["l1"] += rows[-1][3]
            groups[group]["param_count_approx"] += delta.numel()
    for group in groups.values():
        group["l2"] **= 0.5
    whole = groups.pop("global")
    write_csv(outdir / "per_param_stats.csv", rows)
    write_csv(outdir / "top50_by_l2.csv", sorted(rows, key=lambda r: -r[2])[:50])
    write_csv(outdir / "top50_by_maxabs.csv", sorted(rows, key=lambda r: -r[4])[:50])
    summary = {
        "global_l2": whole["l2"],
        "global_l1": whole["l1"],
        "n_params_considered": len(rows),
        "skipped_params": skipped,
        "groups": groups,
    }
    (outdir / "summary.json").write_text(json.dumps(summary, indent=2))


def write_csv(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def pairwise_cosines(base: dict[str, torch.Tensor], folders: list[Path], path: Path) -> None:
    models = [load_model(folder) for folder in folders]
    with timed("cosines"):
        dots = np.zeros((len(models), len(models)))
        for name, weights in base.items():
            reference = weights.float().flatten()
            deltas = [model[name].float().flatten() - reference for model in models]
            for i, delta in enumerate(deltas):
                dots[i, i] += torch.dot(delta, delta).item()
            for i, j in combinations(range(len(models)), 2):
                dots[i, j] += torch.dot(deltas[i], deltas[j]).item()
                dots[j, i] = dots[i, j]
        norms = np.sqrt(np.diag(dots))
        cosines = dots / np.outer(norms, norms)
    names = [folder.name for folder in folders]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *names])
        writer.writerows([name, *line] for name, line in zip(names, cosines.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--outdir", type=Path, default=Path("tv_stats"))
    asked = parser.parse_args()
    base = load_model(asked.base)
    for folder in asked.models:
        analyse(base, load_model(folder), asked.outdir / folder.name)
    pairwise_cosines(base, asked.models, asked.outdir / "pairwise_cosines.csv")
    print(", ".join(f"{stage} {taken:.1f} s" for stage, taken in seconds.items()))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
