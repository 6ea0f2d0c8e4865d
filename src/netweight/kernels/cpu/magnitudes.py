"""Magnitudes counted by their bits, 16 at a time, for radix selection: rows as in merge_arithmetic.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly
from netweight.kernels.cpu.elements import TILE, numbers_of
from netweight.kernels.cpu.patterns import PADDING, count_in_four, count_in_one
from netweight.kernels.cpu.sources import stands_for
from netweight.kernels.protocol import CHUNK

__all__ = ["CHUNK", "TABLE", "count_deeper", "count_leading"]

TABLE = 32768 + PADDING
"""Counters of a table."""

_ONE = np.uint32(1)


def _typed(value: Any, like: Any) -> Any:
    """`value` as an element of `like`, uint32 or uint64: numba widens every result of uint32, and then half as many fit
    a register.
    """
    return like.dtype.type(value)


@stands_for(_typed, inline="always", strict=False)
def _typed_as(value: Any, like: Any) -> Any:  # noqa: ARG001 - `like` tells by its type
    from numba import types  # noqa: PLC0415 - where it is compiled

    if like.dtype == types.uint32:
        return lambda value, like: np.uint32(value)  # noqa: ARG005
    return lambda value, like: np.uint64(value)  # noqa: ARG005


def _bits(value: Any) -> Any:
    """The bits of a float32 or float64 but for its sign."""
    return abs(value).view(np.uint64 if value.itemsize == 8 else np.uint32)


@stands_for(_bits, inline="always", strict=False)
def _bits_of(value: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if value == types.float32:
        return lambda value: np.uint32(np.float32(value).view(np.uint32) & np.uint32(0x7FFFFFFF))
    return lambda value: np.uint64(np.float64(value).view(np.uint64) & np.uint64(0x7FFFFFFFFFFFFFFF))


@compiled_exactly
def _magnitudes(a: Array, bits: Array) -> None:
    for i in range(len(a)):
        bits[i] = _bits(a[i])


@compiled_exactly
def _difference_magnitudes(a: Array, base: Array, bits: Array) -> None:
    for i in range(len(a)):
        bits[i] = _bits(a[i] - base[i])


@compiled_exactly
def _summary(bits: Array, summary: Array) -> None:
    """summary[:4] = all bits or-ed, the greatest, the least that is not zero less 1, how many are zero."""
    either = _typed(0, bits)
    greatest = _typed(0, bits)
    least = _typed(~either, bits)
    zeros = _typed(0, bits)
    for i in range(len(bits)):
        b = bits[i]
        either = _typed(either | b, bits)
        greatest = max(greatest, b)
        least = min(least, _typed(b - _typed(1, bits), bits))
        zeros = _typed(zeros + _typed(b == _typed(0, bits), bits), bits)
    summary[0] = either
    summary[1] = greatest
    summary[2] = least
    summary[3] = zeros


@compiled_exactly
def _gather(bits: Array, mask: Any, flags: Array, out: Array) -> int:
    """Copy what has bits in `mask` to the front of `out`, which is one longer than `bits`; returns how many.

    flags: room for an eighth of `bits`; groups of eight that have none are passed over.
    """
    eighth = len(bits) // 8
    for g in range(eighth):
        flags[g] = mask & (
            (bits[g] | bits[g + eighth])
            | (bits[g + 2 * eighth] | bits[g + 3 * eighth])
            | (bits[g + 4 * eighth] | bits[g + 5 * eighth])
            | (bits[g + 6 * eighth] | bits[g + 7 * eighth])
        )
    k = np.uintp(0)
    for g in range(eighth):
        if flags[g] != 0:
            for j in range(8):
                b = bits[np.uintp(g + j * eighth)]
                out[k] = b
                k += np.uintp((b & mask) != 0)
    for i in range(8 * eighth, len(bits)):
        out[k] = bits[i]
        k += np.uintp((bits[i] & mask) != 0)
    return int(k)


@compiled_exactly
def _collect(tables: Array, least: int, greatest: int, counts: Array) -> None:
    """counts += tables, which are zero afterwards; only the bins 0 and `least` to `greatest` are in use."""
    for t in range(len(tables)):
        counts[0] += tables[t, 0]
        tables[t, 0] = np.uint32(0)
        bins = tables[t, least : greatest + 1]
        total = counts[least : greatest + 1]
        for b in range(len(bins)):
            total[b] += bins[b]
        bins[:] = np.uint32(0)


@compiled_exactly
def _to_magnitudes(
    x: Array,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    row: int,
    base: int,
    first: int,
    room: Array,
    bits: Array,
) -> None:
    for start in range(0, len(bits), TILE):
        stop = min(start + TILE, len(bits))
        a = numbers_of(x[row, first + start : first + stop], half, room[0])
        if base < 0:
            _magnitudes(a, bits[start:stop])
        else:
            b = numbers_of(x[base, first + start : first + stop], half, room[1])
            _difference_magnitudes(a, b, bits[start:stop])


@compiled_exactly
def count_leading(
    x: Array,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    row: int,
    base: int,
    shift: Any,
    mask: Any,
    tables: Array,
    bits: Array,
    counts: Array,
    finer: Array,
) -> None:
    """Count abs(x[row] - x[base]), or abs(x[row]) where base is negative, by the leading 16 of their bits.

    shift, mask: how many bits are below these, and which; tables: uint32 [4, TABLE], zero before and after; bits:
    unsigned [2, CHUNK + 1], room; counts, finer: uint32 [65536], all of them and those that have bits below.
    """
    summary = np.zeros(4, bits.dtype)
    flags = np.zeros(CHUNK // 8, bits.dtype)
    room = np.empty((2, TILE), np.float32)
    least = TABLE
    greatest = 0
    count = x.shape[1]
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count)
        b = bits[0, : last - first]
        _to_magnitudes(x, half, row, base, first, room, b)
        _summary(b, summary)
        if summary[1] == 0:
            counts[0] += np.uint32(len(b))
            continue
        least = min(least, int(summary[2] >> shift))
        greatest = max(greatest, int(summary[1] >> shift))
        if summary[0] & mask:
            count_in_one(bits[1, : _gather(b, mask, flags, bits[1])], shift, finer)
        if 2 * int(summary[3]) > len(b):
            counts[0] += np.uint32(summary[3])
            b = bits[1, : _gather(b, _typed(~_typed(0, b), b), flags, bits[1])]
        count_in_four(b, shift, tables)
    if greatest >= least:
        _collect(tables, least, greatest, counts)


@compiled_exactly
def _find(bits: Array, above: Any, prefix: Any, hits: Array) -> None:
    for i in range(len(bits)):
        hits[i] |= np.uint8(_typed(bits[i] >> above, bits) == prefix)


@compiled_exactly
def _gather_hits(bits: Array, hits: Array, words: Array, out: Array) -> int:
    """Copy the values whose byte in `hits` is set to the front of `out`; `words` is `hits` by eight bytes."""
    k = np.uintp(0)
    for w in range(len(words)):
        if words[w] != 0:
            for i in range(8):
                j = np.uintp(8 * w + i)
                out[k] = bits[j]
                k += np.uintp(hits[j])
    return int(k)


@compiled_exactly
def _count_hits(bits: Array, above: Any, below: Any, mask: Any, prefixes: Array, counts: Array, finer: Array) -> None:
    for i in range(len(bits)):
        b = bits[i]
        k = np.uintp(0)
        for p in range(1, len(prefixes)):
            k += np.uintp(prefixes[p] <= b >> above)
        chosen = np.uintp(b >> below) & np.uintp(0xFFFF)
        counts[k, chosen] += _ONE
        if mask:
            finer[k, chosen] += np.uint32((b & mask) != 0)


@compiled_exactly
def count_deeper(
    x: Array,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    row: int,
    base: int,
    above: Any,
    below: Any,
    mask: Any,
    prefixes: Array,
    bits: Array,
    counts: Array,
    finer: Array,
) -> None:
    """The same by 16 bits further down, of those values that begin with one of the `prefixes` [k >= 1], sorted.

    above, below: how many bits are below a prefix, and below the 16 that are counted, which are `mask`; counts, finer:
    [k, 65536]. Few values are counted as a rule: bytes tell which.
    """
    hits = np.zeros(CHUNK, np.uint8)
    words = hits.view(np.uint64)
    room = np.empty((2, TILE), np.float32)
    count = x.shape[1]
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count)
        b = bits[0, : last - first]
        _to_magnitudes(x, half, row, base, first, room, b)
        hits[:] = np.uint8(0)
        for k in range(len(prefixes)):
            _find(b, above, prefixes[k], hits[: last - first])
        matching = bits[1, : _gather_hits(bits[0], hits, words, bits[1])]
        _count_hits(matching, above, below, mask, prefixes, counts, finer)
