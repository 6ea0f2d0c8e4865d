"""Matrices from recipes: benchmarks/weightwatcher/record.py gives them to WeightWatcher, test_tail.py to netweight.

Only numpy and safetensors are needed, because the two run in different environments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def build(recipe: dict[str, Any], realweights: Path | None = None) -> np.ndarray:
    """The matrix [rows, cols], float32 or float64 (`stored`), that a recipe describes; the same on every machine."""
    matrix = _KINDS[recipe["kind"]](recipe, realweights)
    stored = recipe.get("stored", "float32")
    if stored == "bfloat16":  # cut off after 8 bits of mantissa; how it is rounded does not matter here
        return (matrix.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    if stored == "float16":
        return matrix.astype(np.float16).astype(np.float32)
    return matrix.astype(stored)


def _random(recipe: dict[str, Any]) -> np.random.RandomState:
    return np.random.RandomState(recipe["seed"])


def _gaussian(recipe: dict[str, Any], _: Path | None) -> np.ndarray:
    shape = (recipe["rows"], recipe["cols"])
    return _random(recipe).standard_normal(shape) * recipe["scale"]


def _pareto(recipe: dict[str, Any], _: Path | None) -> np.ndarray:
    """Elements of a random sign with a tail of the exponent `tail`."""
    random, shape = _random(recipe), (recipe["rows"], recipe["cols"])
    return random.choice([-1.0, 1.0], shape) * (1 + random.pareto(recipe["tail"], shape)) * recipe["scale"]


def _trained(recipe: dict[str, Any], _: Path | None) -> np.ndarray:
    """A sum of `rank` outer products whose strengths fall as a power, and noise: what a trained layer looks like."""
    random, rank = _random(recipe), recipe["rank"]
    left = random.standard_normal((recipe["rows"], rank)) / recipe["rows"] ** 0.5
    right = random.standard_normal((rank, recipe["cols"])) / recipe["cols"] ** 0.5
    strengths = recipe["scale"] * np.arange(1, rank + 1) ** -recipe["decay"]
    noise = random.standard_normal((recipe["rows"], recipe["cols"])) * recipe["noise"]
    return (left * strengths) @ right + noise


def _diagonal(recipe: dict[str, Any], _: Path | None) -> np.ndarray:
    return np.diag(np.array(recipe["values"], dtype=np.float64))


def _file(recipe: dict[str, Any], realweights: Path | None) -> np.ndarray:
    from safetensors.numpy import load_file

    assert realweights is not None
    return load_file(realweights / recipe["file"])[recipe["tensor"]]


_KINDS = {"gaussian": _gaussian, "pareto": _pareto, "trained": _trained, "diagonal": _diagonal, "file": _file}
