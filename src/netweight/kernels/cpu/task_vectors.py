"""Blocks of a task vector: fine-tuned minus base weights, as float32, and what decides how they are worked on."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, F32Array, U8Array
from netweight.kernels.cpu.compiled import compiled, compiled_exactly
from netweight.kernels.cpu.elements import KINDS, TILE, eighth_tables, number_of_bfloat16, widen

__all__ = ["difference", "extent", "prepare"]

_CHUNK = 4096  # elements whose squares are summed together


@compiled_exactly
def _of_bfloat16(base: Array, model: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = np.float32(number_of_bfloat16(model[i]) - number_of_bfloat16(base[i]))


@compiled_exactly
def _of_any(a: Array, a_kind: int, b: Array, b_kind: int, eighths: Array, room: Array, out: Array) -> None:
    """`room` [2, TILE]: float32, or float64 where either side is."""
    for first in range(0, len(out), TILE):
        n = min(TILE, len(out) - first)
        base, model = room[0, :n], room[1, :n]
        widen(a, a_kind, first, None, eighths, base)
        widen(b, b_kind, first, None, eighths, model)
        for i in range(n):
            out[first + i] = model[i] - base[i]


@compiled
def _extent(values: Array) -> Any:
    squares = 0.0
    bits = np.int32(0)
    for first in range(0, len(values), _CHUNK):
        some = 0.0
        for i in range(first, min(first + _CHUNK, len(values))):
            some += np.float64(values[i]) * np.float64(values[i])
            bits = max(bits, np.float32(values[i]).view(np.int32) & np.int32(0x7FFFFFFF))
        squares += some
    return squares, bits


def difference(base: U8Array, base_dtype: DType, model: U8Array, model_dtype: DType, out: F32Array) -> None:
    """`out` float32 [n] = model - base, of the native elements in the bytes `base` and `model`.

    The difference is that of the upcast values in float32; where either side is float64, in float64, rounded once.
    """
    kinds = KINDS[base_dtype.name], KINDS[model_dtype.name]
    if base_dtype.name == model_dtype.name == "BF16":
        _of_bfloat16(_aligned(base, 2).view(np.uint16), _aligned(model, 2).view(np.uint16), out)
        return
    wide = "F64" in {base_dtype.name, model_dtype.name}
    room = np.empty((2, TILE), np.float64 if wide else np.float32)
    a, b = _aligned(base, base_dtype.bits // 8), _aligned(model, model_dtype.bits // 8)
    _of_any(a, kinds[0], b, kinds[1], eighth_tables(), room, out)


def extent(values: F32Array) -> tuple[float, float]:
    """(the sum of squares in float64, the largest absolute value) of float32 [n] in C order; the latter is NaN or
    infinite where any element is.
    """
    squares, bits = _extent(values.reshape(-1))
    return float(squares), float(np.int32(bits).view(np.float32))


def prepare(base_dtype: DType, model_dtype: DType) -> None:
    """Compile or load the loops for these types."""
    out = np.zeros(8, np.float32)
    raw = [np.zeros(dtype.nbytes(8), np.uint8) for dtype in (base_dtype, model_dtype)]
    difference(raw[0], base_dtype, raw[1], model_dtype, out)
    extent(out)


def _aligned(raw: U8Array, width: int) -> U8Array:
    return raw if raw.ctypes.data % width == 0 and raw.flags.writeable else raw.copy()
