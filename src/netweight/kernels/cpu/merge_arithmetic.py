"""Combinations and trimmed differences of several rows.

Compiled without fastmath: every element is then what numpy's elementwise arithmetic gives, on any CPU and in any block,
and an input's -0.0 stays. Loops go by tiles that stay in the first cache; rows of 16-bit floats are widened there, and
results rounded, so that they are never written out in float32.

Rows `x` are float32, float64, or the patterns uint16 of bfloat16 or, where `half` is set, of float16; arithmetic on
patterns is that of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly
from netweight.kernels.cpu.elements import APART, TILE, numbers_of
from netweight.kernels.cpu.rounding import narrow_to_bfloat16, narrow_to_half, not_finite
from netweight.kernels.cpu.sources import stands_for

__all__ = ["combine", "merge_differences"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_RANGE = 2.0**32
_ZERO = np.float32(0)


def _results(out: Array, room: Array) -> Array:
    """Where numbers for `out` are put: there, or in `room`, from where `_finish` rounds them."""
    return room[: len(out)] if out.dtype == np.uint16 else out


@stands_for(_results, inline="always", strict=False)
def _results_of(out: Any, room: Any) -> Any:  # noqa: ARG001
    from numba import types  # noqa: PLC0415 - where it is compiled

    if out.dtype == types.uint16:
        return lambda out, room: room[: len(out)]
    return lambda out, room: out  # noqa: ARG005


def _finish(values: Array, half: bool, out: Array) -> int:  # noqa: FBT001
    """Round the numbers of `_results` where it gave room for them; returns how many are not finite then."""
    if out.dtype == np.uint16:
        return narrow_to_half(values, out) if half else narrow_to_bfloat16(values, out)
    return not_finite(values)


@stands_for(_finish, strict=False)
def _finish_as(values: Any, half: Any, out: Any) -> Any:  # noqa: ARG001
    from numba import types  # noqa: PLC0415 - where it is compiled

    if out.dtype != types.uint16:
        return lambda values, half, out: not_finite(values)  # noqa: ARG005

    def finish(values: Array, half: bool, out: Array) -> int:  # noqa: FBT001
        if half:
            return narrow_to_half(values, out)
        return narrow_to_bfloat16(values, out)

    return finish


@compiled_exactly
def _moved(base: Any, moved: Any) -> Any:
    # -0.0 + 0.0 is +0.0; what nothing is added to stays as it is
    return base if moved == 0 else base + moved


@compiled_exactly
def _combine_two(base: Array, a: Array, scale: Any, f: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]))


@compiled_exactly
def _combine_three(base: Array, a: Array, b: Array, scale: Any, f: Any, g: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]) + g * (b[i] - base[i]))


@compiled_exactly
def _combine_four(base: Array, a: Array, b: Array, c: Array, scale: Any, f: Any, g: Any, h: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]) + g * (b[i] - base[i]) + h * (c[i] - base[i]))


@compiled_exactly
def _sum_one(base: Array, a: Array, f: Any, sums: Array) -> None:
    for i in range(len(sums)):
        sums[i] = sums[i] + f * (a[i] - base[i])


@compiled_exactly
def _sum_two(base: Array, a: Array, b: Array, f: Any, g: Any, sums: Array) -> None:
    for i in range(len(sums)):
        sums[i] = sums[i] + f * (a[i] - base[i]) + g * (b[i] - base[i])


@compiled_exactly
def _combine_sums(base: Array, scale: Any, sums: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], sums[i])


@compiled_exactly
def combine(x: Array, half: bool, pivot: int, scale: Any, rows: Array, factors: Array, out: Array) -> int:  # noqa: FBT001
    """out = scale * x[pivot] + sum of factors * (x[rows] - x[pivot]), in the order of `rows`; `out` is of x's type.

    Returns how many are not finite.
    """
    f = factors
    room = np.empty((5, TILE + APART), factors.dtype)
    bad = 0
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        base = numbers_of(x[pivot, first:last], half, room[0])
        results = _results(out[first:last], room[1])
        if len(rows) == 1:
            a = numbers_of(x[rows[0], first:last], half, room[2])
            _combine_two(base, a, scale, f[0], results)
        elif len(rows) == 2:
            a = numbers_of(x[rows[0], first:last], half, room[2])
            b = numbers_of(x[rows[1], first:last], half, room[3])
            _combine_three(base, a, b, scale, f[0], f[1], results)
        elif len(rows) == 3:
            a = numbers_of(x[rows[0], first:last], half, room[2])
            b = numbers_of(x[rows[1], first:last], half, room[3])
            c = numbers_of(x[rows[2], first:last], half, room[4])
            _combine_four(base, a, b, c, scale, f[0], f[1], f[2], results)
        else:
            sums = room[4, : last - first]
            sums[:] = 0
            for k in range(0, len(rows) - 1, 2):
                a = numbers_of(x[rows[k], first:last], half, room[2])
                b = numbers_of(x[rows[k + 1], first:last], half, room[3])
                _sum_two(base, a, b, f[k], f[k + 1], sums)
            if len(rows) % 2:
                _sum_one(base, numbers_of(x[rows[-1], first:last], half, room[2]), f[-1], sums)
            _combine_sums(base, scale, sums, results)
        bad += _finish(results, half, out[first:last])
    return bad


@compiled_exactly
def _draw(key: Any, start: Any, out: Array) -> None:
    """out uint32 [n] = the upper halves of splitmix64's numbers (Steele, Lea, Flood 2014) from element `start` on."""
    state = np.uint64(key + np.uint64(start) * _GOLDEN)
    for i in range(len(out)):
        state = np.uint64(state + _GOLDEN)
        z = np.uint64(np.uint64(state ^ np.uint64(state >> np.uint64(30))) * _MIX_A)
        z = np.uint64(np.uint64(z ^ np.uint64(z >> np.uint64(27))) * _MIX_B)
        out[i] = np.uint32(np.uint64(z ^ np.uint64(z >> np.uint64(31))) >> np.uint64(32))


