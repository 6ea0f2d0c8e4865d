"""What a matrix is beside noise of its size, and beside its siblings: those of its shape whose names differ in numbers.

A matrix of independent numbers of one variance s^2 has its largest singular value near s (sqrt rows + sqrt cols)
(Marchenko and Pastur 1967; Bai and Yin 1993, Annals of Probability 21, 3), whatever their distribution; training makes
directions beyond that edge. Thresholds are those that `benchmarks/health` chose; docs/measures/health.md has its table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["LEAST_SIDE", "NEAR_NOISE", "Beside", "Training", "beside_siblings", "noise_ratio", "pattern_of"]
__all__ += ["UNLIKE", "training_of", "whole_of"]

Measures = Mapping[str, Mapping[str, Any]]

NEAR_NOISE = 1.05
"""Times the edge of noise; a model whose median is at most this is near its initialisation."""

UNLIKE = 1.25
"""Times the edge that the siblings of a matrix like noise have in the median."""

LEAST_SIDE = 16
"""Shorter sides tell too little of the edge."""

_MANY = 16
_WHOLE = 0.9  # of the rank: zero rows up to a tenth raise the ratio of noise by 3% at most
_FEW = 3  # matrices that a median needs
_NUMBERS = re.compile(r"(?<![^.\[])[0-9]+(?![^.\]])")
_DIGITS = re.compile(r"[0-9]+")


def pattern_of(name: str) -> str:
    """A name with `*` for the numbers of layers, experts and parts."""
    return _NUMBERS.sub("*", name)


def whole_of(part: str) -> str:
    """The name of the matrix that a part of a fused projection is in: `c_attn.weight` of `c_attn.weight[q_proj]`,
    `gate_up_proj[3]` of `gate_up_proj[3.gate_proj]`.
    """
    tensor, _, label = part.rpartition("[")
    above = label.rstrip("]").rpartition(".")[0]
    return f"{tensor}[{above}]" if above else tensor


def _number(measures: Measures, *fields: str) -> float | None:
    for field in fields:
        measure, _, name = field.partition(".")
        value = measures.get(measure, {}).get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _rms(measures: Measures, shape: tuple[int, int]) -> float | None:
    """Root mean square of the elements; None where no measure tells, or it is 0."""
    norm = _number(measures, "basic_stats.l2", "spectral.frobenius_norm")
    if norm is None and (square := _number(measures, "tail.norm")) is not None:
        norm = math.sqrt(square)
    return norm / math.sqrt(shape[0] * shape[1]) if norm else None


def noise_ratio(measures: Measures, shape: tuple[int, int]) -> float | None:
    """sigma_1 / (rms (sqrt rows + sqrt cols)); None where that is not known, a side is below LEAST_SIDE, or singular
    values are missing: products of a low rank (adapters) and matrices with dead rows are no noise, trained or not.
    """
    largest, rms = _number(measures, "spectral.max_singular_value", "tail.sv_max"), _rms(measures, shape)
    rank = _number(measures, "spectral.actual_rank")
    if rank is not None and rank < _WHOLE * min(shape):
        return None
    least = _number(measures, "tail.sv_min")  # where the rank is not known
    if rank is None and least is not None and largest is not None and least <= 1e-6 * largest:
        return None
    if largest is None or rms is None or min(shape) < LEAST_SIDE:
        return None
    return largest / (rms * (math.sqrt(shape[0]) + math.sqrt(shape[1])))


@dataclass(frozen=True)
class Training:
    """`ratio`: the median of noise_ratio over `matrices` of them."""

    ratio: float
    matrices: int

    @property
    def trained(self) -> bool:
        """Whether the model is told from one that was never trained."""
        return self.ratio > NEAR_NOISE

    @property
    def said(self) -> str:
        """In a sentence, with its evidence."""
        verdict = "trained" if self.trained else "near its initialisation"
        return (
            f"{verdict}: the largest singular value is {self.ratio:.2f} times that of noise of the same size and"
            f" variance, in the median of {self.matrices} matrices; weights that were never trained have at most"
            f" {NEAR_NOISE:g}"
        )


def training_of(ratios: Sequence[float]) -> Training | None:
    """The verdict from the noise ratios of a model's matrices; None for fewer than three."""
    return Training(median(ratios), len(ratios)) if len(ratios) >= _FEW else None


@dataclass(frozen=True)
class Beside:
    """A matrix beside its siblings. `scale`: its rms over the median of theirs, or the inverse, whichever is above 1.
    `noise`: its noise ratio where theirs are far from noise; `copy`: the sibling before it whose values it has. None
    where it has fewer than two siblings, where they do not tell, or no measure does.
    """

    scale: float | None = None
    noise: float | None = None
    copy: str | None = None


_VALUES = (
    *(f"basic_stats.{field}" for field in ("l2", "l1", "mean", "min", "max", "skew", "kurtosis_excess")),
    *("spectral.max_singular_value", "tail.sv_max"),
)


def beside_siblings(rows: Sequence[tuple[str, Measures]], shapes: Mapping[str, tuple[int, int]]) -> dict[str, Beside]:
    """{name: what it is beside its siblings} of the matrices among (name, measures)."""
    groups: dict[tuple[str, tuple[int, int]], list[tuple[str, Measures]]] = {}
    for name, measures in rows:
        if name in shapes and min(shapes[name]) > 1:
            groups.setdefault((_DIGITS.sub("*", name), shapes[name]), []).append((name, measures))
    found: dict[str, Beside] = {}
    for (_, shape), members in groups.items():
        if len(members) > 1:
            found |= _beside(members, shape)
    return found


def _beside(members: Sequence[tuple[str, Measures]], shape: tuple[int, int]) -> dict[str, Beside]:
    sizes = {name: rms for name, measures in members if (rms := _rms(measures, shape)) is not None}
    ratios = {name: ratio for name, measures in members if (ratio := noise_ratio(measures, shape)) is not None}
    usual_sizes, usual_ratios = _of_others(sizes), _of_others(ratios)
    seen: dict[tuple[float | None, ...], str] = {}
    found = {}
    for name, measures in members:
        values = tuple(_number(measures, field) for field in _VALUES)
        told = values[0] is not None and values[4] != values[3]  # constants say nothing
        copy = seen.setdefault(values, name) if told else name
        found[name] = Beside(
            scale=_folded(sizes[name], usual_sizes.get(name)) if name in sizes else None,
            noise=ratios[name] if usual_ratios.get(name, 0.0) >= UNLIKE else None,
            copy=copy if copy != name else None,
        )
    return found


def _of_others(values: Mapping[str, float]) -> dict[str, float]:
    """{name: the median of the others}, empty for fewer than two; of many that of all, which one hardly moves."""
    if len(values) > _MANY:
        return dict.fromkeys(values, median(values.values()))
    if len(values) <= 2:
        return {}
    return {name: median(value for other, value in values.items() if other != name) for name in values}


def _folded(value: float, usual: float | None) -> float | None:
    return max(value / usual, usual / value) if usual else None
