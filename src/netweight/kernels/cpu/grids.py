"""Blocks of ggml's IQ types as float32: numbers that are looked up in tables, one by one or 4 and 8 at a time.

Every loop takes whole blocks, `raw` bytes [n * bytes of a block], and fills `out` float32 [n * 256] (IQ4_NL: 32) with
the arithmetic of ggml's own decoders, operation by operation. `grid` is the type's table, float32 [entries, 4 or 8];
`signs` uint8 [128] has the 8 signs of 7 bits. Source: ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.blocks import half_at
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["iq1_m", "iq1_s", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_s", "iq3_xxs", "iq4_nl", "iq4_xs"]

_HALF, _QUARTER, _EIGHTH = np.float32(0.5), np.float32(0.25), np.float32(0.125)
_FOURS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


@compiled_exactly
def _u16(raw: Array, at: int) -> Any:
    return np.uint16(np.uint16(raw[at]) | np.uint16(np.uint16(raw[at + 1]) << np.uint16(8)))


@compiled_exactly
def _u32(raw: Array, at: int) -> Any:
    return np.uint32(np.uint32(_u16(raw, at)) | np.uint32(np.uint32(_u16(raw, at + 2)) << np.uint32(16)))


@compiled_exactly
def _signed(entry: Array, scale: Any, signs: Any, first: int, out: Array) -> None:
    """out = entry times scale, minus where the bit of `signs` from `first` is set."""
    for i in range(len(entry)):
        value = np.float32(scale * entry[i])
        flip = np.uint32(np.uint32((signs >> np.uint8(first + i)) & np.uint8(1)) << np.uint32(31))
        out[i] = np.uint32(np.uint32(value.view(np.uint32)) ^ flip).view(np.float32)


@compiled_exactly
def _small(scale: Any, four: Any, factor: Any) -> Any:
    return np.float32(np.float32(scale * np.float32(_HALF + np.float32(four))) * factor)


@compiled_exactly
def iq2_xxs(raw: Array, grid: Array, signs: Array, out: Array) -> None:
    """66 bytes: scale; for 32 numbers 4 indices of 8, then four times 7 bits of signs and 4 bits of scale."""
    for b in range(len(raw) // 66):
        scale = half_at(raw, b * 66)
        for group in range(8):
            at = b * 66 + 2 + 8 * group
            word = _u32(raw, at + 4)
            one = _small(scale, word >> np.uint32(28), _QUARTER)
            for i in range(4):
                to = b * 256 + 32 * group + 8 * i
                flips = signs[(word >> np.uint32(7 * i)) & np.uint32(127)]
                _signed(grid[raw[at + i]], one, flips, 0, out[to : to + 8])


@compiled_exactly
def iq2_xs(raw: Array, grid: Array, signs: Array, out: Array) -> None:
    """74 bytes: scale; 32 times 9 bits of index and 7 of signs; scales of 4 bits for 16 numbers each."""
    for b in range(len(raw) // 74):
        scale = half_at(raw, b * 74)
        for i in range(32):
            both = _u16(raw, b * 74 + 2 + 2 * i)
            four = (raw[b * 74 + 66 + i // 4] >> np.uint8(4 * ((i // 2) % 2))) & np.uint8(15)
            to = b * 256 + 8 * i
            flips = signs[both >> np.uint16(9)]
            _signed(grid[both & np.uint16(511)], _small(scale, four, _QUARTER), flips, 0, out[to : to + 8])


@compiled_exactly
def iq2_s(raw: Array, grid: Array, out: Array) -> None:
    """82 bytes: scale; 32 indices, low 8 bits; 32 bytes of signs; their high 2 bits; scales as in IQ2_XS."""
    for b in range(len(raw) // 82):
        at = b * 82
        scale = half_at(raw, at)
        for i in range(32):
            high = np.uint16((raw[at + 66 + i // 4] >> np.uint8(2 * (i % 4))) & np.uint8(3))
            index = np.uint16(raw[at + 2 + i]) | np.uint16(high << np.uint16(8))
            four = (raw[at + 74 + i // 4] >> np.uint8(4 * ((i // 2) % 2))) & np.uint8(15)
            to = b * 256 + 8 * i
            _signed(grid[index], _small(scale, four, _QUARTER), raw[at + 34 + i], 0, out[to : to + 8])


@compiled_exactly
def iq3_xxs(raw: Array, grid: Array, signs: Array, out: Array) -> None:
    """98 bytes: scale; 64 indices of 4 numbers; for 32 numbers four times 7 bits of signs and 4 bits of scale."""
    for b in range(len(raw) // 98):
        scale = half_at(raw, b * 98)
        for group in range(8):
            at = b * 98 + 2 + 8 * group
            word = _u32(raw, b * 98 + 66 + 4 * group)
            one = _small(scale, word >> np.uint32(28), _HALF)
            for i in range(8):
                to = b * 256 + 32 * group + 4 * i
                flips = signs[(word >> np.uint32(7 * (i // 2))) & np.uint32(127)]
                _signed(grid[raw[at + i]], one, flips, 4 * (i % 2), out[to : to + 4])


@compiled_exactly
def iq3_s(raw: Array, grid: Array, out: Array) -> None:
    """110 bytes: scale; 64 indices of 4 numbers, low 8 bits; their ninth bits; bytes of signs; 8 scales of 4 bits."""
    for b in range(len(raw) // 110):
        at = b * 110
        scale = half_at(raw, at)
        for i in range(64):
            high = np.uint16((raw[at + 66 + i // 8] >> np.uint8(i % 8)) & np.uint8(1))
            index = np.uint16(raw[at + 2 + i]) | np.uint16(high << np.uint16(8))
            four = (raw[at + 106 + i // 16] >> np.uint8(4 * ((i // 8) % 2))) & np.uint8(15)
            one = np.float32(scale * np.float32(np.int32(1) + np.int32(2) * np.int32(four)))
            to = b * 256 + 4 * i
            _signed(grid[index], one, raw[at + 74 + i // 2], 4 * (i % 2), out[to : to + 4])


@compiled_exactly
def _shifted(entry: Array, scale: Any, down: Any, out: Array) -> None:
    """out = (entry plus an eighth, or minus one where it goes `down`) times scale."""
    delta = -_EIGHTH if down else _EIGHTH
    for i in range(8):
        out[i] = np.float32(scale * np.float32(entry[i] + delta))


@compiled_exactly
def iq1_s(raw: Array, grid: Array, out: Array) -> None:
    """50 bytes: scale; 32 indices of 8 numbers, low 8 bits; for each 4 of them 3 high bits, 3 of scale, a sign."""
    for b in range(len(raw) // 50):
        scale = half_at(raw, b * 50)
        for i in range(32):
            word = _u16(raw, b * 50 + 34 + 2 * (i // 4))
            three = np.int32((word >> np.uint16(12)) & np.uint16(7))
            one = np.float32(scale * np.float32(np.int32(2) * three + np.int32(1)))
            high = np.uint16((word >> np.uint16(3 * (i % 4))) & np.uint16(7))
            index = np.uint16(raw[b * 50 + 2 + i]) | np.uint16(high << np.uint16(8))
            to = b * 256 + 8 * i
            _shifted(grid[index], one, word >= np.uint16(0x8000), out[to : to + 8])


@compiled_exactly
def iq1_m(raw: Array, grid: Array, out: Array) -> None:
    """56 bytes: 32 indices, low 8 bits; 3 high bits and a sign for each; scales of 3 bits for 16 numbers each, with the
    float16 scale of all in their top bits.
    """
    room = np.empty(2, np.uint8)
    for b in range(len(raw) // 56):
        at = b * 56
        room[0] = (raw[at + 49] >> np.uint8(4)) | (raw[at + 51] & np.uint8(0xF0))
        room[1] = (raw[at + 53] >> np.uint8(4)) | (raw[at + 55] & np.uint8(0xF0))
        scale = half_at(room, 0)
        for i in range(32):
            word = _u16(raw, at + 48 + 2 * (i // 8))
            three = np.int32((word >> np.uint16(3 * ((i // 2) % 4))) & np.uint16(7))
            one = np.float32(scale * np.float32(np.int32(2) * three + np.int32(1)))
            four = raw[at + 32 + i // 2] >> np.uint8(4 * (i % 2))
            index = np.uint16(raw[at + i]) | np.uint16(np.uint16(four & np.uint8(7)) << np.uint16(8))
            to = b * 256 + 8 * i
            _shifted(grid[index], one, (four & np.uint8(8)) != 0, out[to : to + 8])


@compiled_exactly
def iq4_nl(raw: Array, out: Array) -> None:
    """32 numbers in 18 bytes as Q4_0, each one of 16 that are not evenly spaced."""
    for b in range(len(raw) // 18):
        at, to = b * 18, b * 32
        scale = half_at(raw, at)
        for j in range(16):
            byte = raw[at + 2 + j]
            out[to + j] = np.float32(scale * _FOURS[byte & np.uint8(15)])
            out[to + j + 16] = np.float32(scale * _FOURS[byte >> np.uint8(4)])


@compiled_exactly
def iq4_xs(raw: Array, out: Array) -> None:
    """136 bytes: scale, 8 scales of 6 bits (the high 2 of all first), and for each 32 numbers as in IQ4_NL."""
    for b in range(len(raw) // 136):
        at = b * 136
        scale, high = half_at(raw, at), _u16(raw, at + 2)
        for group in range(8):
            low = (raw[at + 4 + group // 2] >> np.uint8(4 * (group % 2))) & np.uint8(15)
            two = np.int32((high >> np.uint16(2 * group)) & np.uint16(3))
            six = np.int32(np.int32(low) | np.int32(two << np.int32(4)))
            one = np.float32(scale * np.float32(np.int32(six - np.int32(32))))
            first, to = at + 8 + 16 * group, b * 256 + 32 * group
            for j in range(16):
                byte = raw[first + j]
                out[to + j] = np.float32(one * _FOURS[byte & np.uint8(15)])
                out[to + j + 16] = np.float32(one * _FOURS[byte >> np.uint8(4)])
