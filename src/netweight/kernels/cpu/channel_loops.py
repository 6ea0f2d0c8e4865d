"""Quantization errors by row and group, extremes by row and column, groups of four, in one sweep over rows.

A chunk of a row is widened into the first cache, and every loop goes over it there.
"""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.channels import DEAD, PIECE
from netweight.kernels.cpu.compiled import compiled, compiled_for_finite
from netweight.kernels.cpu.elements import widen
from netweight.kernels.cpu.groups import GROUPS_ROOM, INT8, LANES, int4, int8, int8_exact

__all__ = ["ROOM", "sweep"]

HELD = 16384  # elements of a row that stay widened between the sweep for extremes and the one for int8 errors
ROOM = HELD + 2 * GROUPS_ROOM + LANES


@compiled
def _magnitude_extremes(bits: Array, sign: Array, extremes: Array) -> None:
    """extremes[:2] = least and largest of the bits without their sign, which order as magnitudes do."""
    unsigned = bits.dtype.type  # numba widens what it computes of 32 bits, which halves the lanes
    magnitude = sign[0]
    least = magnitude
    most = unsigned(0)
    for i in range(len(bits)):
        size = unsigned(bits[i] & magnitude)
        least = unsigned(min(least, size))
        most = unsigned(max(most, size))
    extremes[0] = least
    extremes[1] = most


@compiled
def _drop(bits: Array, sign: Array, limit: Array) -> None:
    """Zeros for the elements that are not finite."""
    for i in range(len(bits)):
        if bits[i] & sign[0] >= limit[0]:
            bits[i] = 0


@compiled
def _load(
    raw: Array,
    kind: int,
    first: int,
    eighths: Array,
    out: Array,
    bits: Array,
    sign: Array,
    limit: Array,
    extremes: Array,
) -> None:
    """Widen, with zeros for what is not finite; extremes[:2] as `_magnitude_extremes` leaves it."""
    widen(raw, kind, first, None, eighths, out)
    _magnitude_extremes(bits, sign, extremes)
    if extremes[1] >= limit[0]:
        _drop(bits, sign, limit)
        _magnitude_extremes(bits, sign, extremes)


@compiled_for_finite
def _raise_columns(wide: Array, columns: Array) -> None:
    for i in range(len(wide)):
        size = abs(wide[i])
        columns[i] = max(columns[i], size)


@compiled
def _count_sparse_fours(bits: Array, sign: Array) -> int:
    sparse = np.int64(0)
    magnitude = sign[0]
    for i in range(len(bits) // 4):
        j = np.uintp(4 * i)
        zeros = np.int64((bits[j] & magnitude) == 0) + np.int64((bits[j + np.uintp(1)] & magnitude) == 0)
        zeros += np.int64((bits[j + np.uintp(2)] & magnitude) == 0) + np.int64((bits[j + np.uintp(3)] & magnitude) == 0)
        sparse += np.int64(zeros >= 2)
    return int(sparse)


@compiled
def sweep(
    raw: Array,
    kind: int,
    rows: int,
    cols: int,
    first_reading: bool,  # noqa: FBT001 - numba's loops take no keywords from Python's side
    second_reading: bool,  # noqa: FBT001
    whole: bool,  # noqa: FBT001
    last: bool,  # noqa: FBT001
    length: int,
    eighths: Array,
    held: Array,
    held_bits: Array,
    sign: Array,
    limit: Array,
    bounds: Array,
    epsilon: float,
    columns: Array,
    row: Array,
    totals: Array,
    counts: Array,
) -> None:
    """`rows` rows of `cols` elements in `raw`, or a piece of one row (whole = False; `last`: its last one).

    first_reading: everything but int8; second_reading: int8, with the largest magnitude that the first one left in
    row[0]; row[1]: its errors so far, in units of its scale. columns[cols]: largest magnitudes so far, or empty.
    length: the elements of a whole row. totals[5]: sums of squared errors; counts[3]: dead rows, groups of four, those
    of them with two zeros or more. held[ROOM], held_bits: room for a row and for groups, and its bits.
    """
    keep = cols <= HELD
    thirties = held[HELD : HELD + GROUPS_ROOM]
    hundreds = held[HELD + GROUPS_ROOM : HELD + 2 * GROUPS_ROOM]
    lanes = held[HELD + 2 * GROUPS_ROOM :]
    extremes = np.zeros(2, held_bits.dtype)  # bits of magnitudes
    sizes = extremes.view(held.dtype)
    rate = np.zeros(1, held.dtype)
    for r in range(rows):
        if whole:
            row[:] = 0.0
        if first_reading:
            for start in range(0, cols, PIECE):
                n = min(PIECE, cols - start)
                at = start if keep else 0
                wide = held[at : at + n]
                bits = held_bits[at : at + n]
                _load(raw, kind, r * cols + start, eighths, wide, bits, sign, limit, extremes)
                row[0] = max(row[0], np.float64(sizes[1]))
                counts[1] += n // 4
                if extremes[0] == 0:
                    counts[2] += _count_sparse_fours(bits, sign)
                if extremes[1] == 0:
                    continue
                if len(columns):
                    _raise_columns(wide, columns[start : start + n])
                int4(wide, np.float64(sizes[1]), thirties, hundreds, lanes, bounds, epsilon, totals)
            if (whole or last) and row[0] <= DEAD:
                counts[0] += 1
        largest = row[0]
        if second_reading and largest > 0.0:
            fits = largest >= bounds[0] and largest <= bounds[1]
            rate[0] = 127.0 / largest if fits else 0.0
            for start in range(0, cols, PIECE):
                n = min(PIECE, cols - start)
                at = start if keep else 0
                wide = held[at : at + n]
                if not (keep and first_reading):
                    bits = held_bits[at : at + n]
                    _load(raw, kind, r * cols + start, eighths, wide, bits, sign, limit, extremes)
                row[1] += int8(wide, rate[0]) if fits else int8_exact(wide, largest)
            if whole or last:
                resolution = 4.0 * 127.0 * (epsilon if fits else 2.0**-52)
                if row[1] > length * resolution * resolution:
                    scale = largest / 127.0
                    totals[INT8] += row[1] * scale * scale
