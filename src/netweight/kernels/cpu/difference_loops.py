"""The loops over differences of models to their base: every element counted, residual values summed and kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.bits import leading, leading_shift
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.cpu.elements import ABSENT, BFLOAT16, number_of_bfloat16, widen
from netweight.kernels.cpu.moments import add_moments
from netweight.kernels.cpu.patterns import count_in_four, count_in_one, count_in_two
from netweight.kernels.cpu.residuals import finite_to_front, gather, keep, or_by_eight
from netweight.kernels.cpu.sums import finite_dot

__all__ = ["add_block", "refine_block"]

_ONE = np.uint32(1)


@compiled
def _zeros(counts: Array) -> int:
    return int(counts[0, 0]) + int(counts[1, 0]) + int(counts[2, 0]) + int(counts[3, 0])


@compiled
def _subtract_from_bfloat16(patterns: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = number_of_bfloat16(patterns[i]) - base[i]


@compiled
def _subtract(base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] -= base[i]


@compiled
def _difference(
    raw: Array, kind: int, first: int, half: Array, eighths: Array, base: Array, base_kind: int, out: Array
) -> None:
    """out[:] = the elements from `first` of `raw`, less `base` where there is one."""
    n = len(out)
    if kind == BFLOAT16 and base_kind != ABSENT:
        _subtract_from_bfloat16(raw.view(np.uint16)[first : first + n], base, out)
        return
    widen(raw, kind, first, half, eighths, out)
    if base_kind != ABSENT:
        _subtract(base, out)


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
    zeros = np.empty(models, np.int64)  # before this block
    for m in range(models):
        zeros[m] = _zeros(counts[m])
    for first in range(0, count, chunk):
        n = min(chunk, count - first)
        base = values[0, :n]
        if kinds[0] != ABSENT:
            widen(raw[0], kinds[0], first, half, eighths, base)
            base_square[0] += finite_dot(base, base)
        for m in range(models):
            moved[m] = False
            if kinds[m + 1] == ABSENT:
                continue
            b = bits[m + 1, :n]
            _difference(raw[m + 1], kinds[m + 1], first, half, eighths, base, kinds[0], values[m + 1, :n])
            if not or_by_eight(b, flags):
                counts[m, 0, 0] += np.uint32(n)
                continue
            moved[m] = True
            if 2 * (_zeros(counts[m]) - zeros[m]) > first:
                count_in_four(b, leading_shift(b), counts[m])
            else:
                count_in_two(b, leading_shift(b), counts[m])
            residual = spare_bits[: gather(b, flags, spare_bits)]
            if len(residual):
                if stored[m] >= 0:
                    stored[m] = keep(residual, kept, residual_counts[m], store[m], stored[m])
                else:
                    count_in_one(residual, leading_shift(residual), residual_counts[m])
                finite = finite_to_front(residual, exponent)
                if finite:
                    add_moments(spare[:finite], spare_keys[:finite], sums, residual_sums[m])
        for m in range(models):
            for other in range(m):
                if moved[m] and moved[other]:
                    gram[m, other] += finite_dot(values[m + 1, :n], values[other + 1, :n])


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
            widen(raw[0], kinds[0], first, half, eighths, base)
        for m in range(models):
            if kinds[m + 1] == ABSENT:
                continue
            b = bits[m + 1, :n]
            _difference(raw[m + 1], kinds[m + 1], first, half, eighths, base, kinds[0], values[m + 1, :n])
            for i in range(n):
                top = leading(b[i])
                for s in range(slots[m, top]):
                    slot = first_slot[m, top] + s
                    if prefixes[slot] == b[i] >> below:
                        counts[slot, (b[i] >> (below - sixteen)) & mask] += _ONE
