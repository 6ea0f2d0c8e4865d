"""The loops over pairs of elements of two tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.cpu.elements import BFLOAT16, number_of_bfloat16, widen
from netweight.kernels.cpu.sums import total
from netweight.kernels.pairs import SIGNIFICANT, SMALLEST
from netweight.kernels.protocol import CHUNK

__all__ = ["ABSOLUTE", "CO", "LENGTH", "M2_A", "M2_B", "M2_D", "MEAN_A", "MEAN_B", "MEAN_D", "N", "add_pairs"]

LENGTH = CHUNK // 2  # elements whose sums are formed together: three of them widened fill the first cache
_BAND = 2.0**-49  # of SIGNIFICANT, to either side: wider than what rounding does to a product or a quotient
_BELOW, _ABOVE = SIGNIFICANT * (1 - _BAND), SIGNIFICANT * (1 + _BAND)

# Positions in the table of sums, and in that of counts.
N, MEAN_A, MEAN_B, MEAN_D, M2_A, M2_B, M2_D, CO, ABSOLUTE = range(9)
_NONFINITE, _IDENTICAL, _SIGNIFICANT, _FLIPPED = range(4)


@compiled
def _same_words(a: Array, b: Array, first: Any, last: Any) -> bool:
    """Whether words `first` to `last` (np.uintp) agree."""
    unlike = np.uint64(0)
    for i in range(first, last):
        unlike |= a[i] ^ b[i]
    return bool(unlike == np.uint64(0))


@compiled
def _same_bytes(a: Array, b: Array, first: Any, last: Any) -> bool:
    same = True
    for i in range(first, last):
        same &= a[i] == b[i]
    return same


@compiled
def _pair_of_bfloat16(first: Array, second: Array, start: Any, n: int, a: Array, b: Array, d: Array) -> None:
    """a, b, d[:n] = the elements from `start` (np.uintp) of both, and their difference."""
    for i in range(n):
        j = start + np.uintp(i)
        x = number_of_bfloat16(first[j])
        y = number_of_bfloat16(second[j])
        a[i] = x
        b[i] = y
        d[i] = y - x


@compiled
def _subtract(a: Array, b: Array, d: Array, n: int) -> None:
    for i in range(n):
        d[i] = b[i] - a[i]


@compiled
def _sums(a: Array, b: Array, d: Array, n: int, pivots: Array, out: Array) -> None:
    """out[:10] = of the values less their pivot: sums (a, b, d), squares (a, b, d), a b; then sum abs(d), and how many
    changes are significant for certain, and how many may be.
    """
    pa, pb, pd = pivots[0], pivots[1], pivots[2]
    s_a = s_b = s_d = q_a = q_b = q_d = product = absolute = 0.0
    above: Any = 0
    below: Any = 0
    for i in range(n):
        x, y, z = np.float64(a[i]), np.float64(b[i]), np.float64(d[i])
        size = abs(z)
        scale = abs(x)
        absolute += size
        above += size > _ABOVE * scale + _ABOVE * SMALLEST
        below += size > _BELOW * scale + _BELOW * SMALLEST
        x -= pa
        y -= pb
        z -= pd
        s_a += x
        s_b += y
        s_d += z
        q_a += x * x
        q_b += y * y
        q_d += z * z
        product += x * y
    out[0], out[1], out[2] = s_a, s_b, s_d
    out[3], out[4], out[5], out[6] = q_a, q_b, q_d, product
    out[7], out[8], out[9] = absolute, above, below


@compiled
def _sums_of_one(a: Array, n: int, pivot: float, out: Array) -> None:
    """The same where b is a: out[0] and out[3] alone."""
    s = q = 0.0
    for i in range(n):
        x = np.float64(a[i]) - pivot
        s += x
        q += x * x
    out[0], out[3] = s, q


@compiled
def _significant(a: Array, d: Array, n: int) -> int:
    """By the quotient itself: for chunks where a product cannot tell."""
    changes = 0
    for i in range(n):
        if abs(np.float64(d[i])) / (abs(np.float64(a[i])) + SMALLEST) > SIGNIFICANT:
            changes += 1
    return changes


@compiled
def _extremes(bits: Array, n: int, shift: Any, mask: Any) -> Any:
    """(least, greatest) of values whose `bits` are signed integers; makes them keys in the order of the values.

    Integers, since the compiler finds extremes of floats one by one; a key is made of bits as bits are of a key.
    """
    bits[0] ^= (bits[0] >> shift) & mask
    least = most = bits[0]
    bits[0] ^= (bits[0] >> shift) & mask
    for i in range(n):
        bits[i] ^= (bits[i] >> shift) & mask
        key = bits[i]  # read back, since what is computed is wider than what is stored
        least = min(least, key)
        most = max(most, key)
    return least, most


@compiled
def _compare(a: Array, b: Array, n: int, one: Any, counts: Array) -> None:
    """Equal values and opposite signs; `one` is 1 and counts in the type of the values."""
    zero = one - one
    same = flipped = zero
    for i in range(n):
        x, y = a[i], b[i]
        same += one if x == y else zero
        flipped += one if (min(x, y) < zero) & (max(x, y) > zero) else zero
    counts[_IDENTICAL] += np.int64(same)
    counts[_FLIPPED] += np.int64(flipped)


@compiled
def _finite_sums(out: Array, count: int) -> bool:
    """Whether the first sums are finite, by their bits: np.isfinite takes x - x, which may become 0 where sums may be
    reordered.
    """
    bits = out.view(np.uint64)
    good = True
    for k in range(count):
        good &= (bits[k] >> np.uint64(52)) & np.uint64(0x7FF) != np.uint64(0x7FF)
    return good


@compiled
def _finite_only(a: Array, b: Array, d: Array, n: int, exponent: Any) -> int:
    """Move the pairs whose values, given as bits, are finite to the front; returns how many."""
    k = 0
    for i in range(n):
        if a[i] & exponent != exponent and b[i] & exponent != exponent and d[i] & exponent != exponent:
            a[k], b[k], d[k] = a[i], b[i], d[i]
            k += 1
    return k


@compiled
def _merge(sums: Array, n: float, moments: Array, comoment: float) -> None:
    """A chunk's moments, moments[6] (means, then M2), into `sums` (Pebay 2008, SAND2008-6212, eq. 2.1)."""
    held = sums[N]
    if held == 0.0:
        for k in range(3):
            sums[MEAN_A + k] = moments[k]
            sums[M2_A + k] = moments[3 + k]
        sums[CO], sums[N] = comoment, n
        return
    both = held + n
    d_a, d_b = moments[0] - sums[MEAN_A], moments[1] - sums[MEAN_B]
    sums[CO] += comoment + d_a * d_b * (held * n / both)
    for k in range(3):
        delta = moments[k] - sums[MEAN_A + k]
        sums[M2_A + k] += moments[3 + k] + delta * delta * (held * n / both)
        sums[MEAN_A + k] += delta * (n / both)
    sums[N] = both


