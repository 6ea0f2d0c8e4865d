"""Codes times scales: weights that are stored in 8 or 4 bits, with a scale for every block."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["scale_codes", "scale_e4m3", "widen_fours", "widen_fours_down"]

_SMALLEST = np.float32(2.0**-9)
_NAN = np.uint32(0x7FC00000)


@compiled_exactly
def _e4m3_times(codes: Array, scale: Any, out: Array) -> None:
    """out [n] = codes [n] of E4M3 (without infinities) times a scale: by arithmetic, which runs in lanes."""
    for i in range(len(codes)):
        code = np.uint32(codes[i])
        size = np.uint32(code & np.uint32(0x7F))
        normal = np.uint32(np.uint32(size << np.uint32(20)) + np.uint32(0x3C000000))
        small = np.float32(np.float32(np.int32(size)) * _SMALLEST).view(np.uint32)
        bits = small if size < np.uint32(8) else normal
        bits = _NAN if size == np.uint32(0x7F) else bits
        signed = np.uint32(bits | np.uint32(np.uint32(code & np.uint32(0x80)) << np.uint32(24)))
        out[i] = np.float32(signed.view(np.float32) * scale)


@compiled_exactly
def scale_codes(
    codes: Array, values: Array, scales: Array, first: Array, col: int, cols: int, step: int, out: Array
) -> None:
    """Fill `out` [n] float32 with `values[codes]` (256 of them, float32) times their scales, rounded once each.

    The codes [n] lie row after row of `cols` elements, and begin at column `col` of their first row. `first` [rows] is
    where in `scales` (float32) those of each row begin: one for every `step` columns.
    """
    row = 0
    at = 0
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        while col < last:
            scale = scales[first[row] + col // step]
            count = min(last, (col // step + 1) * step) - col
            some = codes[at : at + count]  # slices: positions that numba knows not to be negative
            into = out[at : at + count]
            for i in range(count):
                into[i] = values[some[i]] * scale
            at += count
            col += count
        row += 1
        col = 0


@compiled_exactly
def scale_e4m3(codes: Array, scales: Array, first: Array, col: int, cols: int, step: int, out: Array) -> None:
    """The same of codes of E4M3."""
    row = 0
    at = 0
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        while col < last:
            count = min(last, (col // step + 1) * step) - col
            _e4m3_times(codes[at : at + count], scales[first[row] + col // step], out[at : at + count])
            at += count
            col += count
        row += 1
        col = 0


@compiled_exactly
def widen_fours(pairs: Array, scales: Array, patterns: Array, out: Array) -> None:
    """Fill `out` [32 n] uint16 with bfloat16 of groups of 32 numbers of 4 bits, two in a byte of `pairs` [16 n], the
    low one first: `patterns` [4096] has 16 for every scale of `scales` uint8 [n].
    """
    for group in range(len(scales)):
        own = patterns[16 * np.int64(scales[group]) : 16 * np.int64(scales[group]) + 16]
        some = pairs[16 * group : 16 * group + 16]
        into = out[32 * group : 32 * group + 32]
        for i in range(16):
            into[2 * i] = own[some[i] & np.uint8(15)]
            into[2 * i + 1] = own[some[i] >> np.uint8(4)]


@compiled_exactly
def _scale_fours(fours: Array, shift: Any, powers: Array, out: Array) -> None:
    """out [n] = bfloat16 of the 4 bits from `shift` of each of `fours` uint16 [n], with `powers` uint16 [n] added to
    the exponents: products that are normal numbers.
    """
    for c in range(len(out)):
        code = np.uint16(np.uint16(fours[c] >> shift) & np.uint16(15))
        size = np.uint16(code & np.uint16(7))
        bits = np.uint16(np.uint16(np.uint16(size << np.uint16(6)) + np.uint16(0x3F00)) + powers[c])
        bits = np.uint16(bits - np.uint16(0x40)) if size == np.uint16(1) else bits
        bits = np.uint16(0) if size == np.uint16(0) else bits
        out[c] = np.uint16(bits | np.uint16(np.uint16(code & np.uint16(8)) << np.uint16(12)))


@compiled_exactly
def widen_fours_down(words: Array, first: int, scales: Array, patterns: Array, out: Array) -> None:
    """The same down the columns of `out` [16 n, cols]: each of `words` uint64 [n, cols] has 16 numbers of its column,
    the low bits first, two words have a scale of `scales` uint8 [n / 2 or 1 more, cols]; the first is number `first`.
    """
    cols = words.shape[1]
    quarters = words.view(np.uint16)
    powers, fours = np.empty(cols, np.uint16), np.empty(cols, np.uint16)
    for w in range(len(words)):
        word, quarter = words[w], quarters[w]
        own = scales[(first + w) // 2 - first // 2]
        plain = True
        for c in range(cols):
            plain &= (own[c] > 1) & (own[c] < 253)
            powers[c] = np.uint16((np.uint16(own[c]) << np.uint16(7)) - np.uint16(127 << 7))
        for i in range(16):
            line = out[16 * w + i]
            if not plain:  # a product is no normal number: by the table
                for c in range(cols):
                    line[c] = patterns[(np.uint64(own[c]) << np.uint64(4)) | ((word[c] >> np.uint64(4 * i)) & 15)]
                continue
            if i % 4 == 0:
                for c in range(cols):
                    fours[c] = quarter[4 * c + i // 4]
            _scale_fours(fours, np.uint16(4 * (i % 4)), powers, line)
