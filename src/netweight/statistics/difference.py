"""Statistics of the differences of N models to one base, merged from stretches in any order with one result.

Counts are integers and are added as they come; sums are kept by stretch and added in the order of the tensor, so that
the last bit does not depend on which worker was faster. A base that is absent is all zeros: then these are the
statistics of the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from netweight.kernels.arrays import F64Array, U8Array, U64Array
from netweight.kernels.protocol import DifferencePartial
from netweight.statistics import order
from netweight.statistics.histogram import Histogram, histogram_of_bins
from netweight.statistics.moments import EMPTY, Moments
from netweight.statistics.ranks import Ranks

__all__ = ["PROBABILITIES", "DifferenceStatistics", "Distribution", "Settled", "narrowed"]

PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The quantiles that are taken, as fractions."""

_MARGIN = 0.01  # of all values to either side of a quantile: where later stretches are expected to move it


@dataclass(frozen=True)
class Distribution:
    """The distribution of one model's values: `quantiles` at PROBABILITIES (empty where no value is finite), `moments`
    over the finite ones, and how many of the `n` are NaN, infinite or zero (either sign).
    """

    n: int
    n_nan: int
    n_inf: int
    n_zero: int
    moments: Moments
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Settled:
    """`DifferenceStatistics` of one parameter once everything is resolved, in few bytes, with the same methods."""

    distributions: tuple[Distribution, ...]
    products: F64Array
    norm: float
    pictures: tuple[Histogram, ...]

    @classmethod
    def of(cls, statistics: DifferenceStatistics, *, pictured: bool = False) -> Settled:
        """Raises RuntimeError where quantiles are still unresolved."""
        distributions = tuple(statistics.distribution(m) for m in range(statistics.models))
        pictures = tuple(statistics.picture(m) for m in range(statistics.models if pictured else 0))
        return cls(distributions, statistics.gram(), statistics.base_l2(), pictures)

    def distribution(self, model: int) -> Distribution:
        """See DifferenceStatistics."""
        return self.distributions[model]

    def gram(self) -> F64Array:
        """See DifferenceStatistics."""
        return self.products

    def base_l2(self) -> float:
        """See DifferenceStatistics."""
        return self.norm

    def picture(self, model: int) -> Histogram:
        """See DifferenceStatistics."""
        return self.pictures[model]


def narrowed(partial: DifferencePartial, kept: U8Array) -> tuple[DifferencePartial, U8Array]:
    """`partial` with only the residual values near the quantiles of this stretch, and the bins that are left. Other
    residual values rarely count, and are most of what would be sent.
    """
    own = DifferenceStatistics(len(partial.counts))
    own.add(0, partial, kept)
    left = kept & own.kept()
    shift = partial.window.shift
    residuals = tuple(None if r is None else r[left[r >> r.dtype.type(shift)] != 0] for r in partial.residuals)
    return replace(partial, residuals=residuals), left


_EVERY_BIN: U8Array = np.ones(65536, np.uint8)


