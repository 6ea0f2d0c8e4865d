"""What adapters make of a matrix: a product of two thin ones added, rows scaled to given norms."""

from __future__ import annotations

from math import sqrt

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["add_product", "scale_rows"]


@compiled_exactly
def add_product(left: Array, right: Array, scale: float, col: int, out: Array) -> None:
    """Add scale * (left @ right) to `out` [n] float32, elements of a matrix, row after row, from column `col` of the
    first row: left [rows, r], right [r, cols], float32. Every sum runs over r in order, in float32.
    """
    cols = right.shape[1]
    sums = np.empty(cols, np.float32)
    at = 0
    for row in range(len(left)):
        some = min(cols - col, len(out) - at)
        held = sums[:some]
        held[:] = 0
        for k in range(left.shape[1]):
            factor, line = left[row, k], right[k, col : col + some]
            for c in range(some):
                held[c] = np.float32(held[c] + np.float32(factor * line[c]))
        into = out[at : at + some]
        for c in range(some):
            into[c] = np.float32(into[c] + np.float32(np.float32(scale) * held[c]))
        at += some
        col = 0


@compiled_exactly
def scale_rows(values: Array, norms: Array) -> None:
    """Scale every row of `values` [rows, cols] float32 to the norm that `norms` [rows] float32 has for it. Squares are
    summed in order, in float64.
    """
    for row in range(len(values)):
        line = values[row]
        total = 0.0
        for c in range(len(line)):
            total += np.float64(line[c]) * np.float64(line[c])
        factor = np.float32(np.float64(norms[row]) / sqrt(total))
        for c in range(len(line)):
            line[c] = np.float32(factor * line[c])
