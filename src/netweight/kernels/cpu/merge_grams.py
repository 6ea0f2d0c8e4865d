"""Inner products of several rows, or of their differences. One file: see loops.py on numba's cache.

Rows are as in merge_loops.py, whose way to widen a tile of them is said here again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import types
from numba.extending import overload

from netweight.kernels.cpu.compiled import _compile, compiled

__all__ = ["add_gram"]


F = TypeVar("F", bound=Callable[..., object])
Array = np.ndarray[Any, Any]

_CHUNK = 4096  # kernels.protocol.CHUNK, which numba's cache would not see change
_TILE = 1024
_APART = 24  # see merge_loops.py
_TINY = np.float32(2.0**-24)


def _exactly(function: F) -> F:
    return _compile(function, set())


@_exactly
def _widen_bfloat16(patterns: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = np.uint32(np.uint32(patterns[i]) << np.uint32(16)).view(np.float32)


@_exactly
def _widen_half(patterns: Array, out: Array) -> None:
    for i in range(len(out)):
        size = np.uint32(patterns[i] & np.uint16(0x7FFF))
        sign = np.uint32(np.uint32(patterns[i] & np.uint16(0x8000)) << np.uint32(16))
        bias = np.uint32(0x70000000) if size >= np.uint32(0x7C00) else np.uint32(0x38000000)
        normal = np.uint32(np.uint32(size << np.uint32(13)) + bias)
        small = np.float32(np.float32(np.int32(size)) * _TINY).view(np.uint32)
        bits = small if size < np.uint32(0x400) else normal
        out[i] = np.uint32(bits | sign).view(np.float32)


def _numbers(row: Array, half: bool, room: Array) -> Array:  # noqa: FBT001 - compiled functions take no keywords
    """The row itself where it is float32 or float64, else its numbers in `room`."""
    if row.dtype != np.uint16:
        return row
    found = room[: len(row)]
    _widen_half(row, found) if half else _widen_bfloat16(row, found)
    return found


@overload(_numbers, strict=False)
def _numbers_of(row: Any, half: Any, room: Any) -> Any:  # noqa: ARG001
    if row.dtype != types.uint16:
        return lambda row, half, room: row  # noqa: ARG005

    def numbers(row: Array, half: bool, room: Array) -> Array:  # noqa: FBT001
        found = room[: len(row)]
        if half:
            _widen_half(row, found)
        else:
            _widen_bfloat16(row, found)
        return found

    return numbers


@compiled
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for k in range(len(a)):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled
def _dot_with_two(a: Array, b: Array, c: Array, found: Array) -> None:
    ab = 0.0
    ac = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
    found[0] = ab
    found[1] = ac


@compiled
def _dot_with_three(a: Array, b: Array, c: Array, d: Array, found: Array) -> None:
    ab = 0.0
    ac = 0.0
    ad = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
        ad += value * np.float64(d[k])
    found[0] = ab
    found[1] = ac
    found[2] = ad


@compiled
def _add_products(x: Array, count: int, total: Array, found: Array) -> None:
    for i in range(len(x)):
        a = x[i, :count]
        for j in range(0, i + 1, 3):
            if j + 2 <= i:
                _dot_with_three(a, x[j, :count], x[j + 1, :count], x[j + 2, :count], found)
            elif j + 1 <= i:
                _dot_with_two(a, x[j, :count], x[j + 1, :count], found)
            else:
                found[0] = _dot(a, x[j, :count])
            for k in range(min(3, i + 1 - j)):
                total[i, j + k] += found[k]


@_exactly
def _difference(a: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = a[i] - base[i]


@_exactly
def _copy(a: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = a[i]


@compiled
def add_gram(x: Array, half: bool, first_row: int, total: Array) -> None:  # noqa: FBT001
    """total += inner products of the rows of `x` [rows, n], or, where first_row is 1, of x[1:] - x[0].

    Chunk by chunk; the products of float32 are exact.
    """
    found = np.zeros(3, np.float64)
    wide = np.empty((2, _TILE + _APART), np.float32)
    room = np.empty((len(x) - first_row, _TILE + _APART), np.float64)
    sums = np.empty(total.shape, np.float64)
    count = x.shape[1]
    for chunk in range(0, count, _CHUNK):
        sums[:] = 0.0
        for first in range(chunk, min(chunk + _CHUNK, count), _TILE):
            last = min(first + _TILE, count)
            base = _numbers(x[0, first:last], half, wide[0])
            for m in range(len(room)):
                a = _numbers(x[m + first_row, first:last], half, wide[1])
                if first_row:
                    _difference(a, base, room[m, : last - first])
                else:
                    _copy(a, room[m, : last - first])
            _add_products(room, last - first, sums, found)
        for i in range(len(room)):
            for j in range(i + 1):
                total[i, j] += sums[i, j]
                if j < i:
                    total[j, i] += sums[i, j]
