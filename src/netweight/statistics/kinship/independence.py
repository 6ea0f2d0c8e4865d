"""Exact p-values of the hypothesis that two models were trained from independent random initialisations.

Hidden units of a layer are exchangeable at the start, and training treats them alike, so under the hypothesis any
permutation of the units of one model gives a model that was as likely (Zhu, Ahmed, Kuditipudi and Liang 2025,
"Independence Tests for Language Models", arXiv 2502.12292). Whatever is computed of the two, its rank among what the
permutations give is a p-value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, inf, lgamma, log, log10, sqrt

import numpy as np

from netweight.kernels.arrays import F32Array, F64Array

__all__ = [
    "UnitTest",
    "cosines",
    "fisher",
    "fisher_logs",
    "log_normal_tail",
    "log_poisson_tail",
    "permutations_for",
    "unit_test",
]

_FIRST = 999  # permutations that are drawn before it is asked whether more are needed
_ENOUGH = 200
_AT_ONCE = 1 << 22  # indices of permutations that are held at a time


@dataclass(frozen=True)
class UnitTest:
    """One test of `units`: `p` in (0, 1], of `permutations` that were drawn; `z` is the statistic in standard
    deviations of its distribution over all permutations (Hoeffding 1951), 0 where it is constant.
    """

    p: float
    z: float
    units: int
    permutations: int
    mean_cosine: float


def cosines(a: F32Array, b: F32Array) -> F64Array:
    """The cosine of every row of `a` (n, d) with every row of `b` (m, d), 0 where one of the two is all zeros."""
    return (_normed(a) @ _normed(b).T).astype(np.float64)


def _normed(rows: F32Array) -> F32Array:
    """Rows of length 1; a row that is zero or not finite becomes zero."""
    held = np.where(np.isfinite(rows), rows, np.float32(0)).astype(np.float64)
    peak = np.abs(held).max(axis=1, keepdims=True, initial=0.0)
    held /= np.where(peak > 0, peak, 1.0)
    length = np.sqrt(np.einsum("ij,ij->i", held, held))[:, None]
    return (held / np.where(length > 0, length, 1.0)).astype(np.float32)


def unit_test(similarity: F64Array, permutations: int, rng: np.random.Generator) -> UnitTest:
    """PERMTEST of the square `similarity` of the units of one model (rows) with those of the other.

    The statistic is the sum of its diagonal: how alike units of the same number are. Random permutations are drawn
    until 200 give as much, or `permutations` are: p = 200 / those drawn, or (1 + those that gave as much) /
    (1 + permutations). Both are exact (Besag and Clifford 1991, "Sequential Monte Carlo p-values").
    """
    n = similarity.shape[0]
    observed = float(np.trace(similarity))
    # what rounding does to the sum must not decide between equal ones
    least = observed - 1e-9 * max(1.0, abs(observed))
    mean, deviation = _over_permutations(similarity)
    z = (observed - mean) / deviation if deviation > 0 else 0.0
    reached = drawn = 0
    rows = np.arange(n)
    while drawn < permutations:
        count = min(permutations - drawn, max(1, _AT_ONCE // n), max(_FIRST, 3 * drawn))
        orders = rng.permuted(np.broadcast_to(rows, (count, n)), axis=1)
        hits = np.flatnonzero(similarity[rows, orders].sum(axis=1) >= least)
        if reached + len(hits) >= _ENOUGH:
            drawn += int(hits[_ENOUGH - reached - 1]) + 1
            return UnitTest(_ENOUGH / drawn, z, n, drawn, observed / n)
        reached += len(hits)
        drawn += count
    return UnitTest((1 + reached) / (1 + drawn), z, n, drawn, observed / n)


def _over_permutations(similarity: F64Array) -> tuple[float, float]:
    """Mean and standard deviation of the diagonal's sum over all permutations of the columns."""
    n = similarity.shape[0]
    if n < 2:
        return float(similarity.sum()), 0.0
    centred = similarity - similarity.mean(axis=0) - similarity.mean(axis=1)[:, None] + similarity.mean()
    variance = float((centred**2).sum()) / (n - 1)
    # a constant matrix leaves only rounding
    scale = float(np.abs(similarity).max(initial=0.0))
    return float(similarity.sum()) / n, sqrt(variance) if variance > (1e-9 * scale) ** 2 * n else 0.0


def permutations_for(tests: int) -> int:
    """How many permutations each of several tests needs at most, for all together to say as little as 1e-9."""
    return {1: 999_999, 2: 99_999, 3: 9_999, 4: 9_999}.get(tests, 999)


def fisher(ps: Sequence[float]) -> float:
    """log10 of the p-value of independent p-values together: -2 sum log p is chi-squared with 2n degrees of freedom.

    Fisher 1925; the tail of an even number of degrees is a sum of n terms. 0 (p = 1) without any.
    """
    return fisher_logs([log10(p) for p in ps])


def fisher_logs(logs: Sequence[float]) -> float:
    """The same of log10 of p-values, which may be too small for a float."""
    return log_chi_squared_tail(-2 * log(10) * sum(logs), len(logs)) / log(10) if logs else 0.0


def log_chi_squared_tail(x: float, half: int) -> float:
    """Natural log of P(chi-squared with 2 `half` degrees of freedom >= x)."""
    if x <= 0:
        return 0.0
    terms = np.array([k * log(x / 2) - lgamma(k + 1) for k in range(half)])
    top = float(terms.max())
    return min(0.0, -x / 2 + top + log(float(np.exp(terms - top).sum())))


def log_poisson_tail(count: int, mean: float) -> float:
    """Natural log of P(X >= count) of a Poisson variable."""
    if count <= 0:
        return 0.0
    if mean <= 0:
        return -inf
    k = np.arange(count, count + 60 + int(10 * sqrt(mean) + mean), dtype=np.float64)
    factorials = np.concatenate([[lgamma(count + 1)], np.log(k[1:])]).cumsum()
    terms = k * log(mean) - mean - factorials
    top = float(terms.max())
    return min(0.0, top + log(float(np.exp(terms - top).sum())))


def log_normal_tail(z: float) -> float:
    """Natural log of P(Z >= z) of a standard normal variable."""
    if z < 30:
        return log(max(erfc(z / sqrt(2)) / 2, 5e-324))
    return -z * z / 2 - log(z) - log(2 * np.pi) / 2  # the first term of its asymptotic series
