"""Loops over a block of a task vector d = b - a: what changed, and how large the errors of rounding b can be."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array, F64Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["BINADES", "CHANGED", "RECAST", "ZEROED", "count_changes", "sum_errors"]

BINADES = 2048
"""Binades of float64: an element's is the exponent field of its bits."""

CHANGED, ZEROED, RECAST = range(3)
"""Places in `counts`: elements that changed, that became zero; elements with b = a rounded as b is."""


@compiled_exactly
def count_changes(
    a: Array,
    b: Array,
    steps: F64Array,
    d: F64Array,
    rows: F64Array,
    cols: F64Array,
    binades: F64Array,
    counts: F64Array,
) -> None:
    """Fill d [r, c] = b - a, and add to `counts` (see CHANGED); to `rows` [3, r] and `cols` [3, c] sum d^2, sum a d and
    sum a^2; to `binades` [BINADES, 3] by binade of a: elements, those that changed, sum d^2.

    a, b: finite, float32 or float64 [r, c]; steps [BINADES]: the spacing of b's numbers.
    """
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            x, y = np.float64(a[i, j]), np.float64(b[i, j])
            difference = y - x
            square, product, own = difference * difference, x * difference, x * x
            d[i, j] = difference
            rows[0, i] += square
            rows[1, i] += product
            rows[2, i] += own
            cols[0, j] += square
            cols[1, j] += product
            cols[2, j] += own
            binade = (x.view(np.int64) >> 52) & 2047
            changed = difference != 0.0
            binades[binade, 0] += 1.0
            binades[binade, 1] += changed
            binades[binade, 2] += square
            counts[0] += changed
            counts[1] += changed and y == 0.0
            counts[2] += np.rint(x / steps[binade]) * steps[binade] == y


@compiled_exactly
def sum_errors(
    b: Array, steps: F64Array, least: float, mean_rows: F64Array, mean_cols: F64Array, rows: F64Array, cols: F64Array
) -> float:
    """Add the variances of the errors of rounding b [r, c] to `rows` [r] and `cols` [c]; returns the sum of all of
    uniform errors, step^2 / 12.

    An error's variance is that of a uniform one, but at most what changes are in square: the largest of `least`, of
    `mean_rows` and of `mean_cols`, for where a change is below half a step it is its own error.
    """
    uniform = 0.0
    for i in range(b.shape[0]):
        for j in range(b.shape[1]):
            y = np.float64(b[i, j])
            step = steps[(y.view(np.int64) >> 52) & 2047]
            variance = step * step / 12.0
            uniform += variance
            variance = min(variance, max(least, mean_rows[i], mean_cols[j]))
            rows[i] += variance
            cols[j] += variance
    return uniform
