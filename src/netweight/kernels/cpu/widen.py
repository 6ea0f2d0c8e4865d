"""Native elements to float64, for the matrices that BLAS and LAPACK see. One file: see loops.py on numba's cache."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.protocol import F64Array, U8Array

__all__ = ["greatest", "patterns", "widen"]

Array = np.ndarray[Any, Any]

_LOOKED_UP = {8: np.uint8, 16: np.uint16}


@compiled
def _widen_bfloat16(found: Array, first: int, out: Array) -> None:
    for r in range(len(out)):
        for i in range(out.shape[1]):
            out[r, i] = np.uint32(np.uint32(found[r, first + i]) << np.uint32(16)).view(np.float32)


@compiled
def _look_up(found: Array, first: int, table: Array, out: Array) -> None:
    for r in range(len(out)):
        for i in range(out.shape[1]):
            out[r, i] = table[found[r, first + i]]


@compiled
def _copy(found: Array, first: int, out: Array) -> None:
    for r in range(len(out)):
        for i in range(out.shape[1]):
            out[r, i] = found[r, first + i]


@compiled
def _greatest(bits: Array) -> int:
    most = np.int64(0)
    for i in range(len(bits)):
        most = max(most, bits[i] & np.int64(0x7FFFFFFFFFFFFFFF))
    return int(most)


@cache
def _table(dtype: DType) -> F64Array:
    """The value of every pattern; patterns of NaN give NaN."""
    native = np.arange(1 << dtype.bits, dtype=_LOOKED_UP[dtype.bits]).view(dtype.to_numpy())
    with np.errstate(invalid="ignore"):  # signalling NaN
        found: F64Array = native.astype(np.float32).astype(np.float64)
    return found


def patterns(block: U8Array, dtype: DType, cols: int) -> Array:
    """Bytes of whole rows as [rows, cols], as the loops want them: 8- and 16-bit elements by their bits."""
    native = block.view(_LOOKED_UP.get(dtype.bits) or dtype.to_numpy()).reshape(-1, cols)
    return native if native.flags.aligned else native.copy()


def widen(found: Array, dtype: DType, first: int, out: F64Array) -> None:
    """out [rows, w] = the elements of `patterns` from column `first`."""
    if dtype.name == "BF16":
        _widen_bfloat16(found, first, out)
    elif dtype.bits in _LOOKED_UP:
        _look_up(found, first, _table(dtype), out)
    else:
        _copy(found, first, out)


def greatest(values: F64Array) -> float:
    """The largest absolute value of a contiguous array, infinite or NaN where any element is."""
    # Of non-negative floats the order of the bits is the order of the values, and NaN is above infinity.
    return float(np.int64(_greatest(values.reshape(-1).view(np.int64))).view(np.float64))
