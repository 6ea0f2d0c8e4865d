"""SCE: select the elements in which the models differ most, calculate coefficients, erase minorities
(FuseChat, arXiv 2408.07990).

Positions as different as the least different kept one are all kept. The spread is the standard deviation, since it
stays in float32's range where the variance would not; their orders are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, isnan
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.protocol import CHUNK
from netweight.merging.course import Copy, Course, Subject
from netweight.merging.method import Base, Method, Setting
from netweight.merging.select import count_of, select_scores
from netweight.merging.trims import INT8_MASK

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["METHODS"]


_STEP = 2 * CHUNK  # elements at a time: all that lies between stays in the cache


def _differences(x: Array) -> Array:
    """float64 [models, count]: differences taken in the type of `x`."""
    with np.errstate(invalid="ignore", over="ignore"):
        d: Array = (x[1:] - x[0]).astype(np.float64)
        return d


def _spread_of(d: Array, kind: np.dtype[Any]) -> Array:
    """`kind` [count]: the standard deviation (ddof 0) over the models."""
    with np.errstate(invalid="ignore", over="ignore"):
        rest = d - d.sum(axis=0) / len(d)
        rest *= rest
        spread: Array = np.sqrt(rest.sum(axis=0) / len(d)).astype(kind)
        return spread


@dataclass(frozen=True)
class _Spread:
    """The standard deviation of the models' differences at every element, rounded to the width of blocks."""

    bits: int
    whole_rows: bool = False

    def scores(self, x: Array, start: int) -> Array:  # noqa: ARG002 - the protocol's
        spreads = np.empty(x.shape[1], x.dtype)
        for first in range(0, len(spreads), _STEP):
            spreads[first : first + _STEP] = _spread_of(_differences(x[:, first : first + _STEP]), x.dtype)
        return spreads


@dataclass(frozen=True)
class _Selected:
    """The differences at the elements whose spread is `least` or more, 0 at the others; NaN stays."""

    least: float

    def differences(self, x: Array) -> Array:
        d = _differences(x)
        if self.least > 0:
            d[:, _spread_of(d, x.dtype) < self.least] = 0
        return d


@dataclass(frozen=True)
class _Energies:
    """A look: per model the sum of squares of the selected differences that are finite, by chunks of CHUNK elements."""

    selected: _Selected
    in_any_order: ClassVar[bool] = False
    whole_rows: bool = False

    def empty(self, inputs: int) -> list[Array]:
        return [np.zeros((inputs - 1, 1))]

    def add(self, statistic: list[Array], x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        for first in range(0, x.shape[1], CHUNK):
            d = self.selected.differences(x[:, first : first + CHUNK])
            d[~np.isfinite(d)] = 0
            statistic.append((d * d).sum(axis=1)[:, None])

    def merged(self, statistics: Sequence[list[Array]]) -> Array:
        """float64 [models]."""
        chunks: Array = np.concatenate([chunk for stretch in statistics for chunk in stretch], axis=1)
        return np.array([fsum(row) for row in chunks])


@dataclass(frozen=True)
class _Erased:
    """The write: base + the mean, weighted by `coefficients`, of the selected d_i with the sign of their sum."""

    selected: _Selected
    coefficients: tuple[float, ...]
    whole_rows: bool = False
    inputs: tuple[int, ...] | None = None

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        for first in range(0, x.shape[1], _STEP):
            part = x[:, first : first + _STEP]
            with np.errstate(invalid="ignore", over="ignore"):
                d = self.selected.differences(part)
                sign = np.sign(d.sum(axis=0))
                moved, weight = np.zeros(d.shape[1]), np.zeros(d.shape[1])
                d *= sign  # above zero where it agrees
                for own, coefficient in zip(d, self.coefficients, strict=True):
                    weight += coefficient * (own > 0)
                    moved += coefficient * np.maximum(own, 0)
                weight[weight == 0] = 1
                step = (moved * sign / weight).astype(x.dtype)
                out[first : first + _STEP] = np.where(step == 0, part[0], part[0] + step)


def _sce(subject: Subject) -> Course:
    size = subject.size
    kept = count_of(float(subject.settings["select_topk"]), size)
    if kept == 0:
        return Copy(0)
    spread = _Spread(subject.bits)
    least = 0.0
    if kept < size:
        (least,) = yield from select_scores(subject, spread, [size - kept])
    selected = _Selected(inf if isnan(least) else least)
    energies = yield _Energies(selected)
    if not energies.any():
        energies += 1  # nothing moves, but what is not finite shows
    total = float(energies.sum())
    return _Erased(selected, tuple(float(e) / total for e in energies))


METHODS = (
    Method(
        name="sce",
        title="SCE: select, calculate, erase",
        formula="base + sum_A(w_i d_i) / sum_A(w_i) where the d_i vary most, w_i = sum d_i^2 / sum of all, "
        "A = those with sgn(d_i) = sgn(sum d_i)",
        source="arXiv 2408.07990",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(
            Setting(
                "select_topk",
                "Share of the elements, those that vary most, that is kept.",
                default=1.0,
                low=0.0,
                high=1.0,
            ),
            INT8_MASK,
        ),
        course=_sce,
    ),
)
