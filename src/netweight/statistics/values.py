"""Statistics of all elements of a matrix, whatever their position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netweight.kernels.arrays import Array, U64Array
from netweight.statistics.difference import PROBABILITIES
from netweight.statistics.histogram import Histogram, histogram_of_values
from netweight.statistics.moments import Moments
from netweight.statistics.order import quantiles_of_counts
from netweight.statistics.patterns import FewPatterns, PatternHistogram

__all__ = [
    "ABS_PROBABILITIES",
    "ABS_QUANTILES",
    "COUNTS",
    "HISTOGRAM",
    "INT8",
    "MOMENTS",
    "NEEDS",
    "OUTSIDE",
    "QUANTILES",
    "SPARSITY",
    "THRESHOLDS",
    "Int8Sums",
    "Outside",
    "Values",
    "fences",
    "int8_scale",
    "of_distinct",
    "of_histogram",
    "thresholds_of",
]


MOMENTS, QUANTILES, ABS_QUANTILES = "values.moments", "values.quantiles", "values.abs_quantiles"
COUNTS, SPARSITY, OUTSIDE, INT8 = "values.counts", "values.sparsity", "values.outside", "values.int8"
HISTOGRAM = "values.histogram"

NEEDS = frozenset({MOMENTS, QUANTILES, ABS_QUANTILES, COUNTS, SPARSITY, OUTSIDE, INT8, HISTOGRAM})
"""The names by which measures ask for parts of `Values`; NaN, infinities and zeros are always counted."""

ABS_PROBABILITIES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""The quantiles of abs(x) that are taken, as fractions."""

THRESHOLDS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)
"""Magnitudes up to which elements are counted."""

_FENCES = (1.5, 3.0)


@dataclass(frozen=True)
class Int8Sums:
    """Symmetric per-tensor int8: scale = max abs / 127, x' = clamp(rint(x / scale), -128, 127) * scale.

    Sums over the finite elements, float64: of (x - x')^2, abs(x - x'), x x' and x'^2. Errors of a mean below
    2^-43 of the scale are rounding of x' and count as none.
    """

    scale: float
    error_square: float
    error_absolute: float
    product: float
    quantized_square: float

    @classmethod
    def of(cls, scale: float, n: int, sums: Sequence[float]) -> Int8Sums:
        """Of the four sums over n elements."""
        square, absolute, product, quantized = sums
        if absolute / n <= scale * 2.0**-43:
            return cls(scale, 0.0, 0.0, product, quantized)
        return cls(scale, square, absolute, product, quantized)


@dataclass(frozen=True)
class Outside:
    """Finite elements outside [low, high] = [q25 - k IQR, q75 + k IQR], IQR = q75 - q25, for k = 1.5 and 3."""

    low: float
    high: float
    count: int
    extreme_low: float
    extreme_high: float
    extreme_count: int


@dataclass(frozen=True)
class Values:
    """Of `n` elements, of which n_nan are NaN, n_inf infinite and n_zero zero of either sign.

    moments: of the finite ones; quantiles at PROBABILITIES and abs_quantiles at ABS_PROBABILITIES (of magnitudes), by
    numpy's "linear" rule: () where nothing is finite; at_most: {t: elements with abs(x) <= t} for the THRESHOLDS that
    were asked for (0 always); outside, int8: None where nothing is finite; histogram: for a picture. What was not asked
    for is () or None. distinct: different finite values, None where they were not counted (large tensors with values
    of more than their leading 16 bits).
    """

    n: int
    n_nan: int
    n_inf: int
    n_zero: int
    moments: Moments
    quantiles: tuple[float, ...]
    abs_quantiles: tuple[float, ...]
    at_most: dict[float, int]
    outside: Outside | None
    int8: Int8Sums | None
    histogram: Histogram | None = None
    distinct: int | None = None


def thresholds_of(needs: frozenset[str]) -> tuple[float, ...]:
    """The thresholds that these needs ask for."""
    if COUNTS in needs:
        return THRESHOLDS
    return THRESHOLDS[:2] if SPARSITY in needs else THRESHOLDS[:1]


def fences(quantiles: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(low, high) of the outliers and of the extreme ones, from the quantiles at PROBABILITIES."""
    lower, upper = quantiles[PROBABILITIES.index(0.25)], quantiles[PROBABILITIES.index(0.75)]
    spread = upper - lower
    return tuple((lower - k * spread, upper + k * spread) for k in _FENCES)


def int8_scale(moments: Moments) -> float:
    """max abs / 127."""
    return moments.maxabs / 127


def of_histogram(histogram: PatternHistogram | FewPatterns, needs: frozenset[str]) -> Values:
    """Everything that `needs` names, exactly, from the bit patterns of 8- or 16-bit floats."""
    values, counts = histogram.distinct()
    return of_distinct(values, counts, (histogram.n, histogram.n_nan, histogram.n_inf), needs)


def of_distinct(values: Array, counts: U64Array, numbers: tuple[int, int, int], needs: frozenset[str]) -> Values:
    """Of values float64 [k], finite and ascending, that occur `counts` uint64 [k] times; `numbers`: n, n_nan, n_inf."""
    n, n_nan, n_inf = numbers
    moments = Moments.of_counts(values, counts)
    quantiles = quantiles_of_counts(values, counts, PROBABILITIES) if needs & {QUANTILES, OUTSIDE} else ()
    magnitudes = np.abs(values)
    abs_quantiles: tuple[float, ...] = ()
    if ABS_QUANTILES in needs:
        order = np.argsort(magnitudes, kind="stable")
        abs_quantiles = quantiles_of_counts(magnitudes[order], counts[order], ABS_PROBABILITIES)
    at_most = {t: int(counts[magnitudes <= t].sum()) for t in thresholds_of(needs)}
    outside = int8 = None
    if OUTSIDE in needs and moments.n:
        bounds = fences(quantiles)
        beyond = [int(counts[(values < low) | (values > high)].sum()) for low, high in bounds]
        outside = Outside(*bounds[0], beyond[0], *bounds[1], beyond[1])
    if INT8 in needs and moments.n:
        int8 = _int8(values, counts, moments)
    histogram = histogram_of_values(values, counts, moments) if HISTOGRAM in needs else None
    distinct = int(np.count_nonzero(np.diff(values))) + 1 if len(values) else 0  # both zeros are one
    sums = (moments, quantiles, abs_quantiles, at_most, outside, int8)
    return Values(n, n_nan, n_inf, at_most[0.0], *sums, histogram, distinct)


def _int8(values: Array, counts: U64Array, moments: Moments) -> Int8Sums:
    scale = int8_scale(moments)
    if not scale:
        return Int8Sums(0.0, 0.0, 0.0, 0.0, 0.0)
    weight = counts.astype(np.float64)
    with np.errstate(over="ignore"):
        back = np.clip(np.rint(values / scale), -128, 127) * scale
        e = values - back
        products = (e * e, np.abs(e), values * back, back * back)
        # numpy's sums, not BLAS: theirs depend on the number of threads
        return Int8Sums.of(scale, moments.n, [float(np.sum(weight * p)) for p in products])
