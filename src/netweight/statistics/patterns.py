"""The histogram of bit patterns: for 8- and 16-bit floats it holds a tensor's whole distribution, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from netweight.dtypes import DTYPES, DType, Kind
from netweight.kernels.arrays import Array, U64Array
from netweight.statistics.moments import Moments
from netweight.statistics.order import quantiles_of_counts

__all__ = ["FewPatterns", "PatternHistogram"]


@cache
def _values(name: str) -> Array:
    """float64 [2^bits]: the value of every pattern."""
    dtype = DTYPES[name]
    patterns = np.arange(1 << dtype.bits, dtype=np.uint8 if dtype.bits == 8 else np.uint16)
    with np.errstate(invalid="ignore"):
        return patterns.view(dtype.to_numpy()).astype(np.float64)


@dataclass(frozen=True)
class PatternHistogram:
    """How often each bit pattern of an 8- or 16-bit float type occurs: `counts` uint64 [256 | 65536]."""

    dtype: DType
    counts: U64Array

    @classmethod
    def empty(cls, dtype: DType) -> PatternHistogram:
        """No elements yet; raises TypeError for types other than 8- and 16-bit floats."""
        if dtype.kind is not Kind.FLOAT or dtype.bits not in (8, 16):
            msg = f"{dtype} has no histogram of bit patterns: expected an 8- or 16-bit float type"
            raise TypeError(msg)
        return cls(dtype, np.zeros(1 << dtype.bits, np.uint64))

    def merge(self, other: PatternHistogram) -> PatternHistogram:
        """Of the elements of both; raises ValueError where the types differ."""
        if self.dtype != other.dtype:
            msg = f"histograms of {self.dtype} and {other.dtype} do not merge"
            raise ValueError(msg)
        return PatternHistogram(self.dtype, self.counts + other.counts)

    @property
    def n(self) -> int:
        """Elements."""
        return int(self.counts.sum())

    @property
    def n_nan(self) -> int:
        """Elements that are NaN."""
        return int(self.counts[np.isnan(_values(self.dtype.name))].sum())

    @property
    def n_inf(self) -> int:
        """Elements that are infinite."""
        return int(self.counts[np.isinf(_values(self.dtype.name))].sum())

    @property
    def n_zero(self) -> int:
        """Elements that are zero, of either sign."""
        return int(self.counts[_values(self.dtype.name) == 0].sum())

    def distinct(self) -> tuple[Array, U64Array]:
        """The finite values that occur, ascending (float64 [k]; both zeros may occur), and how often (uint64 [k])."""
        values = _values(self.dtype.name)
        used = np.flatnonzero((self.counts > 0) & np.isfinite(values))
        used = used[np.argsort(values[used], kind="stable")]
        return values[used], self.counts[used]

    def moments(self) -> Moments:
        """Over the finite values."""
        return Moments.of_counts(*self.distinct())

    def quantiles(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        """Over the finite values, numpy's "linear" rule; empty where there are none."""
        return quantiles_of_counts(*self.distinct(), probabilities)


@dataclass(frozen=True)
class FewPatterns:
    """The same of few elements: only the `patterns` that occur, ascending, and how often, uint64 [k]."""

    dtype: DType
    patterns: Array
    counts: U64Array

    @classmethod
    def of(cls, dtype: DType, elements: Array) -> FewPatterns:
        """Of the patterns of all elements, uint16 [n]."""
        ordered = np.sort(elements, kind="stable")  # by digits: np.unique compares
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(ordered), 1), np.bool_), ordered[1:] != ordered[:-1]]))
        return cls(dtype, ordered[starts], np.diff(starts, append=len(ordered)).astype(np.uint64))

    @property
    def n(self) -> int:
        """Elements."""
        return int(self.counts.sum())

    @property
    def n_nan(self) -> int:
        """Elements that are NaN."""
        return int(self.counts[np.isnan(self._values)].sum())

    @property
    def n_inf(self) -> int:
        """Elements that are infinite."""
        return int(self.counts[np.isinf(self._values)].sum())

    @cached_property
    def _values(self) -> Array:
        values: Array = _values(self.dtype.name)[self.patterns]
        return values

    def distinct(self) -> tuple[Array, U64Array]:
        """See PatternHistogram."""
        used = np.flatnonzero(np.isfinite(self._values))
        used = used[np.argsort(self._values[used], kind="stable")]
        return self._values[used], self.counts[used]
