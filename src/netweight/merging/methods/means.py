"""Means on the sphere: of directions, by logarithm and exponential maps, at the mean of the lengths.

With u_i = x_i / |x_i| and m a unit vector: log_m(u) = theta / sin(theta) (u - cos(theta) m), theta the angle between
them, and exp_m(v) = cos(|v|) m + sin(|v|) v / |v|. `multislerp` starts at the normalised mean of w_i u_i and moves once
by the mean of w_i log_m(u_i); with two models that is slerp. `karcher` repeats it, with equal weights, until a move is
shorter than tol: the point from which the squared angles are least. Everything is computed in coefficients of the u_i,
from the inner products that a look has gathered.

Zero vectors have no direction, and count in the mean length alone. The result is linear, sum w_i x_i, where the others
have no direction in common: the mean of the w_i u_i is no longer than eps (karcher: 1e-8) or than rounding alone can
make it, or some u_i is opposite to it (cos < -0.9995), or their weights cancel. It is linear too where inner products
are not finite.
"""

from __future__ import annotations

from math import fsum, pi, sqrt

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.merging.course import Copy, Course, Subject, without_looks
from netweight.merging.grams import GramLook
from netweight.merging.method import Base, Method, Setting
from netweight.merging.methods.linear import WEIGHT, cancelled, normalized, weights_of
from netweight.merging.methods.slerp import OPPOSITE
from netweight.merging.writes import Combine, combination
from netweight.statistics.rounding_error import cosine_error

__all__ = ["METHODS", "sphere_mean"]


_SHORTEST = 1e-8


def sphere_mean(
    gram: F64Array, weights: F64Array, *, terms: int, moves: int, tol: float = 0.0, eps: float = _SHORTEST
) -> F64Array:
    """Coefficients float64 [n] of the mean for weights [n] that add up to 1, after at most `moves` moves. `gram` holds
    sums of `terms` products.
    """
    norms = np.sqrt(np.diagonal(gram))
    used = np.flatnonzero((norms > 0) & (weights != 0))
    if not len(used) or not np.isfinite(gram).all():
        return weights
    cosines = np.clip(gram[np.ix_(used, used)] / norms[used] / norms[used][:, None], -1, 1)
    np.fill_diagonal(cosines, 1)
    share = weights[used]
    length = _length(share, cosines)
    if length <= max(eps, sqrt(cosine_error(terms))) * np.abs(share).sum() or cancelled(share):
        return weights
    mean = share / length
    share = share / share.sum()
    for _ in range(moves):
        near = np.clip(cosines @ mean, -1, 1)
        if near.min() < OPPOSITE:
            return weights
        towards = share / np.sinc(np.arccos(near) / pi)  # theta / sin(theta), 1 at 0
        move = towards - (towards @ near) * mean
        angle = _length(move, cosines)
        mean = np.cos(angle) * mean + np.sinc(angle / pi) * move
        if angle < tol:
            break
    coefficients = np.zeros_like(weights)
    coefficients[used] = (weights @ norms) * mean / norms[used]
    return coefficients


def _length(coefficients: F64Array, cosines: F64Array) -> float:
    return sqrt(max(float(coefficients @ cosines @ coefficients), 0.0))


def _write(subject: Subject, coefficients: F64Array) -> Combine | Copy:
    moves = coefficients.tolist()
    if not subject.base:
        return combination(moves, error=cosine_error(subject.size))
    return combination((1 - fsum(moves), *moves), total=1.0, base=True)


def _multislerp(subject: Subject) -> Course:
    shares = normalized(subject, "multislerp", "change them")
    used = [i for i, share in enumerate(shares) if share]
    if len(used) == 1 and subject.settings["normalize_weights"]:
        return without_looks(Copy(used[0] + subject.base))
    return _mean(subject, np.array(shares), fsum(weights_of(subject)))


def _mean(subject: Subject, shares: F64Array, total: float) -> Course:
    gram, eps = (yield GramLook(subject.base)), float(subject.settings["eps"])
    coefficients = sphere_mean(gram, shares, terms=subject.size, moves=1, eps=eps)
    return _write(subject, coefficients if subject.settings["normalize_weights"] else total * coefficients)


def _karcher(subject: Subject) -> Course:
    n = subject.models
    if n == 1:
        return without_looks(Copy(0))
    return _center(subject, np.full(n, 1 / n))


def _center(subject: Subject, shares: F64Array) -> Course:
    moves, tol = int(subject.settings["max_iter"]), float(subject.settings["tol"])
    return _write(subject, sphere_mean((yield GramLook()), shares, terms=subject.size, moves=moves, tol=tol))


METHODS = (
    Method(
        name="multislerp",
        title="Spherical interpolation of any number of models or task vectors",
        formula="sum(w_i |x_i|) exp_m(sum(w_i log_m(x_i / |x_i|))), m = the direction of sum(w_i x_i / |x_i|)",
        source="Buss and Fillmore 2001, Spherical averages and applications to spherical splines and interpolation",
        base=Base.OPTIONAL,
        models=(1, None),
        settings=(
            WEIGHT,
            Setting(
                "normalize_weights",
                "Whether weights are divided by their sum; else the result is longer by that sum.",
                kind="flag",
                default=True,
            ),
            Setting(
                "eps",
                "At this length the mean of the directions counts as 0, as where rounding alone can make it as long.",
                default=1e-8,
                low=0.0,
            ),
        ),
        course=_multislerp,
    ),
    Method(
        name="karcher",
        title="Karcher mean of directions",
        formula="mean(|x_i|) times the unit vector m where the sum of log_m(x_i / |x_i|) is 0",
        source="Karcher 1977, Riemannian center of mass and mollifier smoothing",
        base=Base.UNUSED,
        models=(1, None),
        settings=(
            Setting("max_iter", "Moves at most.", kind="integer", default=10, low=1),
            Setting("tol", "A move of a smaller angle, in radians, is the last.", default=1e-5, low=0.0),
        ),
        course=_karcher,
    ),
)
