"""Codes of one byte times scales: weights that are stored in 8 bits, with a scale for every block."""

from __future__ import annotations

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["scale_codes"]


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
            stop = min(last, (col // step + 1) * step)
            for i in range(at, at + stop - col):
                out[i] = values[codes[i]] * scale
            at += stop - col
            col = stop
        row += 1
        col = 0
