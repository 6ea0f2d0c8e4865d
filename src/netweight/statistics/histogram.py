"""Histograms for the eye, whose counts are exact: of the values that occur, or of bins by leading bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from netweight.statistics import order

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array, U64Array
    from netweight.statistics.moments import Moments

__all__ = ["Histogram", "histogram_of_bins", "histogram_of_values"]

_BINS = 60
_SPREAD = 5.0  # standard deviations on either side of the mean; what lies beyond is one bin on each side
_SIGN = 0x8000


@dataclass(frozen=True)
class Histogram:
    """`counts` of finite values between neighbouring `edges` (one more, ascending, the first the least value and the
    last the largest). A value at an inner edge belongs to the side farther from zero. Where all values are equal, both
    edges are that value; both are empty where nothing is finite, or where its span is beyond float64.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


def histogram_of_values(values: Array, counts: U64Array, moments: Moments) -> Histogram:
    """Of values float64 [k], finite and ascending, that occur `counts` uint64 [k] times."""
    edges = _edges(moments)
    return _counted(edges, _places(edges, values, values < 0), counts)


def histogram_of_bins(counts: U64Array, width: int, moments: Moments) -> Histogram:
    """Of floats of `width` bits (32 or 64), counted by their leading 16 bits [65536]. Inner edges lie between bins."""
    bins = order.occupied_bins(counts)
    bins = bins[order.finite_bins(width)[bins]]
    edges = _edges(moments)
    if len(edges) > 2:
        inner = order.bin_values(width)[_leading(edges[1:-1], width)]
        inner = np.unique(inner[(inner > edges[0]) & (inner < edges[-1])])
        edges = np.concatenate([edges[:1], inner, edges[-1:]])
    return _counted(edges, _places(edges, order.bin_values(width)[bins], bins >= _SIGN), counts[bins])


def _edges(moments: Moments) -> Array:
    low, high = moments.minimum, moments.maximum
    if not moments.n or not isfinite(high - low):
        return np.zeros(0)
    if low == high:
        return np.array([low, high])
    mean, spread = moments.average, _SPREAD * moments.std
    known = isfinite(mean) and isfinite(spread)
    inner = (max(low, mean - spread), min(high, mean + spread)) if known else (low, high)
    edges: Array = np.unique([low, *np.linspace(*inner, _BINS + 1), high])
    return edges


def _leading(values: Array, width: int) -> Array:
    """The bins that values lie in."""
    bits = values.astype(np.float32).view(np.uint32) if width == 32 else values.astype(np.float64).view(np.uint64)
    return (bits >> bits.dtype.type(width - 16)).astype(np.int64)


def _places(edges: Array, values: Array, negative: Array) -> Array:
    """The numbers of the gaps between `edges` that values belong to."""
    inner = edges[1:-1]
    return np.where(negative, np.searchsorted(inner, values, "left"), np.searchsorted(inner, values, "right"))


def _counted(edges: Array, places: Array, counts: U64Array) -> Histogram:
    if not len(edges):
        return Histogram()
    total = np.zeros(len(edges) - 1, np.uint64)
    np.add.at(total, places, counts)
    return Histogram(tuple(edges.tolist()), tuple(total.tolist()))
