"""Stored elements as numbers: every floating-point type to float32 or float64, which hold it exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from netweight.dtypes import DTYPES, DType
from netweight.kernels.arrays import Array, F64Array, U8Array
from netweight.kernels.cpu.compiled import compiled_exactly
from netweight.kernels.cpu.sources import stands_for
from netweight.kernels.tables import numbers_of_patterns

__all__ = [
    "ABSENT",
    "APART",
    "BFLOAT16",
    "FLOAT8",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "KINDS",
    "TILE",
    "copy",
    "eighth_tables",
    "half_table",
    "look_up",
    "native_rows",
    "number_of_bfloat16",
    "numbers_of",
    "widen",
    "widen_bfloat16",
    "widen_half",
    "widen_rows",
]

ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FLOAT8 = 0, 1, 2, 3, 4, 16  # FLOAT8 + i: the i-th 8-bit table

_EIGHTHS = [d for d in DTYPES.values() if d.bits == 8 and d.numpy_name and d.numpy_name.startswith("ml_dtypes")]
KINDS = {
    "BF16": BFLOAT16,
    "F16": FLOAT16,
    "F32": FLOAT32,
    "F64": FLOAT64,
    **{d.name: FLOAT8 + i for i, d in enumerate(_EIGHTHS)},
}
"""The number of each element type in compiled loops, by its name."""

_PATTERNS = {8: np.uint8, 16: np.uint16}

TILE = 1024
"""Elements that are widened at a time, so that they stay in the first cache."""

APART = 24
"""Elements between tiles: those that share the low 12 bits of their addresses wait for each other."""

_TINY = np.float32(2.0**-24)


def half_table() -> Array:
    """float32 [65536], the number of every float16 pattern."""
    return numbers_of_patterns(DTYPES["F16"])


@cache
def eighth_tables() -> Array:
    """float32 [tables, 256], the number of every pattern of each 8-bit float: see FLOAT8."""
    return np.stack([numbers_of_patterns(d) for d in _EIGHTHS])


@compiled_exactly
def number_of_bfloat16(pattern: Any) -> Any:
    """float32 of a uint16."""
    return np.uint32(np.uint32(pattern) << np.uint32(16)).view(np.float32)


@compiled_exactly
def widen_bfloat16(patterns: Array, out: Array) -> None:
    """out float32 or float64 [n] = bfloat16 patterns uint16 [n]."""
    for i in range(len(out)):
        out[i] = number_of_bfloat16(patterns[i])


@compiled_exactly
def widen_half(patterns: Array, out: Array) -> None:
    """out float32 or float64 [n] = float16 patterns uint16 [n]; denormal ones as integers, since a product of denormals
    takes a hundred times as long.
    """
    for i in range(len(out)):
        size = np.uint32(patterns[i] & np.uint16(0x7FFF))
        sign = np.uint32(np.uint32(patterns[i] & np.uint16(0x8000)) << np.uint32(16))
        bias = np.uint32(0x70000000) if size >= np.uint32(0x7C00) else np.uint32(0x38000000)
        normal = np.uint32(np.uint32(size << np.uint32(13)) + bias)
        small = np.float32(np.float32(np.int32(size)) * _TINY).view(np.uint32)
        bits = small if size < np.uint32(0x400) else normal
        out[i] = np.uint32(bits | sign).view(np.float32)


@compiled_exactly
def look_up(patterns: Array, table: Array, out: Array) -> None:
    """out [n] = table[patterns uint8 or uint16 [n]]."""
    for i in range(len(out)):
        out[i] = table[patterns[i]]


@compiled_exactly
def copy(values: Array, out: Array) -> None:
    """out [n] = values [n], in out's type."""
    for i in range(len(out)):
        out[i] = values[i]


@compiled_exactly
def widen(raw: Array, kind: int, first: int, half: Array | None, eighths: Array, out: Array) -> None:
    """out [n] = the elements from `first` of the bytes `raw`, in out's type; tables as above.

    Where `half` is None, float16 is computed: the table would push what else is at work out of the cache.
    """
    n = len(out)
    if kind == BFLOAT16:
        widen_bfloat16(raw.view(np.uint16)[first : first + n], out)
    elif kind == FLOAT16:
        if half is None:
            widen_half(raw.view(np.uint16)[first : first + n], out)
        else:
            look_up(raw.view(np.uint16)[first : first + n], half, out)
    elif kind == FLOAT32:
        copy(raw.view(np.float32)[first : first + n], out)
    elif kind == FLOAT64:
        copy(raw.view(np.float64)[first : first + n], out)
    else:
        look_up(raw[first : first + n], eighths[kind - FLOAT8], out)


def numbers_of(row: Array, half: bool, room: Array) -> Array:  # noqa: FBT001 - compiled functions take no keywords
    """The row itself where it is float32 or float64; else the numbers of its patterns uint16 in `room`, float32.

    half: the patterns are of float16, else of bfloat16.
    """
    if row.dtype != np.uint16:
        return row
    out = room[: len(row)]
    widen_half(row, out) if half else widen_bfloat16(row, out)
    return out


@stands_for(numbers_of, strict=False)
def _numbers_of_row(row: Any, half: Any, room: Any) -> Any:  # noqa: ARG001
    from numba import types  # noqa: PLC0415 - where it is compiled

    if row.dtype != types.uint16:
        return lambda row, half, room: row  # noqa: ARG005

    def widened(row: Array, half: bool, room: Array) -> Array:  # noqa: FBT001
        out = room[: len(row)]
        if half:
            widen_half(row, out)
        else:
            widen_bfloat16(row, out)
        return out

    return widened


@compiled_exactly
def _widen_rows_of_bfloat16(native: Array, first: int, out: Array) -> None:
    for r in range(len(out)):
        widen_bfloat16(native[r, first : first + out.shape[1]], out[r])


@compiled_exactly
def _look_up_rows(native: Array, first: int, table: Array, out: Array) -> None:
    for r in range(len(out)):
        look_up(native[r, first : first + out.shape[1]], table, out[r])


@compiled_exactly
def _copy_rows(native: Array, first: int, out: Array) -> None:
    for r in range(len(out)):
        copy(native[r, first : first + out.shape[1]], out[r])


def native_rows(block: U8Array, dtype: DType, cols: int) -> Array:
    """Bytes of whole rows as [rows, cols], as `widen_rows` takes them: 8- and 16-bit elements by their bits."""
    native = block.view(_PATTERNS.get(dtype.bits) or dtype.to_numpy()).reshape(-1, cols)
    return native if native.flags.aligned else native.copy()


def widen_rows(native: Array, dtype: DType, first: int, out: F64Array) -> None:
    """out [rows, w] = the elements of `native_rows` from column `first`."""
    if native.shape == out.shape:  # whole rows, which may be short, are one long row
        native, out = native.reshape(1, -1), out.reshape(1, -1)
    if dtype.name == "BF16":
        _widen_rows_of_bfloat16(native, first, out)
    elif dtype.bits in _PATTERNS:
        _look_up_rows(native, first, numbers_of_patterns(dtype), out)
    else:
        _copy_rows(native, first, out)
