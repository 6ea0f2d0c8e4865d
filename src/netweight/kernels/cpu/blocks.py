"""Blocks of ggml's simple and K types as float32: a scale (and an offset) for 16 to 256 numbers of few bits.

Every loop takes whole blocks, `raw` bytes [n * bytes of a block], and fills `out` float32 [n * numbers of a block] with
the arithmetic of ggml's own decoders, operation by operation. Source: ggml-common.h and ggml-quants.c of llama.cpp.

Places are of the unsigned type `_place`, and no loop takes slices: so the compiler knows that no index counts from the
end, and computes in lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = [
    "half_at",
    "mxfp4",
    "nvfp4",
    "q1_0",
    "q2_0",
    "q2_k",
    "q3_k",
    "q4_0",
    "q4_1",
    "q4_k",
    "q5_0",
    "q5_1",
    "q5_k",
    "q6_k",
    "q8_0",
    "q8_1",
    "q8_k",
    "tq1_0",
    "tq2_0",
]

_place = np.uintp
_2, _4, _16, _32 = (np.uintp(n) for n in (2, 4, 16, 32))
_TINY = np.float32(2.0**-24)
_FOURS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # twice E2M1


@compiled_exactly
def half_at(raw: Array, at: int) -> Any:
    """float32 of the float16 in the bytes `at` and `at + 1`."""
    bits = np.uint32(np.uint32(raw[at]) | np.uint32(np.uint32(raw[at + 1]) << np.uint32(8)))
    size = np.uint32(bits & np.uint32(0x7FFF))
    sign = np.uint32(np.uint32(bits & np.uint32(0x8000)) << np.uint32(16))
    if size < np.uint32(0x400):
        small = np.float32(np.float32(size) * _TINY).view(np.uint32)
        return np.uint32(small | sign).view(np.float32)
    bias = np.uint32(0x70000000) if size >= np.uint32(0x7C00) else np.uint32(0x38000000)
    return np.uint32(np.uint32(np.uint32(size << np.uint32(13)) + bias) | sign).view(np.float32)


@compiled_exactly
def _sixteen(raw: Array) -> Any:
    """16, unknown to the compiler: it would unroll a loop of so few rounds, and then not find its lanes."""
    return _16 + (np.uintp(len(raw)) >> np.uintp(62))


@compiled_exactly
def _number(code: Any, less: int, scale: Any) -> Any:
    """(code - less) * scale, of a code int32."""
    return np.float32(np.float32(np.int32(code - np.int32(less))) * scale)


@compiled_exactly
def _number_plus(code: Any, scale: Any, offset: Any) -> Any:
    """code * scale + offset, each rounded."""
    return np.float32(np.float32(np.float32(np.int32(code)) * scale) + offset)


@compiled_exactly
def _number_minus(code: Any, scale: Any, offset: Any) -> Any:
    return np.float32(np.float32(np.float32(np.int32(code)) * scale) - offset)


@compiled_exactly
def q4_0(raw: Array, out: Array) -> None:
    """32 numbers in 18 bytes: scale, then 16 bytes of two numbers each, the first 16 in the low halves."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 18):
        scale, at, to = half_at(raw, b * 18), _place(b * 18 + 2), _place(b * 32)
        for j in range(sixteen):
            byte = np.int32(raw[at + j])
            out[to + j] = _number(byte & 15, 8, scale)
            out[to + _16 + j] = _number(byte >> 4, 8, scale)


@compiled_exactly
def q4_1(raw: Array, out: Array) -> None:
    """32 numbers in 20 bytes: scale, offset, numbers as in Q4_0."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 20):
        scale, offset = half_at(raw, b * 20), half_at(raw, b * 20 + 2)
        at, to = _place(b * 20 + 4), _place(b * 32)
        for j in range(sixteen):
            byte = np.int32(raw[at + j])
            out[to + j] = _number_plus(byte & 15, scale, offset)
            out[to + _16 + j] = _number_plus(byte >> 4, scale, offset)


@compiled_exactly
def _word_at(raw: Array, at: int) -> Any:
    word = np.uint32(0)
    for i in range(4):
        word |= np.uint32(np.uint32(raw[at + i]) << np.uint32(8 * i))
    return np.uint32(word)


@compiled_exactly
def _bit(word: Any, j: Any) -> Any:
    """Bit j (0 to 31) of a uint32, as the fifth bit of a code int32."""
    return np.int32(np.uint32(np.uint32(word >> np.uint32(j)) & np.uint32(1)) << np.uint32(4))


@compiled_exactly
def q5_0(raw: Array, out: Array) -> None:
    """32 numbers in 22 bytes: scale, the fifth bits, the others as in Q4_0."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 22):
        scale, fifths = half_at(raw, b * 22), _word_at(raw, b * 22 + 2)
        at, to = _place(b * 22 + 6), _place(b * 32)
        for j in range(sixteen):
            byte = np.int32(raw[at + j])
            out[to + j] = _number(np.int32(byte & 15) | _bit(fifths, j), 16, scale)
            out[to + _16 + j] = _number(np.int32(byte >> 4) | _bit(fifths, j + _16), 16, scale)


