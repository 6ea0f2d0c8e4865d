"""Statistics of all elements of a matrix of 32- or 64-bit floats, gathered in one to a few readings of it.

The first reading counts leading bits and sums moments. Where its bins do not settle a quantile, further readings count
the next 16 bits under the bins in question. The last one counts and sums with thresholds that are known only then. A
reading that no measure needs is left out; where all values are coarse, as bfloat16 numbers in float32 are, one
suffices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netweight.kernels.arrays import Array, U8Array, U32Array, U64Array
from netweight.kernels.protocol import DifferencePartial, Window
from netweight.kernels.values import LookPartial
from netweight.statistics import order
from netweight.statistics.difference import PROBABILITIES
from netweight.statistics.histogram import Histogram, histogram_of_bins
from netweight.statistics.moments import EMPTY, Moments
from netweight.statistics.ranks import Ranks
from netweight.statistics.values import (
    ABS_PROBABILITIES,
    ABS_QUANTILES,
    HISTOGRAM,
    INT8,
    OUTSIDE,
    QUANTILES,
    Int8Sums,
    Outside,
    Values,
    fences,
    int8_scale,
    of_distinct,
    thresholds_of,
)

__all__ = ["LastReading", "Readings"]

_HELD = 1 << 21  # residual values that are kept in memory, at most
_SIGN = 0x8000


@dataclass(frozen=True)
class LastReading:
    """What the last reading must count and sum, as `ValuesAccumulator.start` takes it."""

    scale: float | None
    ranges: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]


class Readings:
    """The readings of one matrix: `kept` and `add` for the first, `open_prefixes` and `refine` for further ones,
    `last_reading` and `finish` for the last.
    """

    def __init__(self, needs: frozenset[str]) -> None:
        self._needs = needs
        self._counts = np.zeros(65536, np.uint64)
        self._residual_counts = np.zeros(65536, np.uint64)
        self._sums = EMPTY
        self._residuals: list[Array] | None = []
        self._quantiles: Ranks | None = None
        self._magnitudes: Ranks | None = None
        self._first_done = False

    def kept(self) -> U8Array:
        """uint8 [65536]: the bins whose residual values the next stretch of the first reading should hand over."""
        wanted = self._residuals is not None and bool(self._needs & {QUANTILES, OUTSIDE, ABS_QUANTILES})
        return np.full(65536, wanted, np.uint8)

    def add(self, partial: DifferencePartial) -> None:
        """Add the next stretch in the matrix's order, read with `kept()`; one model and no base."""
        self._window: Window = partial.window
        self._counts += partial.counts[0]
        self._residual_counts += partial.residual_counts[0]
        self._sums = self._sums.merge(Moments.of_sums(partial.residual_sums[0]))
        bits = partial.residuals[0]
        if bits is None:
            self._residuals = None
        elif self._residuals is not None:
            self._residuals.append(bits)
            if sum(len(r) for r in self._residuals) > _HELD:
                self._residuals = None

    def _finish_first(self) -> None:
        if self._first_done:
            return
        self._first_done = True
        width = self._window.width
        counts, residual = self._counts, self._residual_counts
        bins = order.occupied_bins(counts)
        bins = bins[order.finite_bins(width)[bins]]
        coarse = counts[bins] - residual[bins]
        used = coarse > 0
        self._distinct = order.bin_values(width)[bins[used]], coarse[used]
        self._moments = Moments.of_counts(*self._distinct).merge(self._sums)
        self.exact = not residual.any()  # the bins then hold every value
        if not self.exact and self._needs & {QUANTILES, OUTSIDE}:
            self._quantiles = self._ranks(counts, residual, self._residuals, PROBABILITIES)
            if self._quantiles.n:
                self._quantiles.settle_extremes(self._moments)
        if not self.exact and ABS_QUANTILES in self._needs:
            held = self._residuals
            if held is not None:
                held = [r & r.dtype.type((1 << (width - 1)) - 1) for r in held]
            self._magnitudes = self._ranks(_folded(counts), _folded(residual), held, ABS_PROBABILITIES)
        self._residuals = None

    def _ranks(
        self, counts: U64Array, residual: U64Array, held: list[Array] | None, probabilities: Sequence[float]
    ) -> Ranks:
        bins = order.occupied_bins(counts)
        ranks = Ranks(bins[order.finite_bins(self._window.width)[bins]], counts, self._window, probabilities)
        ranks.settle_from_bins(counts, residual, held, np.ones(65536, np.uint8))
        return ranks

    def open_prefixes(self) -> tuple[int, U64Array] | None:
        """The level, and the prefixes that a further reading must count under; None where all quantiles are settled."""
        self._finish_first()
        levels = {r.level for ranks in (self._quantiles, self._magnitudes) if ranks for r in ranks.open}
        if not levels:
            return None
        level = levels.pop()
        wanted = set() if self._quantiles is None else {int(p) for p in self._quantiles.prefixes()}
        if self._magnitudes is not None:
            sign = _SIGN << 16 * (level - 1)
            wanted |= {p for low in self._magnitudes.prefixes() for p in (int(low), int(low) | sign)}
        self._asked = np.array(sorted(wanted), dtype=np.uint64)
        return level, self._asked

    def refine(self, counts: U32Array) -> None:
        """Add the counts [prefixes, 65536] that `open_prefixes` asked for, of the whole matrix."""
        counted = dict(zip((int(p) for p in self._asked), counts, strict=True))
        if self._quantiles is not None and self._quantiles.open:
            self._quantiles.refine(counted)
        if self._magnitudes is not None and self._magnitudes.open:
            sign = _SIGN << 16 * (self._magnitudes.open[0].level - 1)
            lows = [int(p) for p in self._magnitudes.prefixes()]
            self._magnitudes.refine({low: counted[low].astype(np.uint64) + counted[low | sign] for low in lows})

    def _counted(self) -> dict[float, int | None]:
        """Elements up to each threshold, from the bins; None where its own bin holds residual values."""
        bins = order.bin_values(self._window.width)[:_SIGN]
        finite = np.isfinite(bins)
        folded, residual = _folded(self._counts)[:_SIGN][finite], _folded(self._residual_counts)[:_SIGN][finite]
        at_most: dict[float, int | None] = {}
        for t in thresholds_of(self._needs):
            number = int(np.searchsorted(bins[finite], t, side="right")) - 1  # the bin that t lies in
            below = int(folded[:number].sum()) + int(folded[number] - residual[number])
            at_most[t] = None if residual[number] and t > 0 else below
        return at_most

    def last_reading(self) -> LastReading | None:
        """What the last reading must count, once all quantiles are settled; None where nothing is left."""
        self._finish_first()
        if self.exact or not self._moments.n:
            return None
        scale = int8_scale(self._moments) or None if INT8 in self._needs else None
        ranges = fences(self._quantiles.quantiles()) if self._quantiles is not None and OUTSIDE in self._needs else ()
        thresholds = tuple(t for t, count in self._counted().items() if count is None)
        return LastReading(scale, ranges, thresholds) if scale or ranges or thresholds else None

    def finish(self, wanted: LastReading | None, partial: LookPartial | None) -> Values:
        """The values that measures need; `partial` is the result of the last reading, where there was one."""
        self._finish_first()
        infinities = list(order.infinite_bins(self._window.width))
        n_inf = int((self._counts[infinities] - self._residual_counts[infinities]).sum())
        n, finite = int(self._counts.sum()), self._moments.n
        numbers = n, n - finite - n_inf, n_inf
        if self.exact or not finite:
            return of_distinct(*self._distinct, numbers, self._needs)
        at_most = self._counted()
        outside = int8 = None
        if wanted is not None and partial is not None:
            at_most |= dict(zip(wanted.thresholds, partial.at_most, strict=True))
            if wanted.ranges:
                mild, extreme = (finite - inside for inside in partial.inside)
                outside = Outside(*wanted.ranges[0], mild, *wanted.ranges[1], extreme)
            if wanted.scale is not None:
                sums = (partial.error_square, partial.error_absolute, partial.product, partial.quantized_square)
                int8 = Int8Sums.of(wanted.scale, finite, sums)
        if INT8 in self._needs and int8 is None:  # all zeros, or so small that the scale is
            int8 = Int8Sums(0.0, 0.0, 0.0, 0.0, 0.0)
        known = {t: count for t, count in at_most.items() if count is not None}
        return Values(
            *numbers,
            n_zero=known[0.0],
            moments=self._moments,
            quantiles=() if self._quantiles is None else self._quantiles.quantiles(),
            abs_quantiles=() if self._magnitudes is None else self._magnitudes.quantiles(),
            at_most=known,
            outside=outside,
            int8=int8,
            histogram=self._histogram(),
        )

    def _histogram(self) -> Histogram | None:
        if HISTOGRAM not in self._needs:
            return None
        return histogram_of_bins(self._counts, self._window.width, self._moments)


def _folded(counts: U64Array) -> U64Array:
    """uint64 [65536]: by magnitude, the upper half zero."""
    folded = np.zeros(65536, np.uint64)
    folded[:_SIGN] = counts[:_SIGN] + counts[_SIGN:]
    return folded