@compiled
def _add_chunk(n: int, out: Array, pivots: Array, room: Array, sums: Array) -> None:
    """The result of `_sums` for n pairs, about the pivots, merged into `sums`."""
    count = np.float64(n)
    for k in range(3):
        room[k] = pivots[k] + out[k] / count
        room[3 + k] = max(out[3 + k] - out[k] * (out[k] / count), 0.0)
    _merge(sums, count, room, out[6] - out[0] * (out[1] / count))
    sums[ABSOLUTE] += out[7]


@compiled
def _settle(out: Array) -> None:
    """The result of `_sums` where b is a, from a's sums."""
    out[1], out[4], out[6] = out[0], out[3], out[3]
    out[2] = out[5] = out[7] = out[8] = out[9] = 0.0


@compiled
def _pivots(a: Array, b: Array, d: Array, n: int, sums: Array, pivots: Array) -> None:
    """Near the means of what comes: the means so far, those of the first chunk itself.

    A chunk far from the pivot loses digits of its own M2, but fewer than the distance then adds to the merged one.
    """
    if sums[N] > 0.0:
        pivots[0], pivots[1], pivots[2] = sums[MEAN_A], sums[MEAN_B], sums[MEAN_D]
        return
    pivots[0], pivots[1], pivots[2] = total(a[:n]) / n, total(b[:n]) / n, total(d[:n]) / n


