"""What the settings of a merge are in the type of its arithmetic: numbers rounded once, rows that count, draws."""

from __future__ import annotations

from functools import lru_cache
from math import fsum
from typing import Any, TypeAlias

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.merging import Trim

__all__ = ["Terms", "combination", "trimming"]

Terms: TypeAlias = tuple[Array, Array, Array, Array, Array, Any, Any]
"""rows, numbers, draws, keys, most, divisor and scale, as cpu.merge_arithmetic.merge_differences says."""


def _inward(trim: Trim, kind: np.dtype[Any]) -> tuple[Any, Any]:
    """`low` and `high` as the nearest numbers of the type that are within them, so that comparing is exact."""
    with np.errstate(over="ignore", under="ignore"):
        low, high = kind.type(trim.low), kind.type(trim.high)
    if float(low) < trim.low:
        low = np.nextafter(low, kind.type(np.inf))
    if float(high) > trim.high:
        high = np.nextafter(high, kind.type(-np.inf))
    return low, high


@lru_cache(maxsize=1024)
def combination(pivot: int, scale: float, factors: tuple[float, ...], kind: np.dtype[Any]) -> tuple[Any, Array, Array]:
    """scale, and int64 rows with their factors: those that are not the pivot and whose factor is not 0."""
    rows = [i for i, factor in enumerate(factors) if i != pivot and factor != 0]
    with np.errstate(over="ignore", under="ignore"):
        return kind.type(scale), np.array(rows, np.int64), np.array([factors[i] for i in rows], kind)


@lru_cache(maxsize=1024)
def trimming(
    trims: tuple[Trim, ...], kind: np.dtype[Any], *, elect: bool, normalize: bool, scale: float, chances: bool
) -> Terms | None:
    """The terms of trims; None where nothing is added to the base. `chances`: every element has a probability."""
    rows = [m + 1 for m, trim in enumerate(trims) if trim.weight != 0]
    weight = fsum(trim.weight for trim in trims)
    if not rows or (normalize and not elect and weight == 0):
        return None
    numbers = np.empty((5, len(rows)), kind)
    draws = np.zeros(len(rows), np.uint8)
    most = np.zeros(len(rows), np.uint32)
    keys = np.array([trims[row - 1].key & (1 << 64) - 1 for row in rows], np.uint64)
    for k, row in enumerate(rows):
        trim = trims[row - 1]
        low, high = _inward(trim, kind)
        kept = round(trim.keep * 2.0**32)
        if chances:
            draws[k] = 2
        elif kept <= 0:
            high = kind.type(-1)
        elif kept < 1 << 32:
            draws[k], most[k] = 1, kept - 1
        with np.errstate(over="ignore", under="ignore"):
            numbers[:, k] = low, high, trim.factor, trim.weight, trim.weight if normalize else 0.0
    divisor = 1.0
    if normalize:
        divisor = 0.0 if elect else weight
    with np.errstate(over="ignore", under="ignore"):
        return np.array(rows, np.int64), numbers, draws, keys, most, kind.type(divisor), kind.type(scale)
