"""The loops that see every element. They stay in one file: numba's cache does not notice changes in called files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from netweight.kernels.cpu.compiled import compiled

__all__ = [
    "ABSENT",
    "BFLOAT16",
    "FLOAT8",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "add_block",
    "refine_block",
]

ABSENT, BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FLOAT8 = 0, 1, 2, 3, 4, 16  # FLOAT8 + i: the i-th 8-bit table
_ONE = np.uint32(1)

Array = np.ndarray[Any, Any]


def _leading(bits: Any) -> Any:
    """The leading 16 bits of a uint32 or uint64; the constants must be known when the loop is compiled."""
    return bits >> (8 * bits.itemsize - 16)


@overload(_leading, inline="always", strict=False)
def _leading_of(bits: Any) -> Any:
    if bits == types.uint32:
        return lambda bits: np.uint32(bits) >> np.uint32(16)
    return lambda bits: bits >> np.uint64(48)


def _low(bits: Any) -> Any:
    """All bits below the leading 16."""
    return bits & ((1 << (8 * bits.itemsize - 16)) - 1)


@overload(_low, inline="always", strict=False)
def _low_of(bits: Any) -> Any:
    if bits == types.uint32:
        return lambda bits: np.uint32(bits) & np.uint32(0xFFFF)
    return lambda bits: bits & np.uint64(0xFFFFFFFFFFFF)


@compiled
def _count_in_two(bits: Array, counts: Array) -> None:
    """counts[4, 65536 + padding] += occurrences of the values' leading 16 bits; two tables, which fit the first cache.

    See patterns.py for the tables and their padding.
    """
    for i in range(len(bits) // 2):
        j = np.uintp(2 * i)
        counts[0, _leading(bits[j])] += _ONE
        counts[1, _leading(bits[j + np.uintp(1)])] += _ONE
    if len(bits) % 2:
        counts[0, _leading(bits[-1])] += _ONE


@compiled
def _count_in_four(bits: Array, counts: Array) -> None:
    """The same in four tables, for values that are mostly zero and would wait for their own last store."""
    quarter = len(bits) // 4
    for i in range(quarter):
        j = np.uintp(4 * i)
        counts[0, _leading(bits[j])] += _ONE
        counts[1, _leading(bits[j + np.uintp(1)])] += _ONE
        counts[2, _leading(bits[j + np.uintp(2)])] += _ONE
        counts[3, _leading(bits[j + np.uintp(3)])] += _ONE
    for i in range(4 * quarter, len(bits)):
        counts[0, _leading(bits[i])] += _ONE


@compiled
def _zeros(counts: Array) -> int:
    return int(counts[0, 0]) + int(counts[1, 0]) + int(counts[2, 0]) + int(counts[3, 0])


@compiled
def _widen_bfloat16(patterns: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = np.uint32(np.uint32(patterns[i]) << np.uint32(16)).view(np.float32)


@compiled
def _subtract_from_bfloat16(patterns: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = np.uint32(np.uint32(patterns[i]) << np.uint32(16)).view(np.float32) - base[i]


@compiled
def _look_up(patterns: Array, table: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = table[patterns[i]]


@compiled
def _copy(values: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = values[i]


@compiled
def _subtract(base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] -= base[i]


@compiled
def _widen(raw: Array, kind: int, first: int, half: Array, eighths: Array, out: Array) -> None:
    """out[:] = the elements from `first` of `raw`, in out's type."""
    n = len(out)
    if kind == BFLOAT16:
        _widen_bfloat16(raw.view(np.uint16)[first : first + n], out)
    elif kind == FLOAT16:
        _look_up(raw.view(np.uint16)[first : first + n], half, out)
    elif kind == FLOAT32:
        _copy(raw.view(np.float32)[first : first + n], out)
    elif kind == FLOAT64:
        _copy(raw.view(np.float64)[first : first + n], out)
    else:
        _look_up(raw[first : first + n], eighths[kind - FLOAT8], out)


@compiled
def _difference(
    raw: Array, kind: int, first: int, half: Array, eighths: Array, base: Array, base_kind: int, out: Array
) -> None:
    """out[:] = the elements from `first` of `raw`, less `base` where there is one."""
    n = len(out)
    if kind == BFLOAT16 and base_kind != ABSENT:
        _subtract_from_bfloat16(raw.view(np.uint16)[first : first + n], base, out)
        return
    _widen(raw, kind, first, half, eighths, out)
    if base_kind != ABSENT:
        _subtract(base, out)


@compiled
def _together(bits: Array, flags: Array) -> Any:
    """flags[g] = the bits of eight values, n/8 apart, or-ed; returns all bits or-ed, zero where every value is +0.0."""
    eighth = len(bits) // 8
    found = bits[0]
    for g in range(eighth):
        either = (
            (bits[g] | bits[g + eighth])
            | (bits[g + 2 * eighth] | bits[g + 3 * eighth])
            | (bits[g + 4 * eighth] | bits[g + 5 * eighth])
            | (bits[g + 6 * eighth] | bits[g + 7 * eighth])
        )
        flags[g] = either
        found |= either
    for i in range(8 * eighth, len(bits)):
        found |= bits[i]
    return found