@compiled_exactly
def q5_1(raw: Array, out: Array) -> None:
    """32 numbers in 24 bytes: scale, offset, the rest as in Q5_0."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 24):
        scale, offset, fifths = half_at(raw, b * 24), half_at(raw, b * 24 + 2), _word_at(raw, b * 24 + 4)
        at, to = _place(b * 24 + 8), _place(b * 32)
        for j in range(sixteen):
            byte = np.int32(raw[at + j])
            out[to + j] = _number_plus(np.int32(byte & 15) | _bit(fifths, j), scale, offset)
            out[to + _16 + j] = _number_plus(np.int32(byte >> 4) | _bit(fifths, j + _16), scale, offset)


@compiled_exactly
def _bytes_times(raw: Array, at: Any, count: Any, scale: Any, out: Array, to: Any) -> None:
    """out[to : to + count] = int8 codes raw[at : at + count] times scale."""
    for j in range(count):
        out[to + j] = np.float32(np.float32(np.int8(raw[at + j])) * scale)


@compiled_exactly
def q8_0(raw: Array, out: Array) -> None:
    """32 numbers in 34 bytes: scale, then int8."""
    for b in range(len(raw) // 34):
        _bytes_times(raw, _place(b * 34 + 2), _32, half_at(raw, b * 34), out, _place(b * 32))


@compiled_exactly
def q8_1(raw: Array, out: Array) -> None:
    """32 numbers in 36 bytes: scale, the scaled sum, then int8."""
    for b in range(len(raw) // 36):
        _bytes_times(raw, _place(b * 36 + 4), _32, half_at(raw, b * 36), out, _place(b * 32))


@compiled_exactly
def q8_k(raw: Array, out: Array) -> None:
    """256 numbers in 292 bytes: scale float32, int8, sums of 16 each."""
    for b in range(len(raw) // 292):
        scale = np.uint32(_word_at(raw, b * 292)).view(np.float32)
        _bytes_times(raw, _place(b * 292 + 4), np.uintp(256), scale, out, _place(b * 256))


@compiled_exactly
def q1_0(raw: Array, out: Array) -> None:
    """128 signs in 18 bytes: scale, then bits, set for plus."""
    for b in range(len(raw) // 18):
        scale, at, to = half_at(raw, b * 18), _place(b * 18 + 2), _place(b * 128)
        for j in range(_16):
            byte = raw[at + j]
            for i in range(np.uintp(8)):
                out[to + np.uintp(8) * j + i] = scale if (byte >> np.uint8(i)) & 1 else -scale


@compiled_exactly
def q2_0(raw: Array, numbers: int, out: Array) -> None:
    """`numbers` (64, of a fork 128) of 2 bits: scale, then four in a byte, the low ones first; -1 to 2."""
    size = 2 + numbers // 4
    for b in range(len(raw) // size):
        scale, at, to = half_at(raw, b * size), _place(b * size + 2), _place(b * numbers)
        for j in range(np.uintp(numbers // 4)):
            byte = np.int32(raw[at + j])
            for i in range(_4):
                out[to + _4 * j + i] = _number(np.int32(byte >> np.int32(_2 * i)) & 3, 1, scale)


@compiled_exactly
def mxfp4(raw: Array, powers: Array, out: Array) -> None:
    """32 numbers E2M1 in 17 bytes: scale E8M0, by `powers` [256] half of it, then 16 bytes as in Q4_0."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 17):
        scale, at, to = powers[raw[b * 17]], _place(b * 17 + 1), _place(b * 32)
        for j in range(sixteen):
            byte = raw[at + j]
            out[to + j] = np.float32(scale * _FOURS[byte & np.uint8(15)])
            out[to + _16 + j] = np.float32(scale * _FOURS[byte >> np.uint8(4)])


