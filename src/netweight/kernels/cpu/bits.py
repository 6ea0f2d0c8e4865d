"""Parts of the bits of a float32 or float64, given as an unsigned or signed integer of its width."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.cpu.sources import stands_for

__all__ = ["leading", "leading_shift", "low", "ordered"]


def leading(bits: Any) -> Any:
    """The leading 16 bits of a uint32 or uint64; the constants must be known when the loop is compiled."""
    return bits >> (8 * bits.itemsize - 16)


@stands_for(leading, inline="always", strict=False)
def _leading_of(bits: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if bits == types.uint32:
        return lambda bits: np.uint32(bits) >> np.uint32(16)
    return lambda bits: bits >> np.uint64(48)


def leading_shift(bits: Any) -> Any:
    """How many bits of the elements of a uint32 or uint64 array are below the leading 16, in their type."""
    return bits.dtype.type(8 * bits.itemsize - 16)


@stands_for(leading_shift, inline="always", strict=False)
def _leading_shift_of(bits: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if bits.dtype == types.uint32:
        return lambda bits: np.uint32(16)  # noqa: ARG005
    return lambda bits: np.uint64(48)  # noqa: ARG005


def low(bits: Any) -> Any:
    """All bits below the leading 16."""
    return bits & ((1 << (8 * bits.itemsize - 16)) - 1)


@stands_for(low, inline="always", strict=False)
def _low_of(bits: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if bits == types.uint32:
        return lambda bits: np.uint32(bits) & np.uint32(0xFFFF)
    return lambda bits: bits & np.uint64(0xFFFFFFFFFFFF)


def ordered(bits: Any) -> Any:
    """A signed integer in the order of the values whose bits these are; the same step leads back."""
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max)


@stands_for(ordered, inline="always", strict=False)
def _ordered_of(bits: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if bits == types.int32:
        return lambda bits: np.int32(bits ^ np.int32((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return lambda bits: bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))
