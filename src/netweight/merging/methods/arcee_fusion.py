"""Arcee Fusion: take the other model's elements where they are important
(www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration).

The importance of an element is its difference times the Kullback-Leibler divergence between the softmax of its row in
the model and in the base. Elements that reach median + 1.5 * (upper quartile - lower quartile) are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netweight.kernels.arrays import Array
from netweight.merging.course import Copy, Course, Subject
from netweight.merging.method import Base, Method
from netweight.merging.select import select_scores
from netweight.statistics.order import interpolate, needed_ranks

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["METHODS", "row_divergences"]

_QUARTILES = (0.25, 0.5, 0.75)
_SMALL = 1e-2


def row_divergences(model: Array, base: Array) -> Array:
    """KL(softmax(model) || softmax(base)) of each row, float64 [rows], in nats; elements that are not finite in both
    are left out of both.

    With u = model - base, less its mean under p = softmax(model), the divergence is log E_p[exp(-u)] =
    log(1 + E_p[exp(-u) - 1 + u]). Where all of a row's u are small, the bracket is summed as a series: the divergence
    is then exact to rounding however close the rows are, and 0 where they are equal up to a constant.
    """
    model, base = model.astype(np.float64), base.astype(np.float64)
    usable = np.isfinite(model) & np.isfinite(base)
    whole = bool(usable.all())
    if not whole:
        model, base = np.where(usable, model, -np.inf), np.where(usable, base, -np.inf)
    p, log_p = _softmax(model)
    with np.errstate(invalid="ignore", over="ignore"):
        u = model - base
    if not whole:
        u[~usable] = 0
    u -= (p * u).sum(axis=1, keepdims=True)
    if not whole:
        u[~usable] = 0
    far = np.flatnonzero((np.abs(u) >= _SMALL).any(axis=1))
    u[far] = 0
    divergences: Array = np.log1p(
        (p * u * u * (0.5 - u * (1 / 6 - u * (1 / 24 - u * (1 / 120 - u / 720))))).sum(axis=1)
    )
    if len(far):
        _, log_q = _softmax(base[far])
        with np.errstate(invalid="ignore"):
            ratio = np.where(p[far] > 0, log_p[far] - log_q, 0)
        divergences[far] = np.maximum((p[far] * ratio).sum(axis=1), 0)
    return divergences


def _softmax(rows: Array) -> tuple[Array, Array]:
    """The softmax of each row and its logarithm; of a row of -inf alone, 0 and -inf."""
    top = rows.max(axis=1, keepdims=True)
    shifted = rows - np.where(np.isfinite(top), top, 0)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    total[total == 0] = 1
    return e / total, shifted - np.log(total)


@dataclass(frozen=True)
class _Divergences:
    """A look: the divergence of every row, float64 [rows]."""

    cols: int
    in_any_order: ClassVar[bool] = False
    whole_rows: bool = True

    def empty(self, inputs: int) -> list[Array]:  # noqa: ARG002 - the protocol's
        return [np.zeros(0)]

    def add(self, statistic: list[Array], x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        statistic.append(row_divergences(x[1].reshape(-1, self.cols), x[0].reshape(-1, self.cols)))

    def merged(self, statistics: Sequence[list[Array]]) -> Array:
        whole: Array = np.concatenate([part for stretch in statistics for part in stretch])
        return whole


@dataclass(frozen=True)
class _Importance:
    """|d| times the divergence of its row, in float64."""

    cols: int
    divergences: Array = field(compare=False)
    whole_rows: bool = False
    bits: int = 64

    def scores(self, x: Array, start: int) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            magnitudes = np.abs(x[1] - x[0]).astype(np.float64)
            first, count = start // self.cols, len(magnitudes)
            last = -(-(start + count) // self.cols)
            skipped = start - first * self.cols
            by_element = np.repeat(self.divergences[first:last], self.cols)[skipped : skipped + count]
            score: Array = np.where(np.isinf(magnitudes), magnitudes, magnitudes * by_element)
            return score


@dataclass(frozen=True)
class _Fused:
    """The write: the model's element, bit for bit, where it is important enough, else the base's."""

    importance: _Importance
    least: float
    whole_rows: bool = False
    inputs: tuple[int, ...] | None = None

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        score = self.importance.scores(x, start)
        with np.errstate(invalid="ignore"):
            # where the score is NaN the sum is NaN too, or both are the same infinity
            out[:] = np.where(score >= self.least, x[1], np.where(np.isnan(score), x[0] + x[1], x[0]))


def _fusion(subject: Subject) -> Course:
    if not subject.size:
        return Copy(0)
    divergences = yield _Divergences(subject.cols)
    importance = _Importance(subject.cols, divergences)
    ranks = needed_ranks(subject.size, _QUARTILES)
    values = yield from select_scores(subject, importance, ranks)
    lower, median, upper = interpolate(subject.size, _QUARTILES, dict(zip(ranks, values, strict=True)))
    return _Fused(importance, median + 1.5 * (upper - lower))


METHODS = (
    Method(
        name="arcee_fusion",
        title="Arcee Fusion",
        formula="model where s >= median(s) + 1.5 (q75(s) - q25(s)), else base; s = |d| KL(softmax(model row) || "
        "softmax(base row))",
        source="www.arcee.ai/blog, mergekit 0.1",
        base=Base.REQUIRED,
        models=(1, 1),
        settings=(),
        course=_fusion,
    ),
)