@compiled
def _residual(bits: Array, flags: Array, out: Array) -> int:
    """Copy the values with a bit below the leading 16 to the front of `out` (one longer than bits); returns how many.

    Where differences of neighbouring bfloat16 numbers have no such bits, nor has nearly any group of eight.
    """
    eighth = len(bits) // 8
    k = np.uintp(0)
    for g in range(eighth):
        if _low(flags[g]) != 0:
            for j in range(8):
                x = bits[np.uintp(g + j * eighth)]
                out[k] = x
                k += np.uintp(_low(x) != 0)
    for i in range(8 * eighth, len(bits)):
        x = bits[i]
        out[k] = x
        k += np.uintp(_low(x) != 0)
    return int(k)


@compiled
def _keep(bits: Array, kept: Array, counts: Array, store: Array, stored: int) -> int:
    """Count residual values by their leading bits and append those that are kept; -1 where `store` is full."""
    k = np.uintp(stored)
    room = np.uintp(len(store) - 1)
    for i in range(len(bits)):
        x = bits[i]
        leading = _leading(x)
        counts[leading] += _ONE
        store[k] = x
        k = min(k + np.uintp(kept[leading]), room)
    return -1 if k == room else int(k)


@compiled
def _all_finite(bits: Array, exponent: Any) -> bool:
    most = bits[0] & exponent
    for i in range(len(bits)):
        most = max(most, bits[i] & exponent)
    return bool(most != exponent)


@compiled
def _finite_only(bits: Array, exponent: Any) -> int:
    """Move the finite values to the front; returns how many."""
    k = 0
    for i in range(len(bits)):
        if (bits[i] & exponent) != exponent:
            bits[k] = bits[i]
            k += 1
    return k


@compiled
def _total(values: Array) -> float:
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total


def _ordered(bits: Any) -> Any:
    """A signed integer in the order of the values whose bits these are; the same step leads back."""
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max)


