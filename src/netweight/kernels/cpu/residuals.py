"""Values with a bit below their leading 16: told from the others, kept, counted, the finite ones sorted out."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.bits import leading, low
from netweight.kernels.cpu.compiled import compiled

__all__ = ["finite_to_front", "gather", "keep", "or_by_eight"]

_ONE = np.uint32(1)


@compiled
def or_by_eight(bits: Array, flags: Array) -> Any:
    """flags[g] = the bits of eight values, n/8 apart, or-ed; returns all bits or-ed, zero where every value is +0.0."""
    eighth = len(bits) // 8
    result = bits[0]
    for g in range(eighth):
        either = (
            (bits[g] | bits[g + eighth])
            | (bits[g + 2 * eighth] | bits[g + 3 * eighth])
            | (bits[g + 4 * eighth] | bits[g + 5 * eighth])
            | (bits[g + 6 * eighth] | bits[g + 7 * eighth])
        )
        flags[g] = either
        result |= either
    for i in range(8 * eighth, len(bits)):
        result |= bits[i]
    return result


@compiled
def gather(bits: Array, flags: Array, out: Array) -> int:
    """Copy residual values to the front of `out` (one longer than bits), by the flags of `or_by_eight`; returns how
    many.

    Where differences of neighbouring bfloat16 numbers have no such bits, nor has nearly any group of eight.
    """
    eighth = len(bits) // 8
    k = np.uintp(0)
    for g in range(eighth):
        if low(flags[g]) != 0:
            for j in range(8):
                x = bits[np.uintp(g + j * eighth)]
                out[k] = x
                k += np.uintp(low(x) != 0)
    for i in range(8 * eighth, len(bits)):
        x = bits[i]
        out[k] = x
        k += np.uintp(low(x) != 0)
    return int(k)


@compiled
def keep(bits: Array, kept: Array, counts: Array, store: Array, stored: int) -> int:
    """Count residual values by their leading bits and append those that are kept; -1 where `store` is full."""
    k = np.uintp(stored)
    room = np.uintp(len(store) - 1)
    for i in range(len(bits)):
        x = bits[i]
        top = leading(x)
        counts[top] += _ONE
        store[k] = x
        k = min(k + np.uintp(kept[top]), room)
    return -1 if k == room else int(k)


@compiled
def _all_finite(bits: Array, exponent: Any) -> bool:
    most = bits[0] & exponent
    for i in range(len(bits)):
        most = max(most, bits[i] & exponent)
    return bool(most != exponent)


@compiled
def finite_to_front(bits: Array, exponent: Any) -> int:
    """Move the finite values, whose `exponent` bits are not all set, to the front of bits [n >= 1]; returns how
    many.
    """
    if _all_finite(bits, exponent):
        return len(bits)
    k = 0
    for i in range(len(bits)):
        if (bits[i] & exponent) != exponent:
            bits[k] = bits[i]
            k += 1
    return k
