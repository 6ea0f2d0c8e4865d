"""Inner products, combinations and trimmed differences of several rows. One file: see loops.py on numba's cache.

All but the sums are compiled without fastmath: every element is then what numpy's elementwise arithmetic gives, on any
CPU and in any block, and an input's -0.0 stays. Loops go by tiles that stay in the first cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from netweight.kernels.cpu.compiled import _compile, compiled

__all__ = ["add_gram", "combine", "merge_differences"]


F = TypeVar("F", bound=Callable[..., object])
Array = np.ndarray[Any, Any]

_CHUNK = 4096  # kernels.protocol.CHUNK, which numba's cache would not see change
_TILE = 1024
_APART = 24  # between rows of a tile: those that share the low 12 bits of their addresses wait for each other
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_RANGE = 2.0**32
_ZERO = np.float32(0)


def _exactly(function: F) -> F:
    return _compile(function, set())


@compiled
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for k in range(len(a)):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled
def _dot_with_two(a: Array, b: Array, c: Array, found: Array) -> None:
    ab = 0.0
    ac = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
    found[0] = ab
    found[1] = ac


@compiled
def _dot_with_three(a: Array, b: Array, c: Array, d: Array, found: Array) -> None:
    ab = 0.0
    ac = 0.0
    ad = 0.0
    for k in range(len(a)):
        value = np.float64(a[k])
        ab += value * np.float64(b[k])
        ac += value * np.float64(c[k])
        ad += value * np.float64(d[k])
    found[0] = ab
    found[1] = ac
    found[2] = ad


@compiled
def _add_products(x: Array, count: int, total: Array, found: Array) -> None:
    for i in range(len(x)):
        a = x[i, :count]
        for j in range(0, i + 1, 3):
            if j + 2 <= i:
                _dot_with_three(a, x[j, :count], x[j + 1, :count], x[j + 2, :count], found)
            elif j + 1 <= i:
                _dot_with_two(a, x[j, :count], x[j + 1, :count], found)
            else:
                found[0] = _dot(a, x[j, :count])
            for k in range(min(3, i + 1 - j)):
                total[i, j + k] += found[k]


@_exactly
def _difference(a: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = a[i] - base[i]


@_exactly
def _copy(a: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = a[i]


@compiled
def add_gram(x: Array, first_row: int, total: Array) -> None:
    """total += inner products of the rows of `x` [rows, n], or, where first_row is 1, of x[1:] - x[0].

    Chunk by chunk; the products of float32 are exact.
    """
    found = np.zeros(3, np.float64)
    room = np.empty((len(x) - first_row, _TILE + _APART), np.float64)
    sums = np.empty(total.shape, np.float64)
    count = x.shape[1]
    for chunk in range(0, count, _CHUNK):
        sums[:] = 0.0
        for first in range(chunk, min(chunk + _CHUNK, count), _TILE):
            last = min(first + _TILE, count)
            for m in range(len(room)):
                if first_row:
                    _difference(x[m + 1, first:last], x[0, first:last], room[m, : last - first])
                else:
                    _copy(x[m, first:last], room[m, : last - first])
            _add_products(room, last - first, sums, found)
        for i in range(len(room)):
            for j in range(i + 1):
                total[i, j] += sums[i, j]
                if j < i:
                    total[j, i] += sums[i, j]


@_exactly
def _moved(base: Any, moved: Any) -> Any:
    # -0.0 + 0.0 is +0.0; what nothing is added to stays as it is
    return base if moved == 0 else base + moved


@_exactly
def _combine_two(base: Array, a: Array, scale: Any, f: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]))


@_exactly
def _combine_three(base: Array, a: Array, b: Array, scale: Any, f: Any, g: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]) + g * (b[i] - base[i]))


@_exactly
def _combine_four(base: Array, a: Array, b: Array, c: Array, scale: Any, f: Any, g: Any, h: Any, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], f * (a[i] - base[i]) + g * (b[i] - base[i]) + h * (c[i] - base[i]))


@_exactly
def _sum_one(base: Array, a: Array, f: Any, sums: Array) -> None:
    for i in range(len(sums)):
        sums[i] = sums[i] + f * (a[i] - base[i])


@_exactly
def _sum_two(base: Array, a: Array, b: Array, f: Any, g: Any, sums: Array) -> None:
    for i in range(len(sums)):
        sums[i] = sums[i] + f * (a[i] - base[i]) + g * (b[i] - base[i])


@_exactly
def _combine_sums(base: Array, scale: Any, sums: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = _moved(scale * base[i], sums[i])


@_exactly
def combine(x: Array, pivot: int, scale: Any, rows: Array, factors: Array, out: Array) -> None:
    """out = scale * x[pivot] + sum of factors * (x[rows] - x[pivot]), of x's type, in the order of `rows`."""
    f = factors
    if len(rows) == 1:
        _combine_two(x[pivot], x[rows[0]], scale, f[0], out)
        return
    if len(rows) == 2:
        _combine_three(x[pivot], x[rows[0]], x[rows[1]], scale, f[0], f[1], out)
        return
    if len(rows) == 3:
        _combine_four(x[pivot], x[rows[0]], x[rows[1]], x[rows[2]], scale, f[0], f[1], f[2], out)
        return
    room = np.empty(_TILE, x.dtype)
    for first in range(0, len(out), _TILE):
        last = min(first + _TILE, len(out))
        base = x[pivot, first:last]
        sums = room[: last - first]
        sums[:] = 0
        for k in range(0, len(rows) - 1, 2):
            _sum_two(base, x[rows[k], first:last], x[rows[k + 1], first:last], f[k], f[k + 1], sums)
        if len(rows) % 2:
            _sum_one(base, x[rows[-1], first:last], f[-1], sums)
        _combine_sums(base, scale, sums, out[first:last])