@compiled_exactly
def nvfp4(raw: Array, scales: Array, out: Array) -> None:
    """64 numbers E2M1 in 36 bytes: 4 scales UE4M3, by `scales` [256] half of them, for 16 numbers in 8 bytes each."""
    eight = np.uintp(8)
    for b in range(len(raw) // 36):
        for s in range(4):
            scale, at, to = scales[raw[b * 36 + s]], _place(b * 36 + 4 + 8 * s), _place(b * 64 + 16 * s)
            for j in range(eight):
                byte = raw[at + j]
                out[to + j] = np.float32(scale * _FOURS[byte & np.uint8(15)])
                out[to + eight + j] = np.float32(scale * _FOURS[byte >> np.uint8(4)])


@compiled_exactly
def q2_k(raw: Array, out: Array) -> None:
    """256 numbers of 2 bits in 84 bytes: 16 scales and offsets of 4 bits, numbers, the scale of each of the two."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 84):
        at = b * 84
        scale, least = half_at(raw, at + 80), half_at(raw, at + 82)
        for group in range(16):
            both = raw[at + group]
            one = np.float32(scale * np.float32(both & np.uint8(15)))
            off = np.float32(least * np.float32(both >> np.uint8(4)))
            first, shift = _place(at + 16 + 32 * (group // 8) + 16 * (group % 2)), np.int32(2 * ((group // 2) % 4))
            to = _place(b * 256 + 16 * group)
            for j in range(sixteen):
                out[to + j] = _number_minus(np.int32(np.int32(raw[first + j]) >> shift) & 3, one, off)


@compiled_exactly
def q3_k(raw: Array, out: Array) -> None:
    """256 numbers of 3 bits in 110 bytes: the high bits, the low two, 16 scales of 6 bits, the scale of all."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 110):
        at = b * 110
        scale = half_at(raw, at + 108)
        for group in range(16):
            low = raw[at + 96 + group % 8] >> np.uint8(4 * (group // 8))
            high = raw[at + 104 + group % 4] >> np.uint8(2 * (group // 4))
            six = np.int32(np.int32(low & np.uint8(15)) | np.int32(np.int32(high & np.uint8(3)) << np.int32(4)))
            one = np.float32(scale * np.float32(np.int32(six - np.int32(32))))
            first, shift = _place(at + 32 + 32 * (group // 8) + 16 * (group % 2)), np.int32(2 * ((group // 2) % 4))
            bits, bit = _place(at + 16 * (group % 2)), np.int32(group // 2)
            to = _place(b * 256 + 16 * group)
            for j in range(sixteen):
                two = np.int32(np.int32(np.int32(raw[first + j]) >> shift) & 3)
                above = np.int32(np.int32(np.int32(np.int32(raw[bits + j]) >> bit) & 1) << np.int32(2))
                out[to + j] = _number(two | above, 4, one)


@compiled_exactly
def _six_bits(raw: Array, at: int, group: int) -> tuple[Any, Any]:
    """(scale, offset) of 6 bits of one of 8 groups, of 12 bytes."""
    if group < 4:
        return raw[at + group] & np.uint8(63), raw[at + 4 + group] & np.uint8(63)
    both = raw[at + 4 + group]
    scale = (both & np.uint8(15)) | ((raw[at + group - 4] >> np.uint8(2)) & np.uint8(48))
    return np.uint8(scale), np.uint8((both >> np.uint8(4)) | ((raw[at + group] >> np.uint8(2)) & np.uint8(48)))


@compiled_exactly
def _group_of(raw: Array, at: int, group: int, scale: Any, least: Any) -> tuple[Any, Any]:
    """(scale, offset) of one of 8 groups of a block at `at`, whose own are `scale` and `least`."""
    six, off = _six_bits(raw, at + 4, group)
    return np.float32(scale * np.float32(six)), np.float32(least * np.float32(off))


@compiled_exactly
def q4_k(raw: Array, out: Array) -> None:
    """256 numbers of 4 bits in 144 bytes: scale, offset, 8 scales and offsets of 6 bits, numbers (32 in low halves,
    the next 32 in the high ones).
    """
    for b in range(len(raw) // 144):
        at = b * 144
        scale, least = half_at(raw, at), half_at(raw, at + 2)
        for pair in range(4):
            one, less = _group_of(raw, at, 2 * pair, scale, least)
            other, off = _group_of(raw, at, 2 * pair + 1, scale, least)
            first, to = _place(at + 16 + 32 * pair), _place(b * 256 + 64 * pair)
            for j in range(_32):
                byte = np.int32(raw[first + j])
                out[to + j] = _number_minus(byte & 15, one, less)
                out[to + _32 + j] = _number_minus(byte >> 4, other, off)


@compiled_exactly
def q5_k(raw: Array, out: Array) -> None:
    """256 numbers of 5 bits in 176 bytes: as Q4_K, with the fifth bits before the others."""
    for b in range(len(raw) // 176):
        at = b * 176
        scale, least = half_at(raw, at), half_at(raw, at + 2)
        fifths = _place(at + 16)
        for pair in range(4):
            one, less = _group_of(raw, at, 2 * pair, scale, least)
            other, off = _group_of(raw, at, 2 * pair + 1, scale, least)
            first, to = _place(at + 48 + 32 * pair), _place(b * 256 + 64 * pair)
            for j in range(_32):
                byte, bits = np.int32(raw[first + j]), np.int32(np.int32(raw[fifths + j]) >> np.int32(2 * pair))
                low = np.int32(byte & 15) | np.int32(np.int32(bits & 1) << np.int32(4))
                high = np.int32(byte >> 4) | np.int32(np.int32(bits & 2) << np.int32(3))
                out[to + j] = _number_minus(low, one, less)
                out[to + _32 + j] = _number_minus(high, other, off)


@compiled_exactly
def q6_k(raw: Array, out: Array) -> None:
    """256 numbers of 6 bits in 210 bytes: the low 4 bits, the high 2, 16 scales int8, the scale of all."""
    sixteen = _sixteen(raw)
    for b in range(len(raw) // 210):
        at = b * 210
        scale = half_at(raw, at + 208)
        for group in range(16):
            one = np.float32(scale * np.float32(np.int8(raw[at + 192 + group])))
            quarter, half = group // 2, 16 * (group % 2)
            low, lift = _place(at + 64 * (quarter // 4) + 32 * (quarter % 2) + half), np.int32(4 * ((quarter // 2) % 2))
            high, shift = _place(at + 128 + 32 * (quarter // 4) + half), np.int32(2 * (quarter % 4))
            to = _place(b * 256 + 16 * group)
            for j in range(sixteen):
                four = np.int32(np.int32(np.int32(raw[low + j]) >> lift) & 15)
                two = np.int32(np.int32(np.int32(np.int32(raw[high + j]) >> shift) & 3) << np.int32(4))
                out[to + j] = _number(four | two, 32, one)


@compiled_exactly
def _trits(raw: Array, at: Any, count: Any, power: int, scale: Any, out: Array, to: Any) -> None:
    """out[to : to + count] = the digit of base 3 that `power` brings to the top of each byte, minus 1, times scale."""
    for j in range(count):
        top = np.uint8(raw[at + j] * np.uint8(power))
        out[to + j] = _number(np.int32(np.int32(top) * np.int32(3)) >> np.int32(8), 1, scale)


@compiled_exactly
def tq1_0(raw: Array, out: Array) -> None:
    """256 numbers -1, 0, 1 in 54 bytes: five in a byte, then four in a byte, the scale."""
    for b in range(len(raw) // 54):
        at, to = b * 54, b * 256
        scale = half_at(raw, at + 52)
        power = 1
        for n in range(5):
            _trits(raw, _place(at), _32, power, scale, out, _place(to + 32 * n))
            _trits(raw, _place(at + 32), _16, power, scale, out, _place(to + 160 + 16 * n))
            if n < 4:
                _trits(raw, _place(at + 48), _4, power, scale, out, _place(to + 240 + 4 * n))
            power *= 3


@compiled_exactly
def tq2_0(raw: Array, out: Array) -> None:
    """256 numbers of 2 bits in 66 bytes, the scale last; -1 to 2."""
    for b in range(len(raw) // 66):
        at = b * 66
        scale = half_at(raw, at + 64)
        for group in range(8):
            first, shift = _place(at + 32 * (group // 4)), np.int32(2 * (group % 4))
            to = _place(b * 256 + 32 * group)
            for j in range(_32):
                out[to + j] = _number(np.int32(np.int32(raw[first + j]) >> shift) & 3, 1, scale)
