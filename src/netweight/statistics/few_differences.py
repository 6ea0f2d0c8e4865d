"""The differences of one small parameter: all of them held and sorted, which is quicker than 65,536 bins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from netweight.statistics import order
from netweight.statistics.difference import PROBABILITIES, Distribution, Settled
from netweight.statistics.histogram import Histogram, histogram_of_values
from netweight.statistics.moments import EMPTY, Moments

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array

__all__ = ["of_few"]


def of_few(base: Array, models: Sequence[Array | None], *, pictured: bool = False) -> Settled:
    """The statistics of model - base for every model (None: it lacks the parameter), float32 or float64 [n] each, in
    the precision of the arrays; with histograms where `pictured`.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        differences = [None if model is None else model - base for model in models]
        held = [_Held(d) for d in differences]
        gram = np.diag([one.moments.square_sum for one in held])
        for (i, a), (j, b) in combinations(enumerate(held), 2):
            if a.wide is not None and b.wide is not None:
                both = a.finite & b.finite
                gram[i, j] = gram[j, i] = float(np.sum(a.wide[both] * b.wide[both]))
        finite = base[np.isfinite(base)].astype(np.float64)
        norm = sqrt(float(np.sum(finite * finite)))
    pictures = tuple(one.picture() for one in held) if pictured else ()
    return Settled(tuple(one.distribution for one in held), gram, norm, pictures)


class _Held:
    """One model's differences: `wide` in float64, which of them are `finite`, and what follows."""

    def __init__(self, differences: Array | None) -> None:
        self.wide: Array | None = None
        self.moments = EMPTY
        if differences is None:
            self._sorted = np.zeros(0)
            self.distribution = Distribution(0, 0, 0, 0, EMPTY, ())
            return
        self.finite = np.isfinite(differences)
        self.wide = differences.astype(np.float64)
        held = differences[self.finite]
        self._sorted = np.sort(held)
        self.moments = _moments(self.wide[self.finite], self._sorted)
        n, n_inf = len(differences), int(np.isinf(differences).sum())
        self.distribution = Distribution(
            n=n,
            n_nan=n - len(held) - n_inf,
            n_inf=n_inf,
            n_zero=len(held) - int(np.count_nonzero(held)),
            moments=self.moments,
            quantiles=self._quantiles(),
        )

    def _quantiles(self) -> tuple[float, ...]:
        n = len(self._sorted)
        if not n:
            return ()
        ranks = order.needed_ranks(n, PROBABILITIES)
        known = dict(zip(ranks, self._sorted[ranks].astype(np.float64).tolist(), strict=True))
        return tuple(order.interpolate(n, PROBABILITIES, known))

    def picture(self) -> Histogram:
        """As a page draws them."""
        values, counts = np.unique(self._sorted, return_counts=True)
        return histogram_of_values(values.astype(np.float64), counts.astype(np.uint64), self.moments)


def _moments(values: Array, ordered: Array) -> Moments:
    """Of finite values float64 [n]; `ordered` are the same, ascending. Sums are numpy's, whose order is fixed."""
    n = len(values)
    if not n:
        return EMPTY
    mean = float(np.sum(values)) / n
    mean += float(np.sum(values - mean)) / n  # the second pass removes what rounding left
    e = values - mean
    square = e * e
    m2, m3, m4, l1 = (float(np.sum(part)) for part in (square, square * e, square * square, np.abs(values)))
    return Moments(n, mean, m2, m3, m4, l1, float(ordered[0]), float(ordered[-1]))
