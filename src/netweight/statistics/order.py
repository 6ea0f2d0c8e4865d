"""Exact order statistics by radix selection on the bits of floating-point numbers: no sort, no sample.

A value's leading 16 bits (sign, exponent, first mantissa bits) say which of 65,536 bins it lies in, and the bins are in
the order of the values. Counting the bins finds the bin of any rank; looking at the next 16 bits inside that bin finds
the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import floor
from typing import Any

import numpy as np

from netweight.kernels.arrays import Array

__all__ = [
    "Rank",
    "bin_of",
    "bin_values",
    "bits_to_values",
    "finite_bins",
    "infinite_bins",
    "interpolate",
    "locate",
    "needed_ranks",
    "occupied_bins",
    "pick_from",
    "quantiles_of_counts",
    "step_down",
]

_SIGN = 0x8000


def occupied_bins(counts: Array) -> Array:
    """int64 [k]: the bins that hold any of the `counts` [65536], from the most negative values to the most positive."""
    used = np.flatnonzero(counts)
    first_negative = int(np.searchsorted(used, _SIGN))
    return np.concatenate([used[first_negative:][::-1], used[:first_negative]])


@cache
def finite_bins(width: int) -> Array:
    """bool [65536]: bins of finite values, for floats of `width` bits (32 or 64)."""
    exponent = 0x7F80 if width == 32 else 0x7FF0
    finite: Array = (np.arange(65536) & exponent) != exponent
    return finite


def infinite_bins(width: int) -> tuple[int, int]:
    """The bins in which the infinities lie (their bits below the leading 16 are zero; others there are NaN)."""
    return (0x7F80, 0xFF80) if width == 32 else (0x7FF0, 0xFFF0)


def bits_to_values(bits: Array, width: int) -> Array:
    """float64 of bit patterns held in unsigned integers."""
    kind: tuple[Any, Any] = (np.uint32, np.float32) if width == 32 else (np.uint64, np.float64)
    values: Array = np.ascontiguousarray(bits, dtype=kind[0]).view(kind[1]).astype(np.float64)
    return values


@cache
def bin_values(width: int) -> Array:
    """float64 [65536]: the value whose bits below the leading 16 are zero, for every bin; NaN where it is not
    finite.
    """
    with np.errstate(invalid="ignore"):
        values = bits_to_values(np.arange(65536, dtype=np.uint64) << np.uint64(width - 16), width)
    values[~finite_bins(width)] = np.nan
    return values


@dataclass(frozen=True)
class Rank:
    """Where the value of one rank lies: `rank` among all finite values, `local` among those that begin with `prefix`.

    prefix: the leading 16 * level bits.
    """

    rank: int
    prefix: int
    local: int
    level: int

    def negative(self) -> bool:
        """Whether values with this prefix are below zero: there, larger bits are smaller values."""
        return bool(self.prefix >> (16 * self.level - 1))


def needed_ranks(n: int, probabilities: Sequence[float]) -> list[int]:
    """The ranks, ascending, that the quantiles at `probabilities` of n values are interpolated between."""
    ranks = set()
    for p in probabilities:
        low = floor((n - 1) * p)
        ranks |= {low, min(low + 1, n - 1)}
    return sorted(ranks)


def locate(bins: Array, counts: Array, ranks: Sequence[int]) -> list[Rank]:
    """The bins of `ranks` (ascending); `bins` [k] by their values, `counts` [k] the finite values in each."""
    ends = np.cumsum(counts)
    numbers = np.searchsorted(ends, np.asarray(ranks, dtype=np.uint64), side="right")
    return [
        Rank(rank, int(bins[number]), rank - int(ends[number] - counts[number]), 1)
        for rank, number in zip(ranks, numbers, strict=True)
    ]


def step_down(rank: Rank, counts: Array) -> Rank:
    """The same rank 16 bits further down, by the counts [65536] of the next 16 bits under its prefix."""
    ordered = counts[::-1] if rank.negative() else counts
    # first among 256 times 256 bins, then inside: one long running sum would take most of the time of a scan
    rows = ordered.reshape(256, 256)
    row, local = bin_of(rows.sum(axis=1), rank.local)
    column, local = bin_of(rows[row], local)
    number = 256 * row + column
    digit = 65535 - number if rank.negative() else number
    return Rank(rank.rank, rank.prefix << 16 | digit, local, rank.level + 1)


def bin_of(counts: Array, rank: int) -> tuple[int, int]:
    """The bin of `counts` [bins] that holds the value of this rank, and the rank within it."""
    ends = np.cumsum(counts, dtype=np.uint64)
    number = int(np.searchsorted(ends, np.uint64(rank), side="right"))
    return number, rank - int(ends[number]) + int(counts[number])


def pick_from(rank: Rank, coarse: int, residuals: Array, width: int) -> float:
    """The value of a rank whose bin holds `coarse` values with no further bits and these `residuals` (bits, all
    of them).
    """
    zeros = np.uint64(rank.prefix) << np.uint64(width - 16)
    position, among = rank.local, len(residuals)
    if rank.negative():  # the coarse ones, nearest to zero, come last
        bits = zeros if position >= among else np.partition(residuals, among - 1 - position)[among - 1 - position]
    else:
        bits = zeros if position < coarse else np.partition(residuals, position - coarse)[position - coarse]
    return float(bits_to_values(np.asarray([bits]), width)[0])


def interpolate(n: int, probabilities: Sequence[float], values: dict[int, float]) -> list[float]:
    """Quantiles by numpy's "linear" rule from the values at `needed_ranks`, bit for bit as numpy computes them."""
    quantiles = []
    for p in probabilities:
        position = (n - 1) * p
        low = floor(position)
        t = position - low
        a, b = values[low], values[min(low + 1, n - 1)]
        quantiles.append((b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t) + 0.0)
    return quantiles


def quantiles_of_counts(values: Array, counts: Array, probabilities: Sequence[float]) -> tuple[float, ...]:
    """Of ascending values float64 [k] that occur `counts` [k] times, by numpy's "linear" rule; empty where k = 0."""
    if not len(values):
        return ()
    ends = np.cumsum(counts)
    n = int(ends[-1])
    ranks = needed_ranks(n, probabilities)
    positions = np.searchsorted(ends, np.asarray(ranks, dtype=np.uint64), side="right")
    known = {rank: float(values[position]) for rank, position in zip(ranks, positions, strict=True)}
    return tuple(interpolate(n, probabilities, known))
