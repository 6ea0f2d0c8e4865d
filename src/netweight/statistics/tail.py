"""The power law in the tail of a spectrum: its exponent, the beginning of the tail, and the distance of the fit.

Method: Clauset, Shalizi, Newman (2009), "Power-law distributions in empirical data": every value is tried as the tail's
beginning, the exponent is the maximum-likelihood one, and the beginning whose fit is nearest in Kolmogorov-Smirnov
distance wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netweight.kernels.arrays import F64Array

__all__ = ["FEW", "LEAST", "TailFit", "fit_tail"]

LEAST = 8
"""Values that a fit needs (WeightWatcher's `min_evals`), and that a tail has when they are few."""

FEW = 20
"""Below so many values the exponent is corrected for its bias, as WeightWatcher 0.7.7 does."""

_PROBES = 128  # values of a tail that are tried before the whole tail
_BLOCK = 1024  # beginnings that are probed at a time: 1 MB for each temporary array
_NO_SPREAD = 1e-12  # a mean of ln(x / xmin) below it is rounding, not a distribution


@dataclass(frozen=True)
class TailFit:
    """density(x) ~ x^-alpha for x >= xmin.

    alpha: the exponent; xmin: the tail's first value, in the unit of the values; distance: the largest difference of
    the fitted and the empirical distribution function, D; sigma: alpha's standard error; tail: values in the tail.
    """

    alpha: float
    xmin: float
    distance: float
    sigma: float
    tail: int


def fit_tail(values: F64Array, error: float = 0.0) -> TailFit | None:
    """The best fit to positive `values` (float64 [n], ascending); None where they do not spread, or no more than a
    relative `error` of each can explain.

    For the tail x_i .. x_(n-1) of m values: alpha = 1 + m / sum ln(x_j / x_i), or 1 + (m - 1) / sum with fewer than 20
    values; D = max abs(1 - (x_j / x_i)^(1 - alpha) - (j - i) / m); sigma = (alpha - 1) / sqrt(m). Every i < n - 1 is a
    candidate; the least D wins, and of equal ones the longest tail. Exact: probes give a lower bound of each D, and a
    candidate is left out only where that bound is above the best D. Raises ValueError for fewer than 8 values.
    """
    if len(values) < LEAST:
        raise ValueError(f"a tail of {len(values)} values: expected at least {LEAST}")
    logs = np.log(values)
    sizes = np.arange(len(values), 1, -1)
    # sum of ln(x_j / x_i) over the tail of i, from that of i + 1: nothing cancels, as it would between sums of ln x
    sums = np.cumsum(((sizes - 1) * np.diff(logs))[::-1])[::-1]
    allowed = sums > max(_NO_SPREAD, 2 * error) * sizes
    few = len(values) < FEW
    if few:
        allowed &= sizes >= LEAST
    starts = np.flatnonzero(allowed)
    if not len(starts):
        return None
    slopes = (sizes[starts] - few) / sums[starts]
    bounds = _lower_bounds(logs, starts, slopes)
    best, won = np.inf, -1
    for c in np.argsort(bounds, kind="stable"):
        if bounds[c] > best:
            break
        distance = _distance(logs[starts[c] :], float(slopes[c]))
        if distance < best or (distance == best and c < won):
            best, won = distance, int(c)
    slope, tail = float(slopes[won]), int(sizes[starts[won]])
    return TailFit(1.0 + slope, float(values[starts[won]]), best, slope / tail**0.5, tail)


def _distance(logs: F64Array, slope: float) -> float:
    """D of the tail with these logarithms; slope = alpha - 1."""
    steps = np.arange(len(logs)) / len(logs)
    return float(np.abs(1.0 - np.exp(-slope * (logs - logs[0])) - steps).max())


def _lower_bounds(logs: F64Array, starts: np.ndarray[Any, Any], slopes: F64Array) -> F64Array:
    """float64 [starts]: D of each tail over at most _PROBES of its values."""
    bounds = np.empty(len(starts))
    shares = np.linspace(0.0, 1.0, _PROBES)
    for first in range(0, len(starts), _BLOCK):
        some = slice(first, first + _BLOCK)
        start = starts[some, None]
        size = len(logs) - start
        position = (shares * (size - 1)).astype(np.int64)
        model = np.exp(-slopes[some, None] * (logs[start + position] - logs[start]))
        bounds[some] = np.abs(1.0 - model - position / size).max(axis=1)
    return bounds
