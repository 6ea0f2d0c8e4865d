"""Central moments, extremes and absolute sums of finite values, merged chunk by chunk."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.bits import ordered
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.cpu.sums import total

__all__ = ["add_moments"]


@compiled
def _extremes(keys: Array, values: Array, out: Array) -> None:
    """out[:2] = the least and the largest of `values` [k >= 1], whose bits `keys` are: integers go in lanes."""
    least = ordered(keys[0])
    most = least
    for i in range(len(keys)):
        key = ordered(keys[i])
        least = min(least, key)
        most = max(most, key)
    bits = np.empty(2, keys.dtype)
    bits[0] = ordered(least)
    bits[1] = ordered(most)
    out[0] = bits.view(values.dtype)[0]
    out[1] = bits.view(values.dtype)[1]


@compiled
def _central(values: Array, center: float, sums: Array) -> None:
    """sums[:5] = sum e, e^2, e^3, e^4 (e = value - center), abs(value)."""
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    absolute = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        e = value - center
        square = e * e
        s1 += e
        s2 += square
        s3 += square * e
        s4 += square * square
        absolute += abs(value)
    sums[0] = s1
    sums[1] = s2
    sums[2] = s3
    sums[3] = s4
    sums[4] = absolute


@compiled
def _merge(moments: Array, n: float, mean: float, m2: float, m3: float, m4: float) -> None:
    """moments[:5] (n, mean, M2, M3, M4) and another such set, in one (Pebay 2008, SAND2008-6212, eq. 2.1 and 3.1)."""
    na = moments[0]
    if na == 0.0:
        moments[0], moments[1], moments[2], moments[3], moments[4] = n, mean, m2, m3, m4
        return
    both = na + n
    d = mean - moments[1]
    d_n = d / both
    a2 = moments[2]
    a3 = moments[3]
    moments[4] += (
        m4
        + d * d_n * d_n * d_n * na * n * (na * na - na * n + n * n)
        + 6.0 * d_n * d_n * (na * na * m2 + n * n * a2)
        + 4.0 * d_n * (na * m3 - n * a3)
    )
    moments[3] += m3 + d * d_n * d_n * na * n * (na - n) + 3.0 * d_n * (na * m2 - n * a2)
    moments[2] += m2 + d * d_n * na * n
    moments[1] += d_n * n
    moments[0] = both


@compiled
def add_moments(values: Array, keys: Array, sums: Array, moments: Array) -> None:
    """moments[:8] += n, mean, M2, M3, M4, sum of abs, min and max of finite `values`, whose bits `keys` are."""
    n = np.float64(len(values))
    center = total(values) / n
    _central(values, center, sums)
    _extremes(keys, values, sums[5:])
    d = sums[0] / n  # what rounding left of the mean
    m2 = sums[1] - sums[0] * d
    m3 = sums[2] - 3.0 * d * sums[1] + 2.0 * n * d * d * d
    m4 = sums[3] - 4.0 * d * sums[2] + 6.0 * d * d * sums[1] - 3.0 * n * d * d * d * d
    _merge(moments, n, center + d, max(m2, 0.0), m3, max(m4, 0.0))
    moments[5] += sums[4]
    moments[6] = min(moments[6], sums[5])
    moments[7] = max(moments[7], sums[6])