@compiled
def add_pairs(
    raw: Array,
    kinds: Array,
    widths: Array,
    count: int,
    half: Array,
    eighths: Array,
    values: Array,
    bits: Array,
    one: Any,
    shift: Any,
    mask: Any,
    exponent: Any,
    sums: Array,
    counts: Array,
    keys: Array,
) -> None:
    """One block: `count` elements of both rows of raw[2, bytes], whose elements have widths[2] bytes, taken in.

    values[3, chunk]: room for a, b and d of a chunk; bits: its bits as signed integers. `shift`, `mask`, `exponent`: to
    the sign, all bits but it, and those that are all set where a value is not finite. keys[2]: the least and greatest
    of d, see `_extremes`.
    """
    chunk = values.shape[1]
    out, pivots, room = np.empty(10), np.empty(3), np.empty(6)
    # made once: a view made for each chunk would take longer than some of the loops
    a, b, d = values[0], values[1], values[2]
    bits_a, bits_b, bits_d = bits[0], bits[1], bits[2]
    raw_a, raw_b = raw[0], raw[1]
    halves_a, halves_b = raw_a.view(np.uint16), raw_b.view(np.uint16)
    words_a, words_b = raw_a.view(np.uint64), raw_b.view(np.uint64)
    alike = kinds[0] == kinds[1]
    width = widths[0]
    for first in range(0, count, chunk):
        n = min(chunk, count - first)
        if alike:
            start, whole, end = first * width // 8, (first + n) * width // 8, (first + n) * width
            same = _same_words(words_a, words_b, np.uintp(start), np.uintp(whole))
            if same and _same_bytes(raw_a, raw_b, np.uintp(8 * whole), np.uintp(end)):
                widen(raw_a, kinds[0], first, half, eighths, a[:n])
                pivot = sums[MEAN_A] if sums[N] > 0.0 else total(a[:n]) / n
                _sums_of_one(a, n, pivot, out)
                if _finite_sums(out, 1):
                    _settle(out)
                    pivots[0] = pivots[1] = pivot
                    pivots[2] = 0.0
                    _add_chunk(n, out, pivots, room, sums)
                    keys[0], keys[1] = min(keys[0], 0), max(keys[1], 0)
                    counts[_IDENTICAL] += n
                    continue
        if alike and kinds[0] == BFLOAT16:
            _pair_of_bfloat16(halves_a, halves_b, np.uintp(first), n, a, b, d)
        else:
            widen(raw_a, kinds[0], first, half, eighths, a[:n])
            widen(raw_b, kinds[1], first, half, eighths, b[:n])
            _subtract(a, b, d, n)
        _pivots(a, b, d, n, sums, pivots)
        _sums(a, b, d, n, pivots, out)
        if not _finite_sums(out, 3):
            finite = _finite_only(bits_a, bits_b, bits_d, n, exponent)
            counts[_NONFINITE] += n - finite
            if finite == 0:
                continue
            n = finite
            _pivots(a, b, d, n, sums, pivots)
            _sums(a, b, d, n, pivots, out)
        counts[_SIGNIFICANT] += np.int64(out[8]) if out[8] == out[9] else _significant(a, d, n)
        _compare(a, b, n, one, counts)
        least, most = _extremes(bits_d, n, shift, mask)
        keys[0], keys[1] = min(keys[0], least), max(keys[1], most)
        _add_chunk(n, out, pivots, room, sums)
