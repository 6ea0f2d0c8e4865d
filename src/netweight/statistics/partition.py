"""Rows in clusters: sizes and sums, from which the sums of squares within and between follow; two parts merge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from netweight.kernels.arrays import Array
from netweight.statistics.rounding_error import gamma

__all__ = ["Partition"]


_NOTHING = 1e-13  # of the whole sum of squares: at least so much counts as left by rounding


@dataclass(frozen=True)
class Partition:
    """`counts` int64 [k] and `sums` float64 [k, cols] of the rows of each cluster; `squares`: of all their elements."""

    counts: Array
    sums: Array
    squares: float

    def merge(self, other: Partition) -> Partition:
        """The statistic of both parts' rows."""
        return Partition(self.counts + other.counts, self.sums + other.sums, self.squares + other.squares)

    @property
    def rows(self) -> int:
        """Rows in all."""
        return int(self.counts.sum())

    @property
    def total_ss(self) -> float:
        """Sum of squared distances to the mean of all rows; 0 where rounding alone is left."""
        whole = self.sums.sum(axis=0)
        return self._above_rounding(self.squares - float(whole @ whole) / self.rows)

    @property
    def between_ss(self) -> float:
        """Sum over the rows of the squared distance from their cluster's mean to the mean of all; 0 where rounding
        alone is left.
        """
        whole, held = self.sums.sum(axis=0), self.counts > 0
        by_cluster = np.einsum("ij,ij->i", self.sums[held], self.sums[held]) / self.counts[held]
        return self._above_rounding(float(by_cluster.sum()) - float(whole @ whole) / self.rows)

    @property
    def within_ss(self) -> float:
        """Sum of squared distances to the mean of the row's cluster; 0 where rounding alone is left."""
        return self._above_rounding(self.total_ss - self.between_ss)

    def _above_rounding(self, left: float) -> float:
        """`left`, or 0 where that may be rounding: a difference of sums that are no larger than `squares`.

        A sum of rows passes through one rounding a row, and enters squared and summed over clusters and columns; the
        sum of squares itself is made in pieces.
        """
        clusters, cols = self.sums.shape
        return left if left > max(_NOTHING, 2 * gamma(3 * self.rows + clusters + cols)) * self.squares else 0.0

    def f_ratio(self) -> float:
        """One-way ANOVA's F over the clusters, both sums of squares taken over all columns: (between / (k - 1)) /
        (within / (n - k)); infinite where nothing is left within, NaN where it is not defined.

        Source: Calinski and Harabasz 1974. k counts the clusters that hold rows.
        """
        k, n = int((self.counts > 0).sum()), self.rows
        if k < 2 or n <= k:
            return math.nan
        within, between = self.within_ss, self.between_ss
        if within == 0:
            return math.inf if between > 0 else math.nan
        return (between / (k - 1)) / (within / (n - k))

    def means(self, instead: Array) -> Array:
        """The mean of each cluster, float64 [k, cols]; that of `instead` where a cluster holds nothing."""
        held = self.counts > 0
        means: Array = np.array(instead, np.float64)
        means[held] = self.sums[held] / self.counts[held, None]
        return means