@overload(_ordered, inline="always", strict=False)
def _ordered_of(bits: Any) -> Any:
    if bits == types.int32:
        return lambda bits: np.int32(bits ^ np.int32((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return lambda bits: bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@compiled
def _extremes(keys: Array, values: Array, found: Array) -> None:
    """found[:2] = the least and the largest of `values` [k >= 1], whose bits `keys` are: integers go in lanes."""
    least = _ordered(keys[0])
    most = least
    for i in range(len(keys)):
        key = _ordered(keys[i])
        least = min(least, key)
        most = max(most, key)
    bits = np.empty(2, keys.dtype)
    bits[0] = _ordered(least)
    bits[1] = _ordered(most)
    found[0] = bits.view(values.dtype)[0]
    found[1] = bits.view(values.dtype)[1]


@compiled
def _central(values: Array, center: float, sums: Array) -> None:
    """sums[:5] = sum e, e^2, e^3, e^4 (e = value - center), abs(value)."""
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    absolute = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        e = value - center
        square = e * e
        s1 += e
        s2 += square
        s3 += square * e
        s4 += square * square
        absolute += abs(value)
    sums[0] = s1
    sums[1] = s2
    sums[2] = s3
    sums[3] = s4
    sums[4] = absolute


@compiled
def _merge(total: Array, n: float, mean: float, m2: float, m3: float, m4: float) -> None:
    """total[:5] (n, mean, M2, M3, M4) and another such set, in one (Pebay 2008, SAND2008-6212, eq. 2.1 and 3.1)."""
    na = total[0]
    if na == 0.0:
        total[0], total[1], total[2], total[3], total[4] = n, mean, m2, m3, m4
        return
    both = na + n
    d = mean - total[1]
    d_n = d / both
    a2 = total[2]
    a3 = total[3]
    total[4] += (
        m4
        + d * d_n * d_n * d_n * na * n * (na * na - na * n + n * n)
        + 6.0 * d_n * d_n * (na * na * m2 + n * n * a2)
        + 4.0 * d_n * (na * m3 - n * a3)
    )
    total[3] += m3 + d * d_n * d_n * na * n * (na - n) + 3.0 * d_n * (na * m2 - n * a2)
    total[2] += m2 + d * d_n * na * n
    total[1] += d_n * n
    total[0] = both


@compiled
def _add_moments(values: Array, keys: Array, sums: Array, total: Array) -> None:
    """Central moments of finite `values`, whose bits `keys` are, into total[:5], sum of abs, min and max into [5:8]."""
    n = np.float64(len(values))
    center = _total(values) / n
    _central(values, center, sums)
    _extremes(keys, values, sums[5:])
    d = sums[0] / n  # what rounding left of the mean
    m2 = sums[1] - sums[0] * d
    m3 = sums[2] - 3.0 * d * sums[1] + 2.0 * n * d * d * d
    m4 = sums[3] - 4.0 * d * sums[2] + 6.0 * d * d * sums[1] - 3.0 * n * d * d * d * d
    _merge(total, n, center + d, max(m2, 0.0), m3, max(m4, 0.0))
    total[5] += sums[4]
    total[6] = min(total[6], sums[5])
    total[7] = max(total[7], sums[6])


@compiled
def _product(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@compiled
def _safe_product(a: Array, b: Array) -> float:
    """The same over the places where both are finite."""
    total = _product(a, b)
    if np.isfinite(total):
        return total
    total = 0.0
    for i in range(len(a)):
        if np.isfinite(a[i]) and np.isfinite(b[i]):
            total += np.float64(a[i]) * np.float64(b[i])
    return total


@compiled
def _count_residual(bits: Array, counts: Array) -> None:
    for i in range(len(bits)):
        counts[_leading(bits[i])] += _ONE


@compiled
def add_block(
    raw: Array,
    kinds: Array,
    count: int,
    half: Array,
    eighths: Array,
    values: Array,
    bits: Array,
    exponent: Any,
    spare: Array,
    spare_bits: Array,
    spare_keys: Array,
    kept: Array,
    counts: Array,
    residual_counts: Array,
    residual_sums: Array,
    store: Array,
    stored: Array,
    gram: Array,
    base_square: Array,
) -> None:
    """One block: `count` elements of every row of raw[1 + N, bytes], taken in as protocol.DifferencePartial says.

    values[1 + N, CHUNK] and bits (its bits): the widened base and the differences of a chunk; spare, spare_bits,
    spare_keys: room for its residual values, its bits, and these signed; store[N, capacity], stored[N]: residual bits
    handed over, -1 where they did not fit.
    """
    models = len(kinds) - 1
    chunk = values.shape[1]
    sums = np.empty(7, np.float64)
    flags = np.empty(chunk // 8, bits.dtype)
    moved = np.zeros(models, np.bool_)
    zeros = np.empty(models, np.int64)  # found before this block
    for m in range(models):
        zeros[m] = _zeros(counts[m])
    for first in range(0, count, chunk):
        n = min(chunk, count - first)
        base = values[0, :n]
        if kinds[0] != ABSENT:
            _widen(raw[0], kinds[0], first, half, eighths, base)
            base_square[0] += _safe_product(base, base)
        for m in range(models):
            moved[m] = False
            if kinds[m + 1] == ABSENT:
                continue
            b = bits[m + 1, :n]
            _difference(raw[m + 1], kinds[m + 1], first, half, eighths, base, kinds[0], values[m + 1, :n])
            if not _together(b, flags):
                counts[m, 0, 0] += np.uint32(n)
                continue
            moved[m] = True
            if 2 * (_zeros(counts[m]) - zeros[m]) > first:
                _count_in_four(b, counts[m])
            else:
                _count_in_two(b, counts[m])
            found = _residual(b, flags, spare_bits)
            if found:
                if stored[m] >= 0:
                    stored[m] = _keep(spare_bits[:found], kept, residual_counts[m], store[m], stored[m])
                else:
                    _count_residual(spare_bits[:found], residual_counts[m])
                finite = found
                if not _all_finite(spare_bits[:found], exponent):
                    finite = _finite_only(spare_bits[:found], exponent)
                if finite:
                    _add_moments(spare[:finite], spare_keys[:finite], sums, residual_sums[m])
        for m in range(models):
            for other in range(m):
                if moved[m] and moved[other]:
                    gram[m, other] += _safe_product(values[m + 1, :n], values[other + 1, :n])


@compiled
def refine_block(
    raw: Array,
    kinds: Array,
    count: int,
    half: Array,
    eighths: Array,
    values: Array,
    bits: Array,
    below: Any,
    sixteen: Any,
    mask: Any,
    first_slot: Array,
    slots: Array,
    prefixes: Array,
    counts: Array,
) -> None:
    """counts[slot, next 16 bits] += 1 for every value of model m whose leading bits (x >> below) are prefixes[slot].

    first_slot, slots: [N, 65536], where the prefixes with these leading 16 bits begin and how many they are;
    below: bits under the prefix, at least 16.
    """
    models = len(kinds) - 1
    chunk = values.shape[1]
    for first in range(0, count, chunk):
        n = min(chunk, count - first)
        base = values[0, :n]
        if kinds[0] != ABSENT:
            _widen(raw[0], kinds[0], first, half, eighths, base)
        for m in range(models):
            if kinds[m + 1] == ABSENT:
                continue
            b = bits[m + 1, :n]
            _difference(raw[m + 1], kinds[m + 1], first, half, eighths, base, kinds[0], values[m + 1, :n])
            for i in range(n):
                leading = _leading(b[i])
                for s in range(slots[m, leading]):
                    slot = first_slot[m, leading] + s
                    if prefixes[slot] == b[i] >> below:
                        counts[slot, (b[i] >> (below - sixteen)) & mask] += _ONE
