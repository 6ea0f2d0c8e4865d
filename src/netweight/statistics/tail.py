"""The power law in the tail of a spectrum: its exponent, the beginning of the tail, and the distance of the fit.

Method: Clauset, Shalizi, Newman (2009), "Power-law distributions in empirical data": every value is tried as the tail's
beginning, the exponent is the maximum-likelihood one, and the beginning whose fit is nearest in Kolmogorov-Smirnov
distance wins. What WeightWatcher 0.7.7 does about fingers, a few eigenvalues far beyond the others, is here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netweight.kernels.arrays import F64Array

__all__ = ["FEW", "LEAST", "TailFit", "fit_tail", "fit_without_fingers", "peak_range"]

LEAST = 8
"""Values that a fit needs (WeightWatcher's `min_evals`), and that a tail has when they are few."""

FEW = 20
"""Below so many values the exponent is corrected for its bias, as WeightWatcher 0.7.7 does."""

_PROBES = 128  # values of a tail that are tried before the whole tail
_BLOCK = 1024  # beginnings that are probed at a time: 1 MB for each temporary array
_FINGERS = 10  # WeightWatcher's `max_fingers`
_FINGER = 1.0  # and its `finger_thresh`: how far alpha must fall for values to be fingers
_PLAIN = 2.0  # an alpha that nothing is cut off for, its `min_alpha`
_PEAK_BINS = 100
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


def fit_tail(values: F64Array, error: float = 0.0, within: tuple[float, float] | None = None) -> TailFit | None:
    """The best fit to positive `values` (float64 [n], ascending); None where they do not spread, or no more than a
    relative `error` of each can explain.

    For the tail x_i .. x_(n-1) of m values: alpha = 1 + m / sum ln(x_j / x_i), or 1 + (m - 1) / sum with fewer than 20
    values; D = max abs(1 - (x_j / x_i)^(1 - alpha) - (j - i) / m); sigma = (alpha - 1) / sqrt(m). Every i < n - 1 is a
    candidate; the least D wins, and of equal ones the longest tail. Exact: probes give a lower bound of each D, and a
    candidate is left out only where that bound is above the best D. `within`: the tail begins at a value from the
    first to the second of these, but for the largest of them, and no exponent is corrected (as powerlaw 1.5 reads a
    range). Raises ValueError for fewer than 8 values.
    """
    if len(values) < LEAST:
        raise ValueError(f"a tail of {len(values)} values: expected at least {LEAST}")
    logs = np.log(values)
    sizes = np.arange(len(values), 1, -1)
    # sum of ln(x_j / x_i) over the tail of i, from that of i + 1: nothing cancels, as it would between sums of ln x
    sums = np.cumsum(((sizes - 1) * np.diff(logs))[::-1])[::-1]
    allowed = sums > max(_NO_SPREAD, 2 * error) * sizes
    few = len(values) < FEW and within is None
    if few:
        allowed &= sizes >= LEAST
    if within is not None:
        inside = values[(values >= within[0]) & (values <= within[1])]
        allowed &= (values[:-1] >= within[0]) & (values[:-1] < (inside[-1] if len(inside) else -np.inf))
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


def fit_without_fingers(values: F64Array, whole: TailFit, error: float = 0.0) -> tuple[TailFit, int]:
    """The fit once fingers are cut off, and how many they are: `whole`, the fit to all `values`, and 0 without any.

    WeightWatcher's `fix_fingers="clip_xmax"`: the 2, 3, ... 9 largest values are left out until alpha has fallen by
    more than 1, or to 2. It counts one finger less than it leaves out, and so does this.
    """
    if whole.alpha <= _PLAIN:
        return whole, 0
    for cut in range(2, _FINGERS):
        if len(values) - cut < LEAST:
            break
        fit = fit_tail(values[:-cut], error)
        if fit is not None and fit.alpha + _FINGER < whole.alpha:
            return fit, cut - 1
        if fit is None or fit.alpha <= _PLAIN:
            break
    return whole, 0


def peak_range(values: F64Array) -> tuple[float, float]:
    """Where a tail may begin with WeightWatcher's `fix_fingers="xmin_peak"`, of ascending positive `values`.

    The peak is the left edge of the fullest of 100 bins of log10. The lower end is log10(0.95 peak), not 0.95 peak:
    WeightWatcher takes the logarithm of this end alone, so that it hardly ever excludes a value.
    """
    counts, edges = np.histogram(np.log10(values), bins=_PEAK_BINS)
    peak = 10.0 ** float(edges[np.argmax(counts)])
    return float(np.log10(0.95 * peak)), 1.5 * peak


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