class DifferenceStatistics:
    """The statistics of one parameter over `models` models, filled from `stretches` partials in any order."""

    def __init__(self, models: int, stretches: int = 1) -> None:
        self.models = models
        self._stretches = stretches
        self._sums: dict[int, tuple[F64Array, F64Array, float]] = {}
        self._residuals: list[list[Any] | None] = [[] for _ in range(models)]
        self._covered = np.ones(65536, np.uint8)
        self._counts: U64Array | None = None
        self._ranks: list[Ranks] = []

    def kept(self) -> U8Array:
        """uint8 [65536]: the bins whose residual values the next stretch should hand over; not to be written to."""
        if self._counts is None:
            return _EVERY_BIN
        kept = np.zeros(65536, np.uint8)
        if all(r is None for r in self._residuals):
            return kept  # too many to keep: a second reading finds the quantiles
        for m in range(self.models):
            bins = self._finite_bins(m)
            ends = np.cumsum(self._counts[m][bins])
            if not len(ends):
                continue
            for p in PROBABILITIES[1:-1]:
                margin = min(_MARGIN, p / 2, (1 - p) / 2)
                low, high = np.searchsorted(ends, [ends[-1] * (p - margin), ends[-1] * (p + margin)])
                kept[bins[low : high + 1]] = 1
        return kept

    def _finite_bins(self, model: int) -> Any:
        """int64 [k]: the bins that hold finite values of one model, in the order of the values."""
        assert self._counts is not None  # noqa: S101 - its callers look first
        bins = order.occupied_bins(self._counts[model])
        return bins[order.finite_bins(self._window.width)[bins]]

    def add(self, stretch: int, partial: DifferencePartial, kept: U8Array) -> None:
        """Add the partial of a stretch, by its number. `kept` is what `kept()` said before it was read."""
        self._window = partial.window
        if self._counts is None:
            self._counts = partial.counts.astype(np.uint64)
            self._residual_counts = partial.residual_counts.astype(np.uint64)
        else:
            self._counts += partial.counts
            self._residual_counts += partial.residual_counts
        self._sums[stretch] = (partial.residual_sums, partial.gram, partial.base_square)
        self._covered &= kept
        for m, bits in enumerate(partial.residuals):
            held = self._residuals[m]
            if bits is None:
                self._residuals[m] = None
            elif held is not None:
                held.append(bits)

    @property
    def complete(self) -> bool:
        """Whether every stretch has been added."""
        return len(self._sums) == self._stretches

    def _finish(self) -> None:
        if self._ranks:
            return
        if not self.complete or self._counts is None:
            msg = f"{len(self._sums)} of {self._stretches} stretches were added: the statistics are not complete"
            raise RuntimeError(msg)
        width = self._window.width
        self._moments = []
        for m in range(self.models):
            total = EMPTY
            for stretch in range(self._stretches):
                total = total.merge(Moments.of_sums(self._sums[stretch][0][m]))
            bins = self._finite_bins(m)
            coarse = self._counts[m][bins] - self._residual_counts[m][bins]
            used = coarse > 0
            moments = Moments.of_counts(order.bin_values(width)[bins[used]], coarse[used]).merge(total)
            self._moments.append(moments)
            ranks = Ranks(bins, self._counts[m], self._window, PROBABILITIES)
            if ranks.n:
                ranks.settle_extremes(moments)
                ranks.settle_from_bins(self._counts[m], self._residual_counts[m], self._residuals[m], self._covered)
            self._ranks.append(ranks)
        self._residuals = [None] * self.models

    def unresolved(self) -> tuple[int, list[U64Array]] | None:
        """What a further reading must count: the level and each model's prefixes; None where all is settled."""
        self._finish()
        levels = {r.level for ranks in self._ranks for r in ranks.open}
        if not levels:
            return None
        return levels.pop(), [ranks.prefixes() for ranks in self._ranks]

    def refine(self, counts: Sequence[U64Array]) -> None:
        """Add the counts [prefixes, 65536] per model that `unresolved` asked for, summed over all stretches."""
        for ranks, counted in zip(self._ranks, counts, strict=True):
            ranks.refine(dict(zip((int(p) for p in ranks.prefixes()), counted, strict=True)))

    def distribution(self, model: int) -> Distribution:
        """One model's statistics; raises RuntimeError where quantiles are still unresolved."""
        if self.unresolved() is not None or self._counts is None:
            raise RuntimeError("quantiles are unresolved: look at the data again as `unresolved` asks")
        counts, ranks, moments = self._counts[model], self._ranks[model], self._moments[model]
        infinities = list(order.infinite_bins(self._window.width))
        n_inf = int((counts[infinities] - self._residual_counts[model][infinities]).sum())
        n = int(counts.sum())
        zeros = counts[[0, 0x8000]] - self._residual_counts[model][[0, 0x8000]]
        return Distribution(
            n=n,
            n_nan=n - ranks.n - n_inf,
            n_inf=n_inf,
            n_zero=int(zeros.sum()),
            moments=moments,
            quantiles=ranks.quantiles(),
        )

    def histogram(self, model: int) -> U64Array:
        """uint64 [65536]: values by their leading 16 bits (see `order.bin_values`)."""
        if self._counts is None:
            raise RuntimeError("no stretch was added")
        counts: U64Array = self._counts[model]
        return counts

    def picture(self, model: int) -> Histogram:
        """One model's values as a page draws them."""
        self._finish()
        return histogram_of_bins(self.histogram(model), self._window.width, self._moments[model])

    def gram(self) -> F64Array:
        """float64 [N, N]: <difference i, difference j> over the elements where both are finite, per-model l2^2
        on the diagonal.
        """
        self._finish()
        total = np.zeros((self.models, self.models))
        for stretch in range(self._stretches):
            total += self._sums[stretch][1]
        np.fill_diagonal(total, [m.square_sum for m in self._moments])
        return total

    def base_l2(self) -> float:
        """The norm of the finite base values."""
        total = 0.0
        for stretch in range(self._stretches):
            total += self._sums[stretch][2]
        return sqrt(total)
