"""Codes of few bits: out of the words that they are packed into, and times their scales."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly
from netweight.kernels.cpu.elements import TILE, widen_bfloat16, widen_half
from netweight.kernels.cpu.rounding import narrow_to_bfloat16, narrow_to_half

__all__ = [
    "add_by_group", "narrow_affine", "narrow_by_column", "narrow_by_group", "narrow_looked_up", "scale_by_column",
    "scale_by_group", "scale_looked_up", "unpack", "unpack_across", "unpack_high_first",
]  # fmt: skip


@compiled_exactly
def unpack(words: Array, bits: int, out: Array) -> None:
    """Fill `out` [n] uint8 with codes of 2 to 7 bits that lie one after the other in `words` uint32 [bits n / 32], the
    low bits first; n is a multiple of 32.
    """
    if bits == 4:
        for w in range(len(words)):
            word = words[w]
            for k in range(8):
                out[8 * w + k] = np.uint8((word >> np.uint32(4 * k)) & np.uint32(15))
    elif bits == 2:
        for w in range(len(words)):
            word = words[w]
            for k in range(16):
                out[16 * w + k] = np.uint8((word >> np.uint32(2 * k)) & np.uint32(3))
    elif bits == 3:
        for g in range(len(words) // 3):
            low = np.uint64(words[3 * g]) | (np.uint64(words[3 * g + 1]) << np.uint64(32))
            high = (np.uint64(words[3 * g + 2]) << np.uint64(1)) | (low >> np.uint64(63))
            for k in range(21):
                out[32 * g + k] = np.uint8((low >> np.uint64(3 * k)) & np.uint64(7))
            for k in range(11):
                out[32 * g + 21 + k] = np.uint8((high >> np.uint64(3 * k)) & np.uint64(7))
    else:
        mask = np.uint32((1 << bits) - 1)
        for i in range(len(out)):
            at = i * bits
            shift = np.uint32(at & 31)
            code = words[at >> 5] >> shift
            if (at & 31) + bits > 32:
                code |= words[(at >> 5) + 1] << (np.uint32(32) - shift)
            out[i] = np.uint8(code & mask)


@compiled_exactly
def unpack_high_first(pairs: Array, out: Array) -> None:
    """Fill `out` [2 n] uint8 with the codes of 4 bits of `pairs` uint8 [n], the high half of each byte first."""
    for i in range(len(pairs)):
        out[2 * i] = pairs[i] >> 4
        out[2 * i + 1] = pairs[i] & 15


@compiled_exactly
def unpack_across(words: Array, bits: int, starts: Array, out: Array) -> None:
    """Fill `out` [rows, cols] uint8: row r of column c has its low bit at bit `starts[r]` of the bits of column c of
    `words` uint32 [w, cols], counted down the column, the low bits of each word first.
    """
    mask = np.uint32((1 << bits) - 1)
    for r in range(len(starts)):
        near = words[starts[r] >> 5]
        line = out[r]
        shift = np.uint32(starts[r] & 31)
        if (starts[r] & 31) + bits > 32:
            far = words[(starts[r] >> 5) + 1]
            rest = np.uint32(32) - shift
            for c in range(len(line)):
                line[c] = np.uint8(((near[c] >> shift) | (far[c] << rest)) & mask)
        else:
            for c in range(len(line)):
                line[c] = np.uint8((near[c] >> shift) & mask)


@compiled_exactly
def scale_by_group(codes: Array, zeros: Array, scales: Array, col: int, cols: int, group: int, out: Array) -> None:
    """Fill `out` [n] float32 with (codes - zero) * scale, rounded once: `codes` uint8 [n] lie row after row of `cols`,
    and begin at column `col` of their first row; `zeros` and `scales` float32 [rows, groups] have one for every `group`
    columns of a row.
    """
    at = 0
    row = col // cols
    col %= cols
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        while col < last:
            zero = zeros[row, col // group]
            scale = scales[row, col // group]
            stop = min(last, (col // group + 1) * group)
            piece = codes[at : at + stop - col]
            target = out[at : at + stop - col]
            for i in range(len(piece)):
                target[i] = (np.float32(piece[i]) - zero) * scale
            at += stop - col
            col = stop
        row += 1
        col = 0


@compiled_exactly
def scale_by_column(codes: Array, zeros: Array, scales: Array, col: int, groups: Array, out: Array) -> None:
    """The same where column c has the zero and scale of group `groups[c]`, uint32 [cols]."""
    cols = len(groups)
    at = 0
    row = col // cols
    col %= cols
    while at < len(codes):
        last = min(cols, col + len(codes) - at)
        zero = zeros[row]
        scale = scales[row]
        which = groups[col:last]
        piece = codes[at : at + last - col]
        target = out[at : at + last - col]
        for i in range(len(piece)):
            g = which[i]
            target[i] = (np.float32(piece[i]) - zero[g]) * scale[g]
        at += last - col
        row += 1
        col = 0


@compiled_exactly
def scale_looked_up(codes: Array, first: int, values: Array, scales: Array, block: int, out: Array) -> None:
    """Fill `out` [n] float32 with `values[codes]` times the scale of their block, rounded once: `codes` uint8 [n], of
    which the first is number `first`; `values` float32 [256], `scales` float32, one for every `block` numbers.
    """
    at = 0
    while at < len(codes):
        which = (first + at) // block
        scale = scales[which]
        stop = min(len(codes), (which + 1) * block - first)
        piece = codes[at:stop]
        target = out[at:stop]
        for i in range(len(piece)):
            target[i] = values[piece[i]] * scale
        at = stop


@compiled_exactly
def add_by_group(values: Array, first: int, terms: Array, group: int) -> None:
    """Add to `values` float32 [n], of which the first is number `first`, one of `terms` for every `group` numbers."""
    at = 0
    while at < len(values):
        which = (first + at) // group
        term = terms[which]
        stop = min(len(values), (which + 1) * group - first)
        target = values[at:stop]
        for i in range(len(target)):
            target[i] += term
        at = stop


@compiled_exactly
def _narrow(values: Array, half: bool, out: Array) -> None:  # noqa: FBT001 - compiled functions take no keywords
    if half:
        narrow_to_half(values, out)
    else:
        narrow_to_bfloat16(values, out)


@compiled_exactly
def narrow_by_group(
    codes: Array,
    zeros: Array,
    scales: Array,
    col: int,
    cols: int,
    group: int,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    out: Array,
) -> None:
    """`scale_by_group`, rounded to patterns uint16 of float16 (`half`) or bfloat16."""
    room = np.empty(TILE, np.float32)
    for at in range(0, len(codes), TILE):
        piece = codes[at : at + TILE]
        tile = room[: len(piece)]
        scale_by_group(piece, zeros, scales, col + at, cols, group, tile)
        _narrow(tile, half, out[at : at + TILE])


@compiled_exactly
def narrow_by_column(
    codes: Array,
    zeros: Array,
    scales: Array,
    col: int,
    groups: Array,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    out: Array,
) -> None:
    """`scale_by_column`, rounded to patterns uint16 of float16 (`half`) or bfloat16."""
    room = np.empty(TILE, np.float32)
    for at in range(0, len(codes), TILE):
        piece = codes[at : at + TILE]
        tile = room[: len(piece)]
        scale_by_column(piece, zeros, scales, col + at, groups, tile)
        _narrow(tile, half, out[at : at + TILE])


@compiled_exactly
def narrow_looked_up(codes: Array, values: Array, scales: Array, block: int, half: bool, out: Array) -> None:  # noqa: FBT001
    """`scale_looked_up`, rounded to patterns uint16 of float16 (`half`) or bfloat16."""
    room = np.empty(TILE, np.float32)
    for at in range(0, len(codes), TILE):
        piece = codes[at : at + TILE]
        tile = room[: len(piece)]
        scale_looked_up(piece, at, values, scales, block, tile)
        _narrow(tile, half, out[at : at + TILE])


@compiled_exactly
def narrow_affine(codes: Array, zeros: Array, scales: Array, biases: Array, half: bool, out: Array) -> None:  # noqa: FBT001
    """Fill `out` [groups, n] with patterns uint16 of float16 (`half`) or bfloat16: `codes` [groups, n] times the scale
    of their group, rounded to that type, plus its bias, rounded again; zeros are 0, and like `scales` [groups, 1].
    """
    room = np.empty(TILE, np.float32)
    group = codes.shape[1]
    flat = codes.reshape(-1)
    target = out.reshape(-1)
    for at in range(0, len(flat), TILE):
        piece = flat[at : at + TILE]
        tile = room[: len(piece)]
        patterns = target[at : at + TILE]
        scale_by_group(piece, zeros, scales, at, group, group, tile)
        _narrow(tile, half, patterns)
        if half:
            widen_half(patterns, tile)
        else:
            widen_bfloat16(patterns, tile)
        add_by_group(tile, at, biases, group)
        _narrow(tile, half, patterns)
