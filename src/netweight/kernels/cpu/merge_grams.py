"""Inner products of several rows, or of their differences: rows as in merge_arithmetic.py, widened tile by tile."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled, compiled_exactly
from netweight.kernels.cpu.elements import APART, TILE, copy, numbers_of
from netweight.kernels.cpu.sums import dot
from netweight.kernels.protocol import CHUNK

__all__ = ["add_gram"]


@compiled
def _dot_with_two(a: Array, b: Array, c: Array, products: Array) -> None:
    ab = 0.0
    ac = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
    products[0] = ab
    products[1] = ac


@compiled
def _dot_with_three(a: Array, b: Array, c: Array, d: Array, products: Array) -> None:
    ab = 0.0
    ac = 0.0
    ad = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
        ad += value * np.float64(d[k])
    products[0] = ab
    products[1] = ac
    products[2] = ad


@compiled
def _add_products(x: Array, count: int, total: Array, products: Array) -> None:
    for i in range(len(x)):
        a = x[i, :count]
        for j in range(0, i + 1, 3):
            if j + 2 <= i:
                _dot_with_three(a, x[j, :count], x[j + 1, :count], x[j + 2, :count], products)
            elif j + 1 <= i:
                _dot_with_two(a, x[j, :count], x[j + 1, :count], products)
            else:
                products[0] = dot(a, x[j, :count])
            for k in range(min(3, i + 1 - j)):
                total[i, j + k] += products[k]


@compiled_exactly
def _difference(a: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = a[i] - base[i]


@compiled
def add_gram(x: Array, half: bool, first_row: int, total: Array) -> None:  # noqa: FBT001
    """total += inner products of the rows of `x` [rows, n], or, where first_row is 1, of x[1:] - x[0].

    Chunk by chunk; the products of float32 are exact.
    """
    products = np.zeros(3, np.float64)
    wide = np.empty((2, TILE + APART), np.float32)
    room = np.empty((len(x) - first_row, TILE + APART), np.float64)
    sums = np.empty(total.shape, np.float64)
    count = x.shape[1]
    for chunk in range(0, count, CHUNK):
        sums[:] = 0.0
        for first in range(chunk, min(chunk + CHUNK, count), TILE):
            last = min(first + TILE, count)
            base = numbers_of(x[0, first:last], half, wide[0])
            for m in range(len(room)):
                a = numbers_of(x[m + first_row, first:last], half, wide[1])
                if first_row:
                    _difference(a, base, room[m, : last - first])
                else:
                    copy(a, room[m, : last - first])
            _add_products(room, last - first, sums, products)
        for i in range(len(room)):
            for j in range(i + 1):
                total[i, j] += sums[i, j]
                if j < i:
                    total[j, i] += sums[i, j]
