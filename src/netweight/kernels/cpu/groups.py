"""Quantization errors of groups of elements: int4 in groups of 32 and of 128, int8 of a whole row.

Every loop over a chunk of a row, which is in the first cache, is flat, so that all of them run in vector lanes:
extremes by halving (pairs, pairs of pairs ... groups of 32 and of 128), errors in 32 lanes for each kind of group. As
x = scale * y, the error of x is scale * (y - rint(y)); a chunk's lanes are summed in units of its largest scale, and
over chunks in float64.

Groups whose scale or spread is so far out that reciprocals would leave the range of the chunk's type, and short groups
at a row's end, are summed in float64 one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.channels import PIECE
from netweight.kernels.cpu.compiled import compiled, compiled_for_finite
from netweight.kernels.cpu.vectors import extremes_of_32, wide_vectors

__all__ = ["GROUPS_ROOM", "INT4_32", "INT4_128", "INT8", "LANES", "int4", "int8", "int8_exact"]

INT8, INT4_128, INT4_32 = 0, 1, 3  # positions in `totals`; an int4 symmetric error is followed by the asymmetric one
# Where in a flat `room` the values of up to 128 groups stand: flat, so that the compiler sees that they do not overlap.
_GROUPS = PIECE // 32
_LOW, _HIGH, _RATE, _SLOPE, _SHIFT, _SQUARE, _SPREAD, GROUPS_ROOM = range(0, 8 * _GROUPS, _GROUPS)
LANES = 4 * 32
_LEAN = 16  # a group's largest magnitude over its spread: beyond, float32 would lose the spread

_UP, _DOWN = 2.0**500, 2.0**-100


@compiled_for_finite
def _extremes(wide: Array, blocks: int, thirties: Array, hundreds: Array) -> None:
    """The least and largest of every group of 32 and of 128 in `blocks` whole groups of 128."""
    for g in range(4 * blocks):
        thirties[g], thirties[_HIGH + g] = extremes_of_32(wide, 32 * g)
    for b in range(blocks):
        least = thirties[4 * b]
        most = thirties[_HIGH + 4 * b]
        for g in range(4 * b + 1, 4 * b + 4):
            low = thirties[g]
            high = thirties[_HIGH + g]
            least = min(least, low)
            most = max(most, high)
        hundreds[b] = least
        hundreds[_HIGH + b] = most


@compiled
def _exact(group: Array, least: float, most: float, levels: float) -> float:
    """Sum (x - x')^2 of one group, symmetric (7 levels) or asymmetric (15), in float64 and whatever its scale."""
    symmetric = levels == 7.0
    largest = max(-least, most)
    if largest == 0.0 or (least == most and not symmetric):
        return 0.0
    factor = 1.0  # brings scale and reciprocal into range; a power of two, so that nothing is rounded
    if largest > 1e300:
        factor = _DOWN
    elif largest < 1e-280:
        factor = _UP
    offset = 0.0 if symmetric else least * factor
    scale = (largest * factor if symmetric else most * factor - offset) / levels
    rate = 1.0 / scale
    total = 0.0
    for i in range(len(group)):  # of a slice: from 0 on, an index is known not to be negative
        y = (np.float64(group[i]) * factor - offset) * rate
        e = y - np.rint(y)
        total += e * e
    resolution = levels * 2.0**-50
    if total <= len(group) * resolution * resolution:
        return 0.0
    scale /= factor
    return total * scale * scale


@compiled_for_finite
def _scales(room: Array, groups: int, to_unit: Any, lowest: Any, highest: Any) -> int:
    """For every group its rates and the squares of its scales, symmetric and asymmetric; returns how many are left out.

    Rate 7 / max abs, slope 15 / spread, shift (which brings the least to 0), and the squares of max abs and spread in
    units that `to_unit` is the reciprocal of; all 0 for groups of zeros, and for those that are left out.
    """
    kind = room.dtype.type
    zero, one, seven, fifteen, lean = kind(0), kind(1), kind(7), kind(15), kind(_LEAN)
    odd = np.int64(0)
    for g in range(groups):
        least = room[g]
        most = room[_HIGH + g]
        largest = max(-least, most)
        spread = most - least
        fits = (largest >= lowest) & (largest <= highest)
        spreads = fits & (lean * spread >= largest)
        odd += np.int64((largest > zero) != fits) + np.int64((spread > zero) != spreads)
        # A divisor of 1 and a factor of 0 instead of branches, and no infinity even in what is not used.
        slope = (one if spreads else zero) * (fifteen / (spread if spreads else one))
        ratio = (largest if fits else zero) * to_unit
        ratio_spread = (spread if spreads else zero) * to_unit
        room[_RATE + g] = (one if fits else zero) * (seven / (largest if fits else one))
        room[_SLOPE + g] = slope
        room[_SHIFT + g] = -(least if spreads else zero) * slope
        room[_SQUARE + g] = ratio * ratio
        room[_SPREAD + g] = ratio_spread * ratio_spread
    return int(odd)


@compiled_for_finite
def _errors(wide: Array, blocks: int, thirties: Array, hundreds: Array, lanes: Array) -> None:
    """lanes[4 * 32] += squared errors: groups of 128 symmetric, asymmetric, groups of 32 symmetric, asymmetric."""
    wide_vectors()
    for b in range(blocks):
        q, a, o = hundreds[_RATE + b], hundreds[_SLOPE + b], hundreds[_SHIFT + b]
        w, v = hundreds[_SQUARE + b], hundreds[_SPREAD + b]
        g = 4 * b
        q0, q1, q2, q3 = thirties[_RATE + g], thirties[_RATE + 1 + g], thirties[_RATE + 2 + g], thirties[_RATE + 3 + g]
        g += _GROUPS
        a0, a1, a2, a3 = thirties[_RATE + g], thirties[_RATE + 1 + g], thirties[_RATE + 2 + g], thirties[_RATE + 3 + g]
        g += _GROUPS
        o0, o1, o2, o3 = thirties[_RATE + g], thirties[_RATE + 1 + g], thirties[_RATE + 2 + g], thirties[_RATE + 3 + g]
        g += _GROUPS
        w0, w1, w2, w3 = thirties[_RATE + g], thirties[_RATE + 1 + g], thirties[_RATE + 2 + g], thirties[_RATE + 3 + g]
        g += _GROUPS
        v0, v1, v2, v3 = thirties[_RATE + g], thirties[_RATE + 1 + g], thirties[_RATE + 2 + g], thirties[_RATE + 3 + g]
        first = 128 * b
        for i in range(32):
            x0 = wide[first + i]
            x1 = wide[first + 32 + i]
            x2 = wide[first + 64 + i]
            x3 = wide[first + 96 + i]
            y0 = x0 * q
            y1 = x1 * q
            y2 = x2 * q
            y3 = x3 * q
            e0 = y0 - np.rint(y0)
            e1 = y1 - np.rint(y1)
            e2 = y2 - np.rint(y2)
            e3 = y3 - np.rint(y3)
            lanes[i] += w * (e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3)
            y0 = x0 * a + o
            y1 = x1 * a + o
            y2 = x2 * a + o
            y3 = x3 * a + o
            e0 = y0 - np.rint(y0)
            e1 = y1 - np.rint(y1)
            e2 = y2 - np.rint(y2)
            e3 = y3 - np.rint(y3)
            lanes[32 + i] += v * (e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3)
            y0 = x0 * q0
            y1 = x1 * q1
            y2 = x2 * q2
            y3 = x3 * q3
            e0 = y0 - np.rint(y0)
            e1 = y1 - np.rint(y1)
            e2 = y2 - np.rint(y2)
            e3 = y3 - np.rint(y3)
            lanes[64 + i] += w0 * (e0 * e0) + w1 * (e1 * e1) + w2 * (e2 * e2) + w3 * (e3 * e3)
            y0 = x0 * a0 + o0
            y1 = x1 * a1 + o1
            y2 = x2 * a2 + o2
            y3 = x3 * a3 + o3
            e0 = y0 - np.rint(y0)
            e1 = y1 - np.rint(y1)
            e2 = y2 - np.rint(y2)
            e3 = y3 - np.rint(y3)
            lanes[96 + i] += v0 * (e0 * e0) + v1 * (e1 * e1) + v2 * (e2 * e2) + v3 * (e3 * e3)


@compiled
def _settle(lanes: Array, n: int, levels: float, epsilon: float, scale: float) -> float:
    """The sum of a chunk's `n` squared errors from its lanes; none where they are rounding of the quotients."""
    total = 0.0
    for i in range(len(lanes)):
        total += np.float64(lanes[i])
    resolution = 4.0 * levels * epsilon
    if total <= n * resolution * resolution:
        return 0.0
    return total * scale * scale


@compiled
def _odd_errors(wide: Array, room: Array, groups: int, size: int, position: int, totals: Array) -> None:
    """The errors of the groups that `_scales` left out."""
    for g in range(groups):
        least = np.float64(room[g])
        most = np.float64(room[_HIGH + g])
        if least == 0.0 and most == 0.0:
            continue
        if room[_RATE + g] == 0:
            totals[position] += _exact(wide[g * size : (g + 1) * size], least, most, 7.0)
        if room[_SLOPE + g] == 0:
            totals[position + 1] += _exact(wide[g * size : (g + 1) * size], least, most, 15.0)


@compiled_for_finite
def _short_errors(wide: Array, first: int, totals: Array) -> None:
    """The errors of a row's last groups, from `first` on: a short group of 128, and those of 32 in it."""
    n = len(wide)
    lowest = np.float64(wide[first])
    highest = lowest
    for start in range(first, n, 32):
        stop = min(start + 32, n)
        if stop - start == 32:
            low, high = extremes_of_32(wide, start)
        else:
            low = wide[start]
            high = low
            for i in range(start, stop):
                low = min(low, wide[i])
                high = max(high, wide[i])
        least, most = np.float64(low), np.float64(high)
        totals[INT4_32] += _exact(wide[start:stop], least, most, 7.0)
        totals[INT4_32 + 1] += _exact(wide[start:stop], least, most, 15.0)
        lowest = min(lowest, least)
        highest = max(highest, most)
    totals[INT4_128] += _exact(wide[first:], lowest, highest, 7.0)
    totals[INT4_128 + 1] += _exact(wide[first:], lowest, highest, 15.0)


@compiled
def int4(
    wide: Array,
    largest: float,
    thirties: Array,
    hundreds: Array,
    lanes: Array,
    bounds: Array,
    epsilon: float,
    totals: Array,
) -> None:
    """totals[1:5] += a chunk's int4 errors.

    largest: of its magnitudes; thirties, hundreds [GROUPS_ROOM] and lanes [LANES]: room.
    """
    blocks = len(wide) // 128
    n = 128 * blocks
    if n:
        kind = wide.dtype.type
        unit = min(max(largest, bounds[0]), bounds[1])
        to_unit, lowest, highest = kind(1.0 / unit), kind(bounds[0]), kind(bounds[1])
        _extremes(wide, blocks, thirties, hundreds)
        odd_32 = _scales(thirties, 4 * blocks, to_unit, lowest, highest)
        odd_128 = _scales(hundreds, blocks, to_unit, lowest, highest)
        lanes[:] = 0
        _errors(wide, blocks, thirties, hundreds, lanes)
        lean = 15.0 * _LEAN
        totals[INT4_128] += _settle(lanes[:32], n, 7.0, epsilon, unit / 7.0)
        totals[INT4_128 + 1] += _settle(lanes[32:64], n, lean, epsilon, unit / 15.0)
        totals[INT4_32] += _settle(lanes[64:96], n, 7.0, epsilon, unit / 7.0)
        totals[INT4_32 + 1] += _settle(lanes[96:], n, lean, epsilon, unit / 15.0)
        if odd_128:
            _odd_errors(wide, hundreds, blocks, 128, INT4_128, totals)
        if odd_32:
            _odd_errors(wide, thirties, 4 * blocks, 32, INT4_32, totals)
    if n < len(wide):
        _short_errors(wide, n, totals)


@compiled_for_finite
def int8(wide: Array, rate: Any) -> float:
    """Sum of squared errors in units of the scale."""
    wide_vectors()
    total = rate - rate
    for i in range(len(wide)):
        y = wide[i] * rate
        e = y - np.rint(y)
        total += e * e
    return np.float64(total)


@compiled
def int8_exact(wide: Array, largest: float) -> float:
    """The same in float64, for any scale above zero."""
    factor = 1.0
    if largest > 1e300:
        factor = _DOWN
    elif largest < 1e-280:
        factor = _UP
    rate = 127.0 / (largest * factor)
    total = 0.0
    for i in range(len(wide)):
        y = np.float64(wide[i]) * factor * rate
        e = y - np.rint(y)
        total += e * e
    return total
