"""From a band to a tridiagonal matrix with the same eigenvalues, by chasing bulges down the band.

Column by column a reflection of `b` rows empties what is below the subdiagonal; what it fills in further down is
emptied by the next, until the end of the band (Lang 1993, "A parallel algorithm for reducing symmetric banded matrices
to tridiagonal form"). Blocks of b x b stay in the first caches.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from netweight.kernels.arrays import Array, F64Array
from netweight.kernels.cpu.compiled import compiled

__all__ = ["chase"]


@compiled
def _reflect(x: Array, v: Array) -> Any:
    """v and tau with (1 - tau v v^T) x = (x_0', 0, ...); x becomes that, v[0] is 1."""
    n = len(x)
    rest = 0.0
    for i in range(1, n):
        rest += x[i] * x[i]
    v[0] = 1.0
    if rest == 0.0:
        for i in range(1, n):
            v[i] = 0.0
        return 0.0
    norm = sqrt(x[0] * x[0] + rest)
    beta = -norm if x[0] >= 0.0 else norm
    scale = 1.0 / (x[0] - beta)
    tau = (beta - x[0]) / beta
    for i in range(1, n):
        v[i] = x[i] * scale
        x[i] = 0.0
    x[0] = beta
    return tau


@compiled
def _both_sides(band: Array, first: int, size: int, v: Array, tau: float, w: Array) -> None:
    """The diagonal block of `size` columns from `first`, reflected from both sides."""
    for i in range(size):
        w[i] = 0.0
    for c in range(size):
        column = band[first + c, : size - c]
        vc = v[c]
        below = w[c:size]
        ahead = v[c:size]
        dot = 0.0
        for i in range(1, size - c):
            below[i] += column[i] * vc
            dot += column[i] * ahead[i]
        below[0] += column[0] * vc + dot
    dot = 0.0
    for i in range(size):
        w[i] *= tau
        dot += w[i] * v[i]
    dot *= -0.5 * tau
    for i in range(size):
        w[i] += dot * v[i]
    for c in range(size):
        column = band[first + c, : size - c]
        vc, wc = v[c], w[c]
        ahead, below = v[c:size], w[c:size]
        for i in range(size - c):
            column[i] -= ahead[i] * wc + below[i] * vc


@compiled
def _from_right(band: Array, first: int, size: int, rows: int, v: Array, tau: float, w: Array) -> None:
    """The block of `rows` rows below the diagonal block of `size` columns from `first`, reflected from the right."""
    for i in range(rows):
        w[i] = 0.0
    for c in range(size):
        column = band[first + c, size - c : size - c + rows]
        vc = v[c]
        for i in range(rows):
            w[i] += column[i] * vc
    for c in range(size):
        column = band[first + c, size - c : size - c + rows]
        vc = tau * v[c]
        for i in range(rows):
            column[i] -= w[i] * vc


@compiled
def _from_left(band: Array, first: int, size: int, rows: int, v: Array, tau: float) -> None:
    """The same block but for its first column, reflected from the left."""
    for c in range(1, size):
        column = band[first + c, size - c : size - c + rows]
        dot = 0.0
        for i in range(rows):
            dot += column[i] * v[i]
        dot *= tau
        for i in range(rows):
            column[i] -= v[i] * dot


@compiled
def _chase(band: Array, b: int, v: Array, u: Array, w: Array) -> None:
    n = len(band)
    for s in range(n - 2):
        first = s + 1
        size = min(b, n - first)
        tau = _reflect(band[s, 1 : 1 + size], v)
        while True:
            if tau != 0.0:
                _both_sides(band, first, size, v, tau, w)
            rows = min(b, n - first - size)
            if rows <= 0:
                break
            if tau != 0.0:
                _from_right(band, first, size, rows, v, tau, w)
            tau = _reflect(band[first, size : size + rows], u)
            if tau != 0.0:
                _from_left(band, first, size, rows, u, tau)
            first += size
            size = rows
            for i in range(size):
                v[i] = u[i]


def chase(band: F64Array, b: int) -> None:
    """Make a symmetric band of b subdiagonals tridiagonal in place; band [n, 2 b] holds A[j + d, j] at [j, d]."""
    _chase(band, b, np.zeros(b), np.zeros(b), np.zeros(b))
