"""The power law with an exponential cut-off: density(x) ~ x^-alpha exp(-lambda x) for x >= xmin.

Source: Clauset, Shalizi, Newman (2009), table 2.1; Alstott, Bullmore, Plenz (2014), "powerlaw". The likelihood is that
of an exponential family with the means of ln x and x, and so concave: its maximum is found by Newton's method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import erfc, exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array

__all__ = ["Cutoff", "fit_cutoff"]

_PANELS, _NODES = 24, 16
_NOTHING = 45.0  # exp(-45) is below the precision of float64
_STEPS = 200
_NOTHING_GAINED = 1e-13  # of the mean log-likelihood, for twice a step's gain: its rounding
_NARROW = 1e-4  # mean ln x / xmin below which ten thousand values do not tell the two apart
_NO_CUTOFF = 1e-12  # of lambda xmin: nothing is cut off


@dataclass(frozen=True)
class Cutoff:
    """alpha: the exponent, at least 1; scale: lambda, 1 / the unit of the values, 0 for a plain power law; gain: by how
    much its log-likelihood is above the plain power law's, at least 0; chance: how often chance gives a plain power law
    so much (likelihood ratio, one degree of freedom).
    """

    alpha: float
    scale: float
    gain: float
    chance: float


def fit_cutoff(tail: F64Array) -> Cutoff:
    """The most likely one for the values of a tail (float64 [n], ascending, not all equal), which begins at tail[0].

    alpha is at least 1 and lambda at least 0, as powerlaw has it. Of a tail whose values hardly differ (an orthogonal
    matrix's) nothing is gained: both are one curve there.
    """
    ratios = tail / tail[0]
    means = np.array([np.log(ratios).mean(), ratios.mean()])
    plain = 1.0 + 1.0 / float(means[0])
    if means[0] < _NARROW:
        return Cutoff(plain, 0.0, 0.0, 1.0)
    alpha, cut = _most_likely(means, (1.0, 1.0 / float(means[1])), free=False)
    if _moments(alpha, cut)[1][0] > float(means[0]):  # a larger alpha is likelier
        alpha, cut = _most_likely(means, (alpha, cut), free=True)
    if cut < _NO_CUTOFF:
        return Cutoff(plain, 0.0, 0.0, 1.0)
    least = log(plain - 1.0) - plain * float(means[0])
    gain = max(0.0, len(tail) * (_likelihood(means, alpha, cut) - least))
    return Cutoff(alpha, cut / float(tail[0]), gain, erfc(sqrt(gain)))


def _most_likely(means: F64Array, start: tuple[float, float], *, free: bool) -> tuple[float, float]:
    """The best alpha (that of `start`, unless `free`) and lambda xmin, by Newton's steps, halved until they gain."""
    point = np.array(start)
    found = _likelihood(means, *point)
    for _ in range(_STEPS):
        expected, spread = _moments(*point)[1:]
        slope = expected - means
        step = np.linalg.solve(spread, slope) if free else np.array([0.0, slope[1] / spread[1, 1]])
        gain = float(slope @ step)
        if gain < _NOTHING_GAINED:
            break
        if point[1] + step[1] <= 0.0:
            step *= -0.9 * point[1] / step[1]
        better = _likelihood(means, *(point + step))
        while better < found:
            step /= 2
            better = _likelihood(means, *(point + step))
        point, found = point + step, better
        if point[1] < _NO_CUTOFF:
            break
    return float(point[0]), float(point[1])


def _likelihood(means: F64Array, alpha: float, cut: float) -> float:
    """Mean log-likelihood of x / xmin."""
    return -alpha * float(means[0]) - cut * float(means[1]) - _moments(alpha, cut)[0]


def _moments(alpha: float, cut: float) -> tuple[float, F64Array, F64Array]:
    """ln of the integral of u^-alpha exp(-cut u) from 1; the means of (ln u, u) under that density; their covariance.

    With t = ln u, by Gauss and Legendre on panels of equal length that end where nothing is left.
    """
    # the exponent (1 - alpha) t - cut e^t has its top at t = 0, or where cut e^t = 1 - alpha
    peak = max(0.0, log((1.0 - alpha) / cut)) if alpha < 1.0 else 0.0
    top = (1.0 - alpha) * peak - cut * exp(peak)
    end = log((_NOTHING + cut * exp(peak) + max(0.0, 1.0 - alpha) * 60.0) / cut)
    if alpha > 1.0:
        end = min(end, _NOTHING / (alpha - 1.0))
    nodes, weights = _rule()
    width = end / _PANELS
    t = (width * (np.arange(_PANELS)[:, None] + (nodes + 1.0) / 2)).ravel()
    u = np.exp(t)
    density = np.tile(weights * width / 2, _PANELS) * np.exp((1.0 - alpha) * t - cut * u - top)
    total = float(density.sum())
    density /= total
    pair = np.stack([t, u])
    mean = pair @ density
    away = pair - mean[:, None]
    return log(total) + top, mean, (away * density) @ away.T


@cache
def _rule() -> tuple[F64Array, F64Array]:
    """Nodes and weights of Gauss and Legendre on -1 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights
