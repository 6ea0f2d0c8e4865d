"""What adapters make of a matrix: a product of two thin ones added, rows scaled to given norms."""

from __future__ import annotations

from math import sqrt

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["add_product", "scale_rows"]


_TILE = 512  # columns that four rows are summed for at a time: their sums stay in the first cache


@compiled_exactly
def _row(weight: Array, left: Array, right: Array, scale: np.float32, col: int, sums: Array, out: Array) -> None:
    """out = weight + scale * (left @ right) in columns `col` to `col + n`: weight and out [n], left [r], right
    [r, cols], sums [cols].
    """
    count = len(out)
    sums[:count] = 0
    for k in range(len(left)):
        factor, line = left[k], right[k, col : col + count]
        for c in range(count):
            sums[c] += factor * line[c]
    for c in range(count):
        out[c] = weight[c] + scale * sums[c]


@compiled_exactly
def _four_rows(weight: Array, left: Array, right: Array, scale: np.float32, col: int, sums: Array, out: Array) -> None:
    """The same in columns `col` to at most `col` + _TILE: weight and out [4, cols], left [4, r], sums [4, _TILE]. Four
    rows share what is read of `right`, and a sum takes four terms at a time, in their order.
    """
    stop = min(col + _TILE, right.shape[1])
    count = stop - col
    s, t, u, v = sums[0], sums[1], sums[2], sums[3]
    sums[:] = 0
    some = len(right) - len(right) % 4
    for k in range(0, some, 4):
        d, e, f, g = right[k, col:stop], right[k + 1, col:stop], right[k + 2, col:stop], right[k + 3, col:stop]
        s0, s1, s2, s3 = left[0, k], left[0, k + 1], left[0, k + 2], left[0, k + 3]
        t0, t1, t2, t3 = left[1, k], left[1, k + 1], left[1, k + 2], left[1, k + 3]
        u0, u1, u2, u3 = left[2, k], left[2, k + 1], left[2, k + 2], left[2, k + 3]
        v0, v1, v2, v3 = left[3, k], left[3, k + 1], left[3, k + 2], left[3, k + 3]
        for c in range(count):
            s[c] = s[c] + s0 * d[c] + s1 * e[c] + s2 * f[c] + s3 * g[c]
            t[c] = t[c] + t0 * d[c] + t1 * e[c] + t2 * f[c] + t3 * g[c]
            u[c] = u[c] + u0 * d[c] + u1 * e[c] + u2 * f[c] + u3 * g[c]
            v[c] = v[c] + v0 * d[c] + v1 * e[c] + v2 * f[c] + v3 * g[c]
    for row in range(4):
        held, given, made = sums[row], weight[row, col:stop], out[row, col:stop]
        for k in range(some, len(right)):
            factor, line = left[row, k], right[k, col:stop]
            for c in range(count):
                held[c] += factor * line[c]
        for c in range(count):
            made[c] = given[c] + scale * held[c]


@compiled_exactly
def add_product(weight: Array, left: Array, right: Array, scale: float, col: int, out: Array) -> None:
    """out = weight + scale * (left @ right), float32: `weight` and `out` [n] are elements of a matrix, row after row,
    from column `col` of the first row; left [rows, r], right [r, cols]. Every sum runs over r in order.
    """
    cols = right.shape[1]
    tile, line, factor = np.empty((4, _TILE), np.float32), np.empty(cols, np.float32), np.float32(scale)
    at = row = 0
    while at < len(out):
        some = min(cols - col, len(out) - at)
        if col == 0 and len(out) - at >= 4 * cols:
            some = 4 * cols
            given, made = weight[at : at + some].reshape(4, cols), out[at : at + some].reshape(4, cols)
            for first in range(0, cols, _TILE):
                _four_rows(given, left[row : row + 4], right, factor, first, tile, made)
        else:
            _row(weight[at : at + some], left[row], right, factor, col, line, out[at : at + some])
        at, row, col = at + some, row + (some + cols - 1) // cols, 0


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
