"""Codes times scales: weights that are stored in 8 or 4 bits, with a scale for every block."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["scale_codes", "widen_fours"]


@compiled_exactly
def scale_codes(
    codes: Array, values: Array, scales: Array, first: Array, col: int, cols: int, step: int, out: Array
) -> None:
    """Fill `out` [n] float32 with `values[codes]` (256 of them, float32) times their scales, rounded once each.

    The codes [n] lie row after row of `cols` elements, and begin at column `col` of their first row. `first` [rows] is
    where in `scales` (float32) those of each row begin: one for every `step` columns.
    """
    row = 0
    at = 0
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        while col < last:
            scale = scales[first[row] + col // step]
            count = min(last, (col // step + 1) * step) - col
            some = codes[at : at + count]  # slices: positions that numba knows not to be negative
            into = out[at : at + count]
            for i in range(count):
                into[i] = values[some[i]] * scale
            at += count
            col += count
        row += 1
        col = 0


@compiled_exactly
def widen_fours(pairs: Array, scales: Array, values: Array, powers: Array, out: Array) -> None:
    """Fill `out` [32 n] uint16 with bfloat16 of groups of 32 numbers of 4 bits, two in a byte of `pairs` [16 n], the
    low one first: `values` [16] float32, times the group's of `powers` [256] float32, by `scales` [n]; all are exact.
    """
    for group in range(len(scales)):
        power = powers[scales[group]]
        for i in range(16 * group, 16 * group + 16):
            low = np.float32(values[pairs[i] & 15] * power)
            high = np.float32(values[pairs[i] >> 4] * power)
            out[2 * i] = low.view(np.uint32) >> 16
            out[2 * i + 1] = high.view(np.uint32) >> 16
