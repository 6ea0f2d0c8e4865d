"""Two updates of one weight side by side: sums from their factors, and how far the spaces that they span overlap."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

from netweight.params.pairing import Pair
from netweight.passes.factored import factors_of, has_factors
from netweight.statistics.factored import Factors, angles, inner, norm, total
from netweight.statistics.pairs import PairStatistics

__all__ = ["from_factors"]

_CLOSE = 1e-24  # of a^2 + b^2: a distance whose square is less is lost in rounding, and the one by blocks stays


def from_factors(pair: Pair, statistics: PairStatistics) -> tuple[PairStatistics, dict[str, Any]]:
    """(`statistics` with means and sums of squares as the factors say them, {field: value} of the overlaps); as they
    are where a side is no product.
    """
    if not (has_factors(pair.a, None) and has_factors(pair.b, None)) or statistics.n_nonfinite:
        return statistics, {}
    held = [factors_of(side, None) for side in (pair.a, pair.b)]
    (a,), (b,) = (factors or () for factors in held)
    n = statistics.n
    difference = Factors.joined([b, Factors(-a.left, a.right)])
    squares = inner(a, a), inner(b, b), norm(difference) ** 2
    if not all(map(isfinite, squares)):
        return statistics, {}
    mean_a, mean_b = total(a) / n, total(b) / n
    exact = replace(
        statistics,
        mean_a=mean_a,
        mean_b=mean_b,
        mean_d=mean_b - mean_a,
        m2_a=max(0.0, squares[0] - n * mean_a * mean_a),
        m2_b=max(0.0, squares[1] - n * mean_b * mean_b),
        comoment=inner(a, b) - n * mean_a * mean_b,
    )
    if squares[2] > _CLOSE * (squares[0] + squares[1]):
        exact = replace(exact, m2_d=max(0.0, squares[2] - n * (mean_b - mean_a) ** 2))
    return exact, angles(a, b)
