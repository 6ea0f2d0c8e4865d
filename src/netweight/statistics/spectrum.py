"""The singular values of a matrix, and the ranks that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, isfinite, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from netweight.kernels.spectrum import Method

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array
    from netweight.kernels.spectrum import SpectrumAccumulator
    from netweight.statistics.values import Values

__all__ = ["ACTUAL", "EFFECTIVE", "EPS", "EPS_SINGLE", "Spectrum"]

EPS = 2.0**-52
"""The epsilon of float64, in which spectra are computed: a matrix with sigma_r <= sigma_1 max(rows, cols) EPS is
singular."""

EPS_SINGLE = 2.0**-23
"""The epsilon of float32: `matrix_rank` uses it, as torch.linalg.matrix_rank does for a float32 matrix."""

EFFECTIVE, ACTUAL = 0.01, 1e-6
"""Shares of sigma_1 above which `effective_rank` and `actual_rank` count."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """sigma_1 >= sigma_2 >= ... of a rows x cols matrix.

    values: float64 [k]; square_sum: of all elements; error: a bound of the values' absolute errors, over sigma_1;
    complete: k = min(rows, cols), else the k largest; zeros: values at the end that are exactly 0. Where the spectrum
    is undefined `reason` says why, and `values` is empty or NaN. Derived values are nan where they are unknown.
    """

    values: F64Array
    rows: int
    cols: int
    square_sum: float
    method: Method
    error: float
    complete: bool
    reason: str = ""
    zeros: int = 0

    @classmethod
    def of(cls, accumulator: SpectrumAccumulator) -> Spectrum:
        """The result of an accumulator; raises ValueError where it has not seen all rows."""
        rows, cols = accumulator.rows, accumulator.cols
        result = accumulator.singular_values()
        values, reason = result.values, result.reason
        if values is None:
            values = np.full(min(rows, cols), nan)
        elif len(values) and not isfinite(values[0]):
            reason = "singular values beyond float64"
        return cls(
            values, rows, cols, result.square_sum, result.method, result.error, result.complete, reason, result.zeros
        )

    @classmethod
    def of_vector(cls, rows: int, cols: int, values: Values) -> Spectrum:
        """Of a matrix of one row or one column, or of no elements: its norm."""
        if not min(rows, cols):
            return cls(np.zeros(0), rows, cols, 0.0, "zero", 0.0, complete=True)
        reason = "elements that are NaN or infinite" if values.n_nan or values.n_inf else ""
        norm = values.moments.l2
        if not reason and not isfinite(norm):
            reason = "singular values beyond float64"
        value = np.array([nan if values.n_nan or values.n_inf else norm])
        error = EPS * sqrt(rows * cols)
        method: Method = "gram" if norm else "zero"
        return cls(value, rows, cols, values.moments.square_sum, method, error, complete=True, reason=reason)

    @classmethod
    def undefined(cls, rows: int, cols: int, reason: str) -> Spectrum:
        """Of a matrix whose singular values could not be computed, for this `reason`."""
        return cls(np.zeros(0), rows, cols, nan, "gram", inf, complete=False, reason=reason)

    @property
    def total(self) -> int:
        """min(rows, cols): how many singular values there are."""
        return min(self.rows, self.cols)

    @property
    def defined(self) -> bool:
        """There are singular values, and they are numbers."""
        return not self.reason and len(self.values) > 0

    @property
    def zero(self) -> bool:
        """All elements are zero."""
        return self.defined and self.largest == 0.0

    @property
    def largest(self) -> float:
        """sigma_1."""
        return float(self.values[0]) if self.defined else nan

    @property
    def smallest(self) -> float:
        """sigma_r, r = min(rows, cols)."""
        return float(self.values[-1]) if self.defined and self.complete else nan

    @cached_property
    def _shares(self) -> F64Array:
        """sigma / sigma_1: squares of these stay inside float64."""
        return self.values / self.largest

    @property
    def ratio(self) -> float:
        """sigma_r / sigma_1; nan where all are 0."""
        if not self.defined or not self.complete or self.zero:
            return nan
        return float(self._shares[-1])

    @property
    def resolved(self) -> bool:
        """The smallest value is larger than its error, or as exact as float64 allows."""
        if not self.defined or not self.complete:
            return False
        return self.method != "gram" or self.zeros > 0 or self.total == 1 or self.ratio > self.error

    @property
    def singular(self) -> bool | None:
        """sigma_r <= sigma_1 max(rows, cols) 2^-52; None where sigma_r is not known well enough to say."""
        if not self.resolved:
            return None
        return self.zero or self.ratio <= max(self.rows, self.cols) * EPS

    @property
    def condition_number(self) -> float:
        """sigma_1 / sigma_r; inf where singular."""
        if self.singular is None:
            return nan
        return inf if self.singular else 1.0 / self.ratio

    @property
    def condition_number_error(self) -> float:
        """A bound of its relative error; inf where sigma_r is within its own error of zero."""
        if not self.defined or not self.complete:
            return nan
        if self.zero or self.ratio <= self.error:
            return inf
        return self.error / (self.ratio - self.error)

    @cached_property
    def _squares(self) -> float:
        """Sum of all sigma^2 in units of sigma_1^2."""
        if not self.defined or self.zero:
            return nan
        if self.complete:
            return float(np.square(self._shares).sum())
        square = self.largest * self.largest
        usable = isfinite(self.square_sum) and isfinite(square) and square > 0.0
        return self.square_sum / square if usable else nan

    @property
    def frobenius_norm(self) -> float:
        """sqrt(sum sigma^2), of all elements also where only the largest values are known."""
        if not self.defined:
            return nan
        return 0.0 if self.zero else self.largest * sqrt(self._squares)

    @property
    def nuclear_norm(self) -> float:
        """Sum of sigma."""
        return float(self.values.sum()) if self.defined and self.complete else nan

    @property
    def stable_rank(self) -> float:
        """Sum of sigma^2 / sigma_1^2; nan where all are 0."""
        return self._squares

    @property
    def entropy_rank(self) -> float:
        """exp(-sum p ln p), p = sigma / sum sigma (Roy and Vetterli 2007); nan where all are 0."""
        if not self.defined or not self.complete or self.zero:
            return nan
        p = self._shares[self._shares > 0.0]
        p = p / p.sum()
        return exp(-float((p * np.log(p)).sum()))

    def above(self, edge: float) -> int:
        """How many of the known sigma are above `edge`."""
        return int(np.count_nonzero(self.values > edge))

    def rest(self, count: int) -> float:
        """Sum of the sigma^2 of all known values but the `count` largest."""
        return float(np.square(self.values[count:]).sum())

    def rank(self, share: float) -> float:
        """How many sigma > share * sigma_1; nan where more than the known ones may be."""
        if not self.defined:
            return 0 if not self.total and not self.reason else nan
        if self.zero:
            return 0
        above = int(np.count_nonzero(self._shares > share))
        return above if self.complete or above < len(self.values) else nan

    @property
    def effective_rank(self) -> float:
        """sigma > 0.01 sigma_1."""
        return self.rank(EFFECTIVE)

    @property
    def actual_rank(self) -> float:
        """sigma > 1e-6 sigma_1."""
        return self.rank(ACTUAL)

    @property
    def matrix_rank(self) -> float:
        """sigma > sigma_1 max(rows, cols) eps of float32, as numpy and torch count for a float32 matrix."""
        return self.rank(max(self.rows, self.cols) * EPS_SINGLE)

    def rank_of_share(self, share: float) -> tuple[float, int]:
        """The least k with sum_{i<=k} sigma_i^2 >= share * sum sigma^2, and a lower bound of it.

        nan and the bound where k is above the number of known values.
        """
        if not self.defined:
            return (0, 0) if not self.total and not self.reason else (nan, 0)
        if self.zero:
            return 0, 0
        if not isfinite(self._squares):
            return nan, 1
        k = int(np.searchsorted(np.cumsum(np.square(self._shares)), share * self._squares)) + 1
        return (k, k) if k <= len(self.values) else (nan, k)
