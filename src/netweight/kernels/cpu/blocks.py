"""Blocks of ggml's simple and K types as float32: a scale (and an offset) for 16 to 256 numbers of few bits.

Every loop takes whole blocks, `raw` bytes [n * bytes of a block], and fills `out` float32 [n * numbers of a block] with
the arithmetic of ggml's own decoders, operation by operation. Source: ggml-common.h and ggml-quants.c of llama.cpp.
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
def _nibbles(codes: Array, less: int, low: Array, high: Array) -> None:
    """low [n], high [n] = the two numbers of 4 bits in each byte of `codes` [n], minus `less`; float32."""
    for j in range(len(codes)):
        low[j] = np.float32(np.int32(np.int32(codes[j] & np.uint8(15)) - np.int32(less)))
        high[j] = np.float32(np.int32(np.int32(codes[j] >> np.uint8(4)) - np.int32(less)))


@compiled_exactly
def _times(values: Array, scale: Any) -> None:
    for j in range(len(values)):
        values[j] = np.float32(values[j] * scale)


@compiled_exactly
def _times_plus(values: Array, scale: Any, offset: Any) -> None:
    for j in range(len(values)):
        values[j] = np.float32(np.float32(values[j] * scale) + offset)


@compiled_exactly
def q4_0(raw: Array, out: Array) -> None:
    """32 numbers in 18 bytes: scale, then 16 bytes of two numbers each, the first 16 in the low halves."""
    for b in range(len(raw) // 18):
        at, to = b * 18, b * 32
        _nibbles(raw[at + 2 : at + 18], 8, out[to : to + 16], out[to + 16 : to + 32])
        _times(out[to : to + 32], half_at(raw, at))


@compiled_exactly
def q4_1(raw: Array, out: Array) -> None:
    """32 numbers in 20 bytes: scale, offset, numbers as in Q4_0."""
    for b in range(len(raw) // 20):
        at, to = b * 20, b * 32
        _nibbles(raw[at + 4 : at + 20], 0, out[to : to + 16], out[to + 16 : to + 32])
        _times_plus(out[to : to + 32], half_at(raw, at), half_at(raw, at + 2))


@compiled_exactly
def _word_at(raw: Array, at: int) -> Any:
    word = np.uint32(0)
    for i in range(4):
        word |= np.uint32(np.uint32(raw[at + i]) << np.uint32(8 * i))
    return np.uint32(word)


@compiled_exactly
def _fifths(codes: Array, fifth: Any, less: int, out: Array) -> None:
    """out [32] = numbers of 4 bits as in Q4_0 with the bits of `fifth` above them, minus `less`."""
    for j in range(16):
        low = np.int32(np.int32(codes[j] & np.uint8(15)) | np.int32((np.uint32(fifth >> np.uint32(j)) & 1) << 4))
        high = np.int32(np.int32(codes[j] >> np.uint8(4)) | np.int32((np.uint32(fifth >> np.uint32(j + 16)) & 1) << 4))
        out[j] = np.float32(np.int32(low - np.int32(less)))
        out[j + 16] = np.float32(np.int32(high - np.int32(less)))


@compiled_exactly
def q5_0(raw: Array, out: Array) -> None:
    """32 numbers in 22 bytes: scale, the fifth bits, the others as in Q4_0."""
    for b in range(len(raw) // 22):
        at, to = b * 22, b * 32
        _fifths(raw[at + 6 : at + 22], _word_at(raw, at + 2), 16, out[to : to + 32])
        _times(out[to : to + 32], half_at(raw, at))


@compiled_exactly
def q5_1(raw: Array, out: Array) -> None:
    """32 numbers in 24 bytes: scale, offset, the rest as in Q5_0."""
    for b in range(len(raw) // 24):
        at, to = b * 24, b * 32
        _fifths(raw[at + 8 : at + 24], _word_at(raw, at + 4), 0, out[to : to + 32])
        _times_plus(out[to : to + 32], half_at(raw, at), half_at(raw, at + 2))


@compiled_exactly
def _bytes_times(codes: Array, scale: Any, out: Array) -> None:
    """out = int8 codes times scale."""
    for j in range(len(out)):
        out[j] = np.float32(np.float32(np.int8(codes[j])) * scale)


@compiled_exactly
def q8_0(raw: Array, out: Array) -> None:
    """32 numbers in 34 bytes: scale, then int8."""
    for b in range(len(raw) // 34):
        at, to = b * 34, b * 32
        _bytes_times(raw[at + 2 : at + 34], half_at(raw, at), out[to : to + 32])


@compiled_exactly
def q8_1(raw: Array, out: Array) -> None:
    """32 numbers in 36 bytes: scale, the scaled sum, then int8."""
    for b in range(len(raw) // 36):
        at, to = b * 36, b * 32
        _bytes_times(raw[at + 4 : at + 36], half_at(raw, at), out[to : to + 32])


@compiled_exactly
def q8_k(raw: Array, out: Array) -> None:
    """256 numbers in 292 bytes: scale float32, int8, sums of 16 each."""
    for b in range(len(raw) // 292):
        at, to = b * 292, b * 256
        _bytes_times(raw[at + 4 : at + 260], np.uint32(_word_at(raw, at)).view(np.float32), out[to : to + 256])


@compiled_exactly
def q1_0(raw: Array, out: Array) -> None:
    """128 signs in 18 bytes: scale, then bits, set for plus."""
    for b in range(len(raw) // 18):
        at, to = b * 18, b * 128
        scale = half_at(raw, at)
        for j in range(16):
            byte = raw[at + 2 + j]
            for i in range(8):
                out[to + 8 * j + i] = scale if (byte >> np.uint8(i)) & 1 else -scale


@compiled_exactly
def q2_0(raw: Array, numbers: int, out: Array) -> None:
    """`numbers` (64, of a fork 128) of 2 bits: scale, then four in a byte, the low ones first; -1 to 2."""
    size = 2 + numbers // 4
    for b in range(len(raw) // size):
        at, to = b * size, b * numbers
        scale = half_at(raw, at)
        for j in range(numbers // 4):
            byte = raw[at + 2 + j]
            for i in range(4):
                code = np.int32(np.int32((byte >> np.uint8(2 * i)) & np.uint8(3)) - np.int32(1))
                out[to + 4 * j + i] = np.float32(np.float32(code) * scale)


@compiled_exactly
def mxfp4(raw: Array, powers: Array, out: Array) -> None:
    """32 numbers E2M1 in 17 bytes: scale E8M0, by `powers` [256] half of it, then 16 bytes as in Q4_0."""
    for b in range(len(raw) // 17):
        at, to = b * 17, b * 32
        scale = powers[raw[at]]
        for j in range(16):
            byte = raw[at + 1 + j]
            out[to + j] = np.float32(scale * _FOURS[byte & np.uint8(15)])
            out[to + j + 16] = np.float32(scale * _FOURS[byte >> np.uint8(4)])


@compiled_exactly
def nvfp4(raw: Array, scales: Array, out: Array) -> None:
    """64 numbers E2M1 in 36 bytes: 4 scales UE4M3, by `scales` [256] half of them, for 16 numbers in 8 bytes each."""
    for b in range(len(raw) // 36):
        for s in range(4):
            at, to = b * 36 + 4 + 8 * s, b * 64 + 16 * s
            scale = scales[raw[b * 36 + s]]
            for j in range(8):
                byte = raw[at + j]
                out[to + j] = np.float32(scale * _FOURS[byte & np.uint8(15)])
                out[to + j + 8] = np.float32(scale * _FOURS[byte >> np.uint8(4)])


@compiled_exactly
def _minus(codes: Array, scale: Any, offset: Any, out: Array) -> None:
    """out = codes uint8 times scale, minus offset."""
    for j in range(len(out)):
        out[j] = np.float32(np.float32(np.float32(codes[j]) * scale) - offset)


@compiled_exactly
def q2_k(raw: Array, out: Array) -> None:
    """256 numbers of 2 bits in 84 bytes: 16 scales and offsets of 4 bits, numbers, the scale of each of the two."""
    room = np.empty(16, np.uint8)
    for b in range(len(raw) // 84):
        at = b * 84
        scale, least = half_at(raw, at + 80), half_at(raw, at + 82)
        for group in range(16):
            both = raw[at + group]
            one = np.float32(scale * np.float32(both & np.uint8(15)))
            off = np.float32(least * np.float32(both >> np.uint8(4)))
            first, shift = at + 16 + 32 * (group // 8) + 16 * (group % 2), np.uint8(2 * ((group // 2) % 4))
            for j in range(16):
                room[j] = (raw[first + j] >> shift) & np.uint8(3)
            to = b * 256 + 16 * group
            _minus(room, one, off, out[to : to + 16])


@compiled_exactly
def q3_k(raw: Array, out: Array) -> None:
    """256 numbers of 3 bits in 110 bytes: the high bits, the low two, 16 scales of 6 bits, the scale of all."""
    for b in range(len(raw) // 110):
        at = b * 110
        scale = half_at(raw, at + 108)
        for group in range(16):
            low = raw[at + 96 + group % 8] >> np.uint8(4 * (group // 8))
            high = raw[at + 104 + group % 4] >> np.uint8(2 * (group // 4))
            six = np.int32(np.int32(low & np.uint8(15)) | np.int32(np.int32(high & np.uint8(3)) << np.int32(4)))
            one = np.float32(scale * np.float32(np.int32(six - np.int32(32))))
            first, shift = at + 32 + 32 * (group // 8) + 16 * (group % 2), np.uint8(2 * ((group // 2) % 4))
            bits, bit = at + 16 * (group % 2), np.uint8(group // 2)
            to = b * 256 + 16 * group
            for j in range(16):
                two = np.int32((raw[first + j] >> shift) & np.uint8(3))
                above = np.int32((raw[bits + j] >> bit) & np.uint8(1))
                code = np.int32(two + np.int32(np.int32(above << np.int32(2)) - np.int32(4)))
                out[to + j] = np.float32(np.float32(code) * one)


@compiled_exactly
def _six_bits(raw: Array, at: int, group: int) -> tuple[Any, Any]:
    """(scale, offset) of 6 bits of one of 8 groups, of 12 bytes."""
    if group < 4:
        return raw[at + group] & np.uint8(63), raw[at + 4 + group] & np.uint8(63)
    both = raw[at + 4 + group]
    scale = (both & np.uint8(15)) | ((raw[at + group - 4] >> np.uint8(2)) & np.uint8(48))
    return np.uint8(scale), np.uint8((both >> np.uint8(4)) | ((raw[at + group] >> np.uint8(2)) & np.uint8(48)))


@compiled_exactly
def q4_k(raw: Array, out: Array) -> None:
    """256 numbers of 4 bits in 144 bytes: scale, offset, 8 scales and offsets of 6 bits, numbers (32 in low halves,
    the next 32 in the high ones).
    """
    room = np.empty(32, np.uint8)
    for b in range(len(raw) // 144):
        at = b * 144
        scale, least = half_at(raw, at), half_at(raw, at + 2)
        for group in range(8):
            six, off = _six_bits(raw, at + 4, group)
            codes, shift = raw[at + 16 + 32 * (group // 2) : at + 48 + 32 * (group // 2)], np.uint8(4 * (group % 2))
            for j in range(32):
                room[j] = (codes[j] >> shift) & np.uint8(15)
            to = b * 256 + 32 * group
            one, less = np.float32(scale * np.float32(six)), np.float32(least * np.float32(off))
            _minus(room, one, less, out[to : to + 32])


@compiled_exactly
def q5_k(raw: Array, out: Array) -> None:
    """256 numbers of 5 bits in 176 bytes: as Q4_K, with the fifth bits before the others."""
    room = np.empty(32, np.uint8)
    for b in range(len(raw) // 176):
        at = b * 176
        scale, least = half_at(raw, at), half_at(raw, at + 2)
        fifth = raw[at + 16 : at + 48]
        for group in range(8):
            six, off = _six_bits(raw, at + 4, group)
            codes, shift = raw[at + 48 + 32 * (group // 2) : at + 80 + 32 * (group // 2)], np.uint8(4 * (group % 2))
            for j in range(32):
                above = np.uint8(((fifth[j] >> np.uint8(group)) & np.uint8(1)) << np.uint8(4))
                room[j] = ((codes[j] >> shift) & np.uint8(15)) | above
            to = b * 256 + 32 * group
            one, less = np.float32(scale * np.float32(six)), np.float32(least * np.float32(off))
            _minus(room, one, less, out[to : to + 32])


@compiled_exactly
def q6_k(raw: Array, out: Array) -> None:
    """256 numbers of 6 bits in 210 bytes: the low 4 bits, the high 2, 16 scales int8, the scale of all."""
    for b in range(len(raw) // 210):
        at = b * 210
        scale = half_at(raw, at + 208)
        for group in range(8):
            low, lift = at + 64 * (group // 4) + 32 * (group % 2), np.uint8(4 * ((group // 2) % 2))
            high, shift = at + 128 + 32 * (group // 4), np.uint8(2 * (group % 4))
            for half in range(2):
                one = np.float32(scale * np.float32(np.int8(raw[at + 192 + 2 * group + half])))
                to = b * 256 + 32 * group + 16 * half
                for j in range(16):
                    four = (raw[low + 16 * half + j] >> lift) & np.uint8(15)
                    two = np.uint8(((raw[high + 16 * half + j] >> shift) & np.uint8(3)) << np.uint8(4))
                    code = np.int32(np.int32(np.uint8(four | two)) - np.int32(32))
                    out[to + j] = np.float32(np.float32(code) * one)


@compiled_exactly
def _trits(codes: Array, power: int, scale: Any, out: Array) -> None:
    """out = the digit of base 3 that `power` brings to the top of each byte, minus 1, times scale."""
    for j in range(len(codes)):
        top = np.uint8(codes[j] * np.uint8(power))
        digit = np.int32(np.int32(np.uint16(top) * np.uint16(3)) >> np.int32(8))
        out[j] = np.float32(np.float32(np.int32(digit - np.int32(1))) * scale)


@compiled_exactly
def tq1_0(raw: Array, out: Array) -> None:
    """256 numbers -1, 0, 1 in 54 bytes: five in a byte, then four in a byte, the scale."""
    for b in range(len(raw) // 54):
        at, to = b * 54, b * 256
        scale = half_at(raw, at + 52)
        power = 1
        for n in range(5):
            _trits(raw[at : at + 32], power, scale, out[to + 32 * n : to + 32 * n + 32])
            _trits(raw[at + 32 : at + 48], power, scale, out[to + 160 + 16 * n : to + 176 + 16 * n])
            if n < 4:
                _trits(raw[at + 48 : at + 52], power, scale, out[to + 240 + 4 * n : to + 244 + 4 * n])
            power *= 3


@compiled_exactly
def tq2_0(raw: Array, out: Array) -> None:
    """256 numbers of 2 bits in 66 bytes, the scale last; -1 to 2."""
    for b in range(len(raw) // 66):
        at = b * 66
        scale = half_at(raw, at + 64)
        for group in range(8):
            first, shift, to = at + 32 * (group // 4), np.uint8(2 * (group % 4)), b * 256 + 32 * group
            for j in range(32):
                code = np.int32(np.int32((raw[first + j] >> shift) & np.uint8(3)) - np.int32(1))
                out[to + j] = np.float32(np.float32(code) * scale)
