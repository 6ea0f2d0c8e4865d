"""Central moments, norms and extremes that merge: the sums of two stretches of a tensor give those of both."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

__all__ = ["EMPTY", "Moments"]


@dataclass(frozen=True)
class Moments:
    """Of the finite values x: `n` of them, their `mean`, m2, m3, m4 = sum (x - mean)^k, `l1` = sum abs(x), min and max.

    Merging follows Pebay 2008 (SAND2008-6212). Population moments: variances divide by n. Where n = 0, the derived
    values are NaN but for the norms, which are 0. Squares beyond the range of float64 give infinite norms.
    """

    n: int
    mean: float
    m2: float
    m3: float
    m4: float
    l1: float
    minimum: float
    maximum: float

    @classmethod
    def of_counts(cls, values: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> Moments:
        """Of `counts[i]` times `values[i]`: float64 [k] finite, and any integers [k] above zero."""
        if not len(values):
            return EMPTY
        n = int(counts.sum())
        weight = counts.astype(np.float64)  # numpy's sums, not BLAS: theirs depend on the number of threads
        least, most = float(values.min()), float(values.max())
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(np.sum(weight * values)) / n
            e = values - mean
            mean += float(np.sum(weight * e)) / n  # the second pass removes what rounding left
            e = values - mean
            square = e * e
            return cls(
                n,
                mean,
                float(np.sum(weight * square)),
                float(np.sum(weight * (square * e))),
                float(np.sum(weight * (square * square))),
                float(np.sum(weight * np.abs(values))),
                least,
                most,
            )

    @classmethod
    def of_sums(cls, sums: np.ndarray[Any, Any]) -> Moments:
        """From a kernel's float64 [8]: n, mean, M2, M3, M4, sum of abs, min, max."""
        n, mean, m2, m3, m4, l1, least, most = (float(v) for v in sums)
        return cls(int(n), mean, m2, m3, m4, l1, least, most) if n else EMPTY

    def merge(self, other: Moments) -> Moments:
        """Of the values of both."""
        if not self.n or not other.n:
            return self if self.n else other
        a, b = float(self.n), float(other.n)
        n = a + b
        d = other.mean - self.mean
        d_n = d / n
        return Moments(
            self.n + other.n,
            self.mean + d_n * b,
            self.m2 + other.m2 + d * d_n * a * b,
            self.m3 + other.m3 + d * d_n * d_n * a * b * (a - b) + 3 * d_n * (a * other.m2 - b * self.m2),
            self.m4
            + other.m4
            + d * d_n * d_n * d_n * a * b * (a * a - a * b + b * b)
            + 6 * d_n * d_n * (a * a * other.m2 + b * b * self.m2)
            + 4 * d_n * (a * other.m3 - b * self.m3),
            self.l1 + other.l1,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @property
    def constant(self) -> bool:
        """All values are equal; central moments are then free of rounding."""
        return self.n > 0 and self.minimum == self.maximum

    @property
    def average(self) -> float:
        """The mean."""
        if not self.n:
            return float("nan")
        return self.minimum if self.constant else self.mean

    @property
    def square_sum(self) -> float:
        """Sum of x^2."""
        if self.constant:
            return self.n * self.minimum * self.minimum
        return self.m2 + self.n * self.mean * self.mean if self.n else 0.0

    @property
    def l2(self) -> float:
        """sqrt(sum x^2)."""
        return sqrt(self.square_sum)

    @property
    def maxabs(self) -> float:
        """max abs(x), 0 where there are no values."""
        return max(abs(self.minimum), abs(self.maximum)) if self.n else 0.0

    @property
    def std(self) -> float:
        """sqrt(m2 / n)."""
        if not self.n:
            return float("nan")
        return 0.0 if self.constant else sqrt(self.m2 / self.n)

    @property
    def skew(self) -> float:
        """m3 / m2^1.5 of the population moments; 0 where m2 = 0."""
        if not self.n:
            return float("nan")
        variance = 0.0 if self.constant else self.m2 / self.n
        cube = variance * sqrt(variance)
        return (self.m3 / self.n) / cube if cube else 0.0

    @property
    def kurtosis_excess(self) -> float:
        """m4 / m2^2 - 3 of the population moments; 0 where m2 = 0."""
        if not self.n:
            return float("nan")
        variance = 0.0 if self.constant else self.m2 / self.n
        square = variance * variance
        return (self.m4 / self.n) / square - 3.0 if square else 0.0


EMPTY = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0, inf, -inf)
"""The moments of nothing: merging with it changes nothing."""
