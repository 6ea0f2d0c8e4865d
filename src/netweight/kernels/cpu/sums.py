"""Sums of float32 or float64 values, in float64."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled

__all__ = ["dot", "finite_dot", "total"]


@compiled
def total(values: Array) -> float:
    """Of values [n]."""
    result = 0.0
    for i in range(len(values)):
        result += np.float64(values[i])
    return result


@compiled
def dot(a: Array, b: Array) -> float:
    """Of the products of a and b [n]; those of float32 are exact."""
    result = 0.0
    for i in range(len(a)):
        result += np.float64(a[i]) * np.float64(b[i])
    return result


@compiled
def finite_dot(a: Array, b: Array) -> float:
    """The same where both are finite."""
    result = dot(a, b)
    if np.isfinite(result):
        return result
    result = 0.0
    for i in range(len(a)):
        if np.isfinite(a[i]) and np.isfinite(b[i]):
            result += np.float64(a[i]) * np.float64(b[i])
    return result
