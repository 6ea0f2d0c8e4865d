"""A matrix with a product of two thin ones added: what a LoRA adapter makes of a weight."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["add_product"]


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
