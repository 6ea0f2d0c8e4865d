"""Exact order statistics of magnitudes or scores, by radix selection in looks: no sort, no sample.

The bits of non-negative floating-point numbers are in the order of their values, NaN after infinity. A look counts the
leading 16 bits, which tells the bin, of 65,536, of the value of a rank. Values without further bits are the smallest of
their bin and are counted apart; nearly all differences of neighbouring bfloat16 numbers are such values. A rank among
them is settled. For the others, the next look counts the next 16 bits under the same prefix: two looks at most for
float32, four for float64.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.packing import Packed, pack, unpack
from netweight.merging.course import Look, Subject
from netweight.statistics.order import bin_of, bits_to_values

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.merging import MergeKernels

__all__ = ["Score", "count_of", "kept_of", "select_magnitudes", "select_scores"]

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


def kept_of(density: float, size: int) -> int:
    """How many of `size` elements a density above zero keeps: floor(density * size), and at least one, since a
    parameter of few elements would lose all that its fine-tune learned.
    """
    return max(count_of(density, size), min(1, size)) if density else 0


def select_magnitudes(
    subject: Subject, ranks: Sequence[Sequence[int]]
) -> Generator[Look, Any, tuple[tuple[float, ...], ...]]:
    """Per model the values of |x[i] - x[0]| at these ranks, 0 being the smallest; NaN comes after infinity.

    `ranks` [models], each any number of ranks in any order; where there are none at all, no look is taken.
    """
    return (yield from _select(subject.size, None, subject.bits, ranks))


def select_scores(subject: Subject, score: Score, ranks: Sequence[int]) -> Generator[Look, Any, tuple[float, ...]]:
    """The values of `score` at these ranks, ascending from 0; NaN comes after infinity."""
    if any(not 0 <= rank < subject.size for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} of {subject.size} scores")
    (values,) = yield from _select(subject.size, score, score.bits, (ranks,))
    return values


@dataclass(frozen=True)
class _Open:
    """A rank whose value is not known yet: `local` among the values that begin with `prefix`."""

    model: int
    rank: int
    prefix: int
    local: int


@dataclass(frozen=True)
class _Counts:
    """Per model uint32 (or uint64) [prefixes, 65536]: how many, and how many of these have further bits."""

    counts: tuple[Array, ...]
    finer: tuple[Array, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (tuple(map(pack, self.counts)), tuple(map(pack, self.finer)))


def _unpacked(counts: tuple[Packed, ...], finer: tuple[Packed, ...]) -> _Counts:
    return _Counts(tuple(map(unpack, counts)), tuple(map(unpack, finer)))


@dataclass(frozen=True)
class _Digits:
    """A look that counts 16 bits of magnitudes, or of a score, under given prefixes; `size` elements in all."""

    in_any_order: ClassVar[bool] = True

    size: int
    score: Score | None
    level: int
    prefixes: Prefixes

    @property
    def whole_rows(self) -> bool:
        return self.score is not None and self.score.whole_rows

    def empty(self, inputs: int) -> _Counts:  # noqa: ARG002 - the protocol's
        counts, finer = ([np.zeros((len(own), 65536), np.uint32) for own in self.prefixes] for _ in range(2))
        return _Counts(tuple(counts), tuple(finer))

    def add(self, statistic: _Counts, x: Array, start: int, kernels: MergeKernels) -> None:
        if self.score is None:
            kernels.count_magnitudes(x, self.level, self.prefixes, statistic.counts, statistic.finer)
        else:
            scores = self.score.scores(x, start)
            kernels.count_scores(scores, self.level, self.prefixes[0], statistic.counts[0], statistic.finer[0])

    def merged(self, statistics: Sequence[_Counts]) -> _Counts:
        """The sums, in the first stretch's arrays where 32 bits hold them."""
        kind = np.uint64 if self.size >> 32 else np.uint32
        counts, finer = (
            tuple(own.astype(kind, copy=False) for own in part) for part in (statistics[0].counts, statistics[0].finer)
        )
        for other in statistics[1:]:
            for total, own in zip(counts + finer, other.counts + other.finer, strict=True):
                np.add(total, own, out=total)
        return _Counts(counts, finer)


@dataclass(frozen=True)
class _MagnitudeDigits(_Digits):
    """The same of magnitudes, in native blocks too."""

    def add_native(self, statistic: _Counts, native: Array, dtype: DType, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002
        kernels.count_magnitudes_native(native, dtype, self.level, self.prefixes, statistic.counts, statistic.finer)


def _select(
    size: int, score: Score | None, width: int, ranks: Sequence[Sequence[int]]
) -> Generator[Look, Any, tuple[tuple[float, ...], ...]]:
    values: list[dict[int, float]] = [{} for _ in ranks]
    open_ranks = [_Open(model, rank, 0, rank) for model, own in enumerate(ranks) for rank in sorted(set(own))]
    level = 0
    while open_ranks:
        prefixes = tuple(
            tuple(sorted({one.prefix for one in open_ranks if one.model == model})) for model in range(len(ranks))
        )
        look = _MagnitudeDigits if score is None else _Digits
        counted: _Counts = yield look(size, score, level, prefixes)
        left = []
        for one in open_ranks:
            row = prefixes[one.model].index(one.prefix)
            counts, finer = counted.counts[one.model][row], counted.finer[one.model][row]
            number, local = bin_of(counts, one.local)
            prefix = one.prefix << 16 | number
            if local >= int(counts[number] - finer[number]):
                left.append(replace(one, prefix=prefix, local=local))
            else:
                bits = prefix << (width - 16 * (level + 1))
                values[one.model][one.rank] = float(bits_to_values(np.array([bits], np.uint64), width)[0])
        open_ranks = left
        level += 1
    return tuple(tuple(values[model][rank] for rank in own) for model, own in enumerate(ranks))
