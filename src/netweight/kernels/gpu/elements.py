"""Native elements on the device, as numbers: every type exactly, 8-bit floats by a table."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import Array
from netweight.kernels.tables import numbers_of_patterns

__all__ = ["floats", "integers", "leading_bits", "scalar", "upload", "widened"]

_VIEWS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def upload(array: Array, device: torch.device) -> torch.Tensor:
    """The array on the device, of its type (uint16 as int16); shares memory with it where the device is the CPU."""
    if array.dtype == np.uint16:
        array = array.view(np.int16)
    # torch refuses read-only memory, and views of other types want their own alignment
    usable = array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % 8 == 0
    return torch.from_numpy(array if usable else array.copy()).to(device)


def scalar(value: float, like: torch.Tensor) -> torch.Tensor:
    """A number of the type and on the device of `like`.

    torch multiplies by the reciprocal where it divides by a number of Python's, or by one on the host, which rounds
    twice; so numbers travel.
    """
    return torch.full((), value, dtype=torch.float64).to(like.dtype).to(like.device)


def integers(raw: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 or int32 [n], none negative: the patterns of 8- or 16-bit elements in the bytes `raw`."""
    return raw if bits == 8 else raw.view(torch.int16).to(torch.int32) & 0xFFFF


@cache
def _table(dtype: DType, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(numbers_of_patterns(dtype)).to(device)


def floats(raw: torch.Tensor, dtype: DType, kind: torch.dtype) -> torch.Tensor:
    """float32 or float64 [n] of the elements of a floating-point type in the bytes `raw`."""
    if dtype.bits == 8:
        return _table(dtype, raw.device)[raw.to(torch.int32)].to(kind)
    return raw.view(_VIEWS[dtype.name]).to(kind)


def widened(raw: torch.Tensor, dtype: DType, *, wide: bool) -> torch.Tensor:
    """float32, `wide`: float64, of native elements in bytes `raw` uint8 [n * dtype.bits / 8]; may share its memory."""
    if dtype.name == "BF16":
        values = (raw.view(torch.int16).to(torch.int32) << 16).view(torch.float32)
    elif dtype.name in _VIEWS:
        values = raw.view(_VIEWS[dtype.name])
    else:
        values = torch.index_select(_table(dtype, raw.device), 0, raw.to(torch.int32))
    return values.to(torch.float64 if wide else torch.float32)


def leading_bits(bits: torch.Tensor, count: int = 16) -> torch.Tensor:
    """The leading `count` bits of int32 or int64 bit patterns, as numbers from 0 (int32 where 16, else int64)."""
    below = 8 * bits.element_size() - count
    top = (bits >> below) & ((1 << count) - 1)
    return top.to(torch.int32) if count == 16 else top