@compiled_exactly
def _within(d: Any, low: Any, high: Any) -> bool:
    """NaN is within."""
    size = abs(d)
    return not ((size < low) | (size > high))


@compiled_exactly
def _trim(a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, out: Array) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        value = weight * (factor * d)
        out[i] = value if _within(d, low, high) else _ZERO


@compiled_exactly
def _trim_drawn(
    a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, most: Any, numbers: Array, out: Array
) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        value = weight * (factor * d)
        chosen = (numbers[i] <= most) | (d != d)  # noqa: PLR0124 - NaN
        out[i] = value if _within(d, low, high) & chosen else _ZERO


@compiled_exactly
def _trim_by_chance(
    a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, keep: Array, numbers: Array, out: Array
) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        value = weight * (factor * (d / keep[i]))
        chosen = (np.float64(numbers[i]) < np.rint(np.float64(keep[i]) * _RANGE)) | (d != d)  # noqa: PLR0124 - NaN
        out[i] = value if _within(d, low, high) & chosen else _ZERO


@compiled_exactly
def _step(base: Any, total: Any, elected: Any, weights: Any, scale: Any) -> Any:
    """base + scale * elected / weights with the sign of the total, if it has one; NaN where the total is."""
    mean = elected / (weights if weights != 0 else np.float32(1))
    mean = mean if weights != 0 else _ZERO
    mean = mean if total > 0 else -mean
    mean = mean if total != 0 else _ZERO
    mean = mean if total == total else total  # noqa: PLR0124 - NaN
    return _moved(base, scale * mean)


@compiled_exactly
def _elect_three(base: Array, v: Array, w: Array, least: Any, scale: Any, out: Array) -> None:
    a, b, c = v[0, : len(out)], v[1, : len(out)], v[2, : len(out)]
    wa, wb, wc = w[0], w[1], w[2]
    for i in range(len(out)):
        total = a[i] + b[i] + c[i]
        va = a[i] if total > 0 else -a[i]  # of the elected, what is positive now counts
        vb = b[i] if total > 0 else -b[i]
        vc = c[i] if total > 0 else -c[i]
        elected = (va if va > 0 else _ZERO) + (vb if vb > 0 else _ZERO) + (vc if vc > 0 else _ZERO)
        weights = least + (wa if va > 0 else _ZERO) + (wb if vb > 0 else _ZERO) + (wc if vc > 0 else _ZERO)
        out[i] = _step(base[i], total, elected, weights, scale)


