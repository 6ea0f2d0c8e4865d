"""Codes times scales: weights that are stored in 8 or 4 bits, with a scale for every block."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["scale_codes", "widen_fours", "widen_fours_down"]


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
def widen_fours_down(words: Array, first: int, scales: Array, patterns: Array, out: Array) -> None:
    """The same down the columns of `out` [16 n, cols]: each of `words` uint64 [n, cols] has 16 numbers of its column,
    the low bits first, two words have a scale of `scales` uint8 [n / 2 or 1 more, cols]; the first is number `first`.
    """
    for w in range(len(words)):
        word = words[w]
        own = scales[(first + w) // 2 - first // 2]
        for i in range(16):
            line = out[16 * w + i]
            shift = np.uint64(4 * i)
            for c in range(len(line)):
                line[c] = patterns[(np.uint64(own[c]) << np.uint64(4)) | ((word[c] >> shift) & np.uint64(15))]
