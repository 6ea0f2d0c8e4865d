"""The ranks that quantiles are interpolated between, settled step by step from the bits of the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netweight.kernels.arrays import U8Array, U64Array
from netweight.kernels.protocol import Window
from netweight.statistics import order
from netweight.statistics.moments import Moments

__all__ = ["Ranks"]


class Ranks:
    """The order statistics of one set of values: resolved by its bins and residual values, or by further readings."""

    def __init__(self, bins: Any, counts: U64Array, window: Window, probabilities: Sequence[float]) -> None:
        """`bins` are the occupied finite ones, in the order of their values; counts [65536]."""
        self._probabilities = probabilities
        self._window = window
        held = counts[bins]
        self.n = int(held.sum())
        self.values: dict[int, float] = {}
        self.open = order.locate(bins, held, order.needed_ranks(self.n, probabilities)) if self.n else []

    def settle_extremes(self, moments: Moments) -> None:
        """Settle the first and the last rank: the minimum and the maximum."""
        for rank, value in ((0, moments.minimum), (self.n - 1, moments.maximum)):
            self.values[rank] = value
        self.open = [r for r in self.open if r.rank not in self.values]

    def settle_from_bins(self, counts: U64Array, residual_counts: U64Array, residuals: Any, covered: U8Array) -> None:
        """Settle every rank whose bin has coarse values alone, or whose residual values are all in `residuals`."""
        left = []
        held = None
        width = self._window.width
        shift = self._window.shift
        for rank in self.open:
            b = rank.prefix
            if not residual_counts[b]:
                self.values[rank.rank] = float(order.bin_values(width)[b])
            elif residuals is not None and covered[b]:
                if held is None:
                    held = np.sort(np.concatenate(residuals))
                first = np.searchsorted(held, held.dtype.type(b << shift))
                last = np.searchsorted(held, held.dtype.type((b << shift) | ((1 << shift) - 1)), side="right")
                coarse = int(counts[b] - residual_counts[b])
                self.values[rank.rank] = order.pick_from(rank, coarse, held[first:last], width)
            else:
                left.append(rank)
        self.open = left

    def prefixes(self) -> U64Array:
        """The prefixes of the ranks that are still open, sorted."""
        return np.array(sorted({r.prefix for r in self.open}), dtype=np.uint64)

    def refine(self, counts: Mapping[int, Any]) -> None:
        """Step all open ranks down by the counts [65536] of the next 16 bits under each of `prefixes()`."""
        stepped = [order.step_down(r, counts[r.prefix]) for r in self.open]
        done = [r for r in stepped if 16 * r.level == self._window.width]
        if done:
            values = order.bits_to_values(np.array([r.prefix for r in done], dtype=np.uint64), self._window.width)
            self.values |= {r.rank: float(v) for r, v in zip(done, values, strict=True)}
        self.open = [r for r in stepped if 16 * r.level != self._window.width]

    def quantiles(self) -> tuple[float, ...]:
        """At the probabilities; empty where there are no values. All ranks must be settled."""
        return tuple(order.interpolate(self.n, self._probabilities, self.values)) if self.n else ()