@_exactly
def _draw(key: Any, start: Any, out: Array) -> None:
    """out uint32 [n] = the upper halves of splitmix64's numbers (Steele, Lea, Flood 2014) from element `start` on."""
    state = np.uint64(key + np.uint64(start) * _GOLDEN)
    for i in range(len(out)):
        state = np.uint64(state + _GOLDEN)
        z = np.uint64(np.uint64(state ^ np.uint64(state >> np.uint64(30))) * _MIX_A)
        z = np.uint64(np.uint64(z ^ np.uint64(z >> np.uint64(27))) * _MIX_B)
        out[i] = np.uint32(np.uint64(z ^ np.uint64(z >> np.uint64(31))) >> np.uint64(32))


@_exactly
def _within(d: Any, low: Any, high: Any) -> bool:
    """NaN is within."""
    size = abs(d)
    return not ((size < low) | (size > high))


@_exactly
def _trim(a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, out: Array) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        found = weight * (factor * d)
        out[i] = found if _within(d, low, high) else _ZERO


@_exactly
def _trim_drawn(
    a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, most: Any, numbers: Array, out: Array
) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        found = weight * (factor * d)
        chosen = (numbers[i] <= most) | (d != d)  # noqa: PLR0124 - NaN
        out[i] = found if _within(d, low, high) & chosen else _ZERO


@_exactly
def _trim_each(
    a: Array, base: Array, low: Any, high: Any, factor: Any, weight: Any, keep: Array, numbers: Array, out: Array
) -> None:
    for i in range(len(out)):
        d = a[i] - base[i]
        found = weight * (factor * (d / keep[i]))
        chosen = (np.float64(numbers[i]) < np.rint(np.float64(keep[i]) * _RANGE)) | (d != d)  # noqa: PLR0124 - NaN
        out[i] = found if _within(d, low, high) & chosen else _ZERO


@_exactly
def _step(base: Any, total: Any, elected: Any, weights: Any, scale: Any) -> Any:
    """base + scale * elected / weights with the sign of the total, if it has one; NaN where the total is."""
    mean = elected / (weights if weights != 0 else np.float32(1))
    mean = mean if weights != 0 else _ZERO
    mean = mean if total > 0 else -mean
    mean = mean if total != 0 else _ZERO
    mean = mean if total == total else total  # noqa: PLR0124 - NaN
    return _moved(base, scale * mean)


@_exactly
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


@_exactly
def _add(v: Array, total: Array) -> None:
    for i in range(len(total)):
        total[i] += v[i]


@_exactly
def _add_elected(v: Array, total: Array, weight: Any, elected: Array, weights: Array) -> None:
    for i in range(len(total)):
        found = v[i] if total[i] > 0 else -v[i]
        elected[i] += found if found > 0 else _ZERO
        weights[i] += weight if found > 0 else _ZERO


@_exactly
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


@_exactly
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


@_exactly
def merge_differences(
    x: Array,
    rows: Array,
    numbers: Array,
    draws: Array,
    keys: Array,
    most: Array,
    divisor: Any,
    scale: Any,
    keep: Array,
    start: Any,
    elect: bool,  # noqa: FBT001 - compiled functions take no keywords
    out: Array,
) -> None:
    """See the protocol. All arrays go by `rows` [k >= 1], the models that are looked at; keep by all models.

    numbers: [5, k] of x's type: low, high, factor, weight, and what the weight adds to the divisor with `elect`;
    draws: 0 where all are kept, 1 where the random numbers up to `most` are, 2 where those below keep[k, n] are; keys:
    uint64; divisor: of x's type, what sums are divided by, with `elect` before weights are added; start: uint64.
    """
    models = len(rows)
    v = np.empty((models, _TILE + _APART), x.dtype)
    sums = np.empty((3, _TILE + _APART), x.dtype)
    drawn = np.empty(_TILE, np.uint32)
    weights = numbers[4]
    for first in range(0, len(out), _TILE):
        last = min(first + _TILE, len(out))
        n = last - first
        base = x[0, first:last]
        for k in range(models):
            a = x[rows[k], first:last]
            low, high, factor, weight = numbers[0, k], numbers[1, k], numbers[2, k], numbers[3, k]
            if draws[k] == 0:
                _trim(a, base, low, high, factor, weight, v[k, :n])
                continue
            _draw(keys[k], start + np.uint64(first), drawn[:n])
            if draws[k] == 1:
                _trim_drawn(a, base, low, high, factor, weight, most[k], drawn[:n], v[k, :n])
            else:
                _trim_each(a, base, low, high, factor, weight, keep[rows[k] - 1, first:last], drawn[:n], v[k, :n])
        if not elect:
            _take_all(base, v, divisor, scale, out[first:last])
        elif models == 3:
            _elect_three(base, v, weights, divisor, scale, out[first:last])
        else:
            _elect(base, v, weights, divisor, scale, sums, out[first:last])
