"""Codes of few bits, and what they stand for: weights that are packed, with scales and zero points."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["place_kept", "scale_columns", "scale_shifted", "unpack_bits", "unpack_down"]

# Slices and unsigned positions: numba looks at any other whether it is negative, and uses no vectors then.


@compiled_exactly
def unpack_bits(stream: Array, bit: int, bits: int, row_bits: int, col: int, cols: int, out: Array) -> None:
    """Fill `out` [n] uint8 with codes of `bits` bits, 1 to 8, that lie one after the other in `stream` (uint8), from
    the lowest bit of its bytes on.

    The first one lies at `bit` and is column `col` of its row; rows have `cols` codes and begin every `row_bits` bits.
    `stream` has one byte more than the codes.
    """
    mask = np.uint32((1 << bits) - 1)
    begin = bit - col * bits
    at = 0
    while at < len(out):
        count = min(cols - col, len(out) - at)
        first = begin + col * bits
        row = out[at : at + count]
        if bits == 8 and first % 8 == 0:
            whole = stream[first // 8 : first // 8 + count]
            for i in range(count):
                row[i] = whole[i]
        elif bits == 4 and first % 4 == 0:
            odd = first // 4 % 2
            if odd:
                row[0] = stream[first // 8] >> 4
            start = (first // 4 + odd) // 2
            pairs = stream[start : start + (count - odd) // 2]
            both = row[odd : odd + 2 * len(pairs)]
            for i in range(len(pairs)):
                both[np.uint64(2 * i)] = pairs[i] & np.uint8(15)
                both[np.uint64(2 * i + 1)] = pairs[i] >> np.uint8(4)
            if (count - odd) % 2:
                row[count - 1] = stream[start + len(pairs)] & np.uint8(15)
        else:
            where = np.uint64(first)
            for i in range(count):
                byte = where >> np.uint64(3)
                near = np.uint32(stream[byte]) | (np.uint32(stream[byte + np.uint64(1)]) << np.uint32(8))
                row[i] = np.uint8((near >> np.uint32(where & np.uint64(7))) & mask)
                where += np.uint64(bits)
        at += count
        col = 0
        begin += row_bits


@compiled_exactly
def unpack_down(words: Array, bit: int, bits: int, values: Array, out: Array) -> None:
    """Fill `out` [rows, groups] float32 with `values` of codes that are packed down the columns of `words` (uint32 [n,
    groups]), the first ones at `bit`.
    """
    mask = np.uint64((1 << bits) - 1)
    for i in range(len(out)):
        first = bit + i * bits
        word = first // 32
        last = (first + bits - 1) // 32
        for group in range(words.shape[1]):
            both = np.uint64(words[word, group]) | (np.uint64(words[last, group]) << np.uint64(32))
            out[i, group] = values[(both >> np.uint64(first % 32)) & mask]


@compiled_exactly
def scale_shifted(
    codes: Array, values: Array, scales: Array, zeros: Array, first: Array, col: int, cols: int, step: int, out: Array
) -> None:
    """Fill `out` [n] float32 with (`values[codes]` - zero) * scale; `zeros` lie as `scales` do. Else see scale_codes of
    `kernels/cpu/scaled.py`.
    """
    row = 0
    at = 0
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        while col < last:
            group = first[row] + col // step
            scale = scales[group]
            zero = zeros[group]
            count = min(last, (col // step + 1) * step) - col
            some = codes[at : at + count]
            into = out[at : at + count]
            for i in range(count):
                into[i] = (values[some[i]] - zero) * scale
            at += count
            col += count
        row += 1
        col = 0


@compiled_exactly
def scale_columns(
    codes: Array, values: Array, scales: Array, zeros: Array, first: Array, col: int, groups: Array, out: Array
) -> None:
    """The same where `groups` (int64 [cols]) says for every column which of the row's scales it has."""
    row = 0
    at = 0
    while at < len(codes):
        count = min(len(groups) - col, len(codes) - at)
        some = codes[at : at + count]
        into = out[at : at + count]
        of_them = groups[col : col + count]
        begin = np.uint64(first[row])
        for i in range(count):
            group = begin + np.uint64(of_them[i])
            into[i] = (values[some[i]] - zeros[group]) * scales[group]
        at += count
        row += 1
        col = 0


@compiled_exactly
def place_kept(mask: Array, kept: Array, starts: Array, out: Array) -> int:
    """Fill `out` [rows, cols] with the next of `kept` where a bit of `mask` (uint8 [rows, bytes], low bits first) is
    set, else with 0. Row i takes those from `starts[i]` to `starts[i + 1]`; returns the first row that takes more or
    fewer, or -1.
    """
    for row in range(len(out)):
        used = starts[row]
        stop = starts[row + 1]
        into = out[row]
        for col in range(len(into)):
            into[col] = 0
            if mask[row, col >> 3] >> np.uint8(col & 7) & np.uint8(1):
                if used == stop:
                    return row
                into[col] = kept[used]
                used += 1
        if used != stop:
            return row
    return -1
