"""Exact order statistics of magnitudes or scores, by radix selection in looks: no sort, no sample.

The bits of non-negative floating-point numbers are in the order of their values, NaN after infinity. A look counts the
leading 16 bits; that tells in which of 65,536 bins the value of a rank lies, and it is the value itself where nothing
in the bin has further bits, as with differences of neighbouring bfloat16 numbers. Else the next look counts the next
16 bits of what begins like it: two looks at most for float32, four for float64.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from netweight.merging.course import Look, Subject
from netweight.statistics.order import bits_to_values

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["Score", "count_of", "select_magnitudes", "select_scores"]

Array: TypeAlias = np.ndarray[Any, Any]
Prefixes: TypeAlias = tuple[tuple[int, ...], ...]


class Score(Protocol):
    """A non-negative number for every element. Frozen."""

    @property
    def whole_rows(self) -> bool:
        """Whether blocks must be whole rows."""
        ...

    @property
    def bits(self) -> int:
        """32 or 64: the width of the scores."""
        ...

    def scores(self, x: Array, start: int) -> Array:
        """float32 or float64 [count] of a block as looks get it: never below zero, and no negative zero."""
        ...


def count_of(share: float, size: int) -> int:
    """floor(share * size), with `share` taken as the decimal number that it was written as: 0.29 of 100 are 29."""
    return min(size, floor(Fraction(str(round(share, 12))) * size))


def select_magnitudes(
    subject: Subject, ranks: Sequence[Sequence[int]]
) -> Generator[Look, Any, tuple[tuple[float, ...], ...]]:
    """Per model the values of |x[i] - x[0]| at these ranks, 0 being the smallest; NaN comes after infinity.

    `ranks` [models], each any number of ranks in any order; where there are none at all, no look is taken.
    """
    return (yield from _select(None, subject.bits, ranks))


def select_scores(subject: Subject, score: Score, ranks: Sequence[int]) -> Generator[Look, Any, tuple[float, ...]]:
    """The values of `score` at these ranks, ascending from 0; NaN comes after infinity."""
    if any(not 0 <= rank < subject.size for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} of {subject.size} scores")
    (found,) = yield from _select(score, score.bits, (ranks,))
    return found


@dataclass(frozen=True)
class _Open:
    """A rank whose value is not known yet: `local` among the values that begin with `prefix`."""

    model: int
    rank: int
    prefix: int
    local: int


@dataclass(frozen=True)
class _Counts:
    """Per model uint32 (uint64 once merged) and uint8 [prefixes, 65536]: how many, and whether any has further bits."""

    counts: tuple[Array, ...]
    low: tuple[Array, ...]


@dataclass(frozen=True)
class _Digits:
    """A look that counts 16 bits of magnitudes, or of a score, under given prefixes."""

    score: Score | None
    level: int
    prefixes: Prefixes

    @property
    def whole_rows(self) -> bool:
        return self.score is not None and self.score.whole_rows

    def empty(self, inputs: int) -> _Counts:  # noqa: ARG002 - the protocol's
        return _Counts(
            tuple(np.zeros((len(own), 65536), np.uint32) for own in self.prefixes),
            tuple(np.zeros((len(own), 65536), np.uint8) for own in self.prefixes),
        )

    def add(self, found: _Counts, x: Array, start: int, kernels: MergeKernels) -> None:
        if self.score is None:
            used = [model for model, own in enumerate(self.prefixes) if own]
            if len(used) < len(self.prefixes):  # the others are settled, or keep everything
                x = x[[0, *(model + 1 for model in used)]]
            kernels.count_magnitudes(
                x,
                self.level,
                [self.prefixes[model] for model in used],
                [found.counts[model] for model in used],
                [found.low[model] for model in used],
            )
        else:
            scores = self.score.scores(x, start)
            kernels.count_scores(scores, self.level, self.prefixes[0], found.counts[0], found.low[0])

    def merged(self, found: Sequence[_Counts]) -> _Counts:
        counts, low = [], []
        for model, own in enumerate(self.prefixes):
            total, further = np.zeros((len(own), 65536), np.uint64), np.zeros((len(own), 65536), np.uint8)
            for each in found:
                total += each.counts[model]
                further |= each.low[model]
            counts.append(total)
            low.append(further)
        return _Counts(tuple(counts), tuple(low))


def _select(
    score: Score | None, width: int, ranks: Sequence[Sequence[int]]
) -> Generator[Look, Any, tuple[tuple[float, ...], ...]]:
    values: list[dict[int, float]] = [{} for _ in ranks]
    open_ranks = [_Open(model, rank, 0, rank) for model, own in enumerate(ranks) for rank in sorted(set(own))]
    level = 0
    while open_ranks:
        prefixes = tuple(
            tuple(sorted({one.prefix for one in open_ranks if one.model == model})) for model in range(len(ranks))
        )
        found: _Counts = yield _Digits(score, level, prefixes)
        left = []
        for one in open_ranks:
            row = prefixes[one.model].index(one.prefix)
            place, before = _bin_of(found.counts[one.model][row], one.local)
            prefix = one.prefix << 16 | place
            if found.low[one.model][row][place]:
                left.append(replace(one, prefix=prefix, local=one.local - before))
            else:
                bits = prefix << (width - 16 * (level + 1))
                values[one.model][one.rank] = float(bits_to_values(np.array([bits], np.uint64), width)[0])
        open_ranks = left
        level += 1
    return tuple(tuple(values[model][rank] for rank in own) for model, own in enumerate(ranks))


def _bin_of(counts: Array, rank: int) -> tuple[int, int]:
    """The bin of uint64 `counts` [65536] that holds this rank, and how many values are in those before it."""
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, np.uint64(rank), side="right"))
    return place, int(ends[place] - counts[place])