@compiled_exactly
def _add(v: Array, total: Array) -> None:
    for i in range(len(total)):
        total[i] += v[i]


@compiled_exactly
def _add_elected(v: Array, total: Array, weight: Any, elected: Array, weights: Array) -> None:
    for i in range(len(total)):
        towards = v[i] if total[i] > 0 else -v[i]
        elected[i] += towards if towards > 0 else _ZERO
        weights[i] += weight if towards > 0 else _ZERO


@compiled_exactly
def _elect(base: Array, v: Array, w: Array, least: Any, scale: Any, sums: Array, out: Array) -> None:
    """Any number of models; sums[3, n]: room."""
    n = len(out)
    total, elected, weights = sums[0, :n], sums[1, :n], sums[2, :n]
    total[:] = 0
    elected[:] = 0
    weights[:] = least
    for k in range(len(w)):
        _add(v[k, :n], total)
    for k in range(len(w)):
        _add_elected(v[k, :n], total, w[k], elected, weights)
    for i in range(n):
        out[i] = _step(base[i], total[i], elected[i], weights[i], scale)


@compiled_exactly
def _take_all(base: Array, v: Array, divisor: Any, scale: Any, out: Array) -> None:
    n = len(out)
    total = v[0, :n]
    for k in range(1, len(v)):
        _add(v[k, :n], total)
    if divisor == 1:
        for i in range(n):
            out[i] = _moved(base[i], scale * total[i])
    else:
        for i in range(n):
            out[i] = _moved(base[i], scale * (total[i] / divisor))


@compiled_exactly
def merge_differences(
    x: Array,
    half: bool,  # noqa: FBT001 - compiled functions take no keywords
    rows: Array,
    numbers: Array,
    draws: Array,
    keys: Array,
    most: Array,
    divisor: Any,
    scale: Any,
    keep: Array,
    start: Any,
    elect: bool,  # noqa: FBT001
    out: Array,
) -> int:
    """See the protocol. All arrays go by `rows` [k >= 1], the models that are looked at; keep by all models. `out` is
    of x's type; returns how many are not finite.

    numbers: [5, k], which tells the type of the arithmetic: low, high, factor, weight, and what the weight adds to the
    divisor with `elect`; draws: 0 where all are kept, 1 where the random numbers up to `most` are, 2 where those below
    keep[k, n] are; keys: uint64; divisor: what sums are divided by, with `elect` before weights are added; start:
    uint64.
    """
    models = len(rows)
    v = np.empty((models, TILE + APART), numbers.dtype)
    room = np.empty((3, TILE + APART), numbers.dtype)
    sums = np.empty((3, TILE + APART), numbers.dtype)
    drawn = np.empty(TILE, np.uint32)
    weights = numbers[4]
    bad = 0
    for first in range(0, len(out), TILE):
        last = min(first + TILE, len(out))
        n = last - first
        base = numbers_of(x[0, first:last], half, room[0])
        for k in range(models):
            a = numbers_of(x[rows[k], first:last], half, room[1])
            low, high, factor, weight = numbers[0, k], numbers[1, k], numbers[2, k], numbers[3, k]
            if draws[k] == 0:
                _trim(a, base, low, high, factor, weight, v[k, :n])
                continue
            _draw(keys[k], start + np.uint64(first), drawn[:n])
            if draws[k] == 1:
                _trim_drawn(a, base, low, high, factor, weight, most[k], drawn[:n], v[k, :n])
            else:
                _trim_by_chance(a, base, low, high, factor, weight, keep[rows[k] - 1, first:last], drawn[:n], v[k, :n])
        results = _results(out[first:last], room[2])
        if not elect:
            _take_all(base, v, divisor, scale, results)
        elif models == 3:
            _elect_three(base, v, weights, divisor, scale, results)
        else:
            _elect(base, v, weights, divisor, scale, sums, results)
        bad += _finish(results, half, out[first:last])
    return bad
