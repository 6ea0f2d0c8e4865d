"""Two models compared with plain torch, as scripts of this kind do it, both whole in memory.

    python benchmarks/compare_torch.py A B --output FILE.json

Per parameter: distances, cosine, changed weights, sign flips and the differences' moments, of float32 copies. Nothing
is slowed down: a difference is formed once, and torch uses the threads it chooses.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from baseline_torch import load_model


def compare(a: torch.Tensor, b: torch.Tensor) -> dict[str, float | dict[str, float]]:
    a, b = a.float().flatten(), b.float().flatten()
    delta = b - a
    size = delta.abs()
    norm_a, norm_b = torch.linalg.vector_norm(a).item(), torch.linalg.vector_norm(b).item()
    distance = torch.linalg.vector_norm(delta).item()
    products = norm_a * norm_b
    return {
        "l2_distance": distance,
        "relative_l2_distance": distance / norm_a if norm_a else 0.0,
        "cosine_similarity": torch.dot(a, b).item() / products if products else 0.0,
        "mean_absolute_difference": size.mean().item(),
        "max_absolute_difference": size.max().item(),
        "significant_change_percentage": 100 * (size / (a.abs() + 1e-10) > 0.01).float().mean().item(),
        "identical_percentage": 100 * (a == b).float().mean().item(),
        "sign_flip_percentage": 100 * (a.sign() * b.sign() < 0).float().mean().item(),
        "difference_stats": {
            "mean": delta.mean().item(),
            "std": delta.std(unbiased=False).item(),
            "min": delta.min().item(),
            "max": delta.max().item(),
        },
        "mean_diff": (b.mean() - a.mean()).item(),
        "std_diff": (b.std(unbiased=False) - a.std(unbiased=False)).item(),
        "l2_norm_ratio": norm_b / norm_a if norm_a else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    asked = parser.parse_args()
    started = time.perf_counter()
    first, second = load_model(asked.a), load_model(asked.b)
    loaded = time.perf_counter()
    common = [name for name in first if name in second and first[name].shape == second[name].shape]
    found = {name: compare(first[name], second[name]) for name in common}
    asked.output.write_text(json.dumps({"layer_comparisons": found}, indent=2) + "\n", encoding="utf-8")
    print(f"load {loaded - started:.1f} s, compare {time.perf_counter() - loaded:.1f} s")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
