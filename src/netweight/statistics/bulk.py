"""The bulk of a spectrum: the law of Marchenko and Pastur for a matrix of independent numbers, fitted to eigenvalues.

The fit is the one of WeightWatcher 0.7.7 (`mp_fit`): eigenvalues in units of their mean, a density of triangles of half
width 0.1 on 1,000 points, and the standard deviation whose law is nearest to it in squares. Its minimiser is a grid and
then Nelder and Mead's search in one dimension, restated here so that the same minimum is found among several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array

__all__ = ["Bulk", "beyond_noise", "fit_bulk"]

_POINTS = 1000
_HALF_WIDTH = 0.1  # of a triangle
_THIN = 0.01  # densities up to it are not fitted
_OUTSIDE = 1000.0  # the residual at every point where the law does not lie on the density
_TOLERANCE, _ROUNDS = 1e-4, 200  # of Nelder and Mead's search


@dataclass(frozen=True)
class Bulk:
    """sigma: of the law, where the mean eigenvalue is 1; low, high: its edges, in the unit of the eigenvalues; spikes:
    eigenvalues beyond the upper edge and its fluctuation (Tracy and Widom's scale); soft_rank: high / the largest
    eigenvalue; scale: sqrt(1 / the mean eigenvalue).
    """

    sigma: float
    low: float
    high: float
    spikes: int
    soft_rank: float
    scale: float


def fit_bulk(values: F64Array, long: int, short: int) -> Bulk | str:
    """The law nearest to eigenvalues (float64 [n], ascending, not negative) of long x short matrices, or why there is
    none.
    """
    scale = sqrt(len(values) / float(values.sum()))
    scaled = values * (scale * scale)
    aspect = long / short
    root = 1.0 / sqrt(aspect)
    largest = float(scaled[-1])
    square = long == short
    fitted = np.sqrt(scaled) if square else scaled
    points = np.linspace(0, fitted[-1] + 0.5, _POINTS)
    if points[1] > 2 * _HALF_WIDTH:
        return f"the largest eigenvalue is {largest:.3g} times the mean: the grid of the fit does not resolve the bulk"
    density = _density(fitted, points)
    kept = density > _THIN
    points, density = points[kept], density[kept]
    if not len(points):
        return "the density is below 0.01 everywhere"
    mode, last = float(points[np.argmax(density)]), float(points[-1])

    def misfit(sigma: float) -> float:
        if square:
            return float(np.square(_quarter_circle(points, sigma) - density).sum())
        low, high = (sigma * (1 - root)) ** 2, (sigma * (1 + root)) ** 2
        if high < mode or high > last or low > mode:
            return len(points) * _OUTSIDE**2
        return float(np.square(_marchenko_pastur(points, aspect, sigma, low, high) - density).sum())

    start = sqrt(largest) / (1 + root)
    grid = np.mgrid[slice(0.05 * start, 2.0 * start, 0.01 * start)]
    misfits = np.array([misfit(sigma) for sigma in grid])
    if not square and misfits.min() >= len(points) * _OUTSIDE**2:
        return "no law of Marchenko and Pastur lies on the density"
    sigma = _nelder_mead(misfit, float(grid[np.argmin(misfits)]))
    high, low = (sigma * (1 + root)) ** 2, (sigma * (1 - root)) ** 2
    return Bulk(
        sigma,
        low / (scale * scale),
        high / (scale * scale),
        _beyond(scaled, sigma, root, short),
        high / largest,
        scale,
    )


def beyond_noise(values: F64Array, long: int, short: int) -> int:
    """How many eigenvalues (float64 [n], one not 0) lie beyond the law of independent numbers of the same mean square,
    and its fluctuation.
    """
    return _beyond(values / float(values.mean()), 1.0, sqrt(short / long), short)


def _beyond(scaled: F64Array, sigma: float, root: float, short: int) -> int:
    high = (sigma * (1 + root)) ** 2
    return int(np.count_nonzero(scaled > high + sqrt(root * high ** (2 / 3) * short ** (-2 / 3))))


def _density(values: F64Array, points: F64Array) -> F64Array:
    """The density of ascending `values` at `points`: the mean of triangles of area 1 around them."""
    h = _HALF_WIDTH
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first, middle, end = (np.searchsorted(values, points + shift, side="right") for shift in (-h, 0.0, h))
    below = (middle - first) * (h - points) + sums[middle] - sums[first]
    above = (end - middle) * (h + points) - (sums[end] - sums[middle])
    density: F64Array = np.maximum(below + above, 0.0) / (len(values) * h * h)
    return density


def _marchenko_pastur(x: F64Array, aspect: float, sigma: float, low: float, high: float) -> F64Array:
    """The density at `x`, 0 outside its edges."""
    inside = (high - x) * (x - low)
    found = np.zeros_like(x)
    at = (inside >= 0) & (x > 0)
    found[at] = np.sqrt(inside[at]) * aspect / (2 * np.pi * sigma * sigma * x[at])
    return found


def _quarter_circle(x: F64Array, sigma: float) -> F64Array:
    """WeightWatcher's law of singular values of a square matrix: its edge is at 2 whatever sigma is."""
    inside = 4.0 - np.square(x)
    return np.sqrt(np.maximum(inside, 0.0)) / (np.pi * sigma * sigma)


def _nelder_mead(function: Callable[[float], float], start: float) -> float:
    """A minimum near `start` as scipy's `fmin` finds it: two points, of which the worse moves."""
    best, worst = start, 1.05 * start
    at_best, at_worst = function(best), function(worst)
    if at_worst < at_best:
        best, worst, at_best, at_worst = worst, best, at_worst, at_best
    for _ in range(_ROUNDS):
        if abs(worst - best) <= _TOLERANCE and abs(at_worst - at_best) <= _TOLERANCE:
            break
        moved = best + (best - worst)
        found = function(moved)
        if found < at_best:
            further = best + 2 * (best - worst)
            at_further = function(further)
            worst, at_worst = (further, at_further) if at_further < found else (moved, found)
        else:
            outside = found < at_worst
            nearer = best + 0.5 * (best - worst) if outside else best - 0.5 * (best - worst)
            at_nearer = function(nearer)
            if at_nearer <= found if outside else at_nearer < at_worst:
                worst, at_worst = nearer, at_nearer
            else:
                worst = best + 0.5 * (worst - best)
                at_worst = function(worst)
        if at_worst < at_best:
            best, worst, at_best, at_worst = worst, best, at_worst, at_best
    return best
