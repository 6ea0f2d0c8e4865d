"""What form the difference of two matrices has: nothing but rounding, of low rank, a grid of levels, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from netweight.kernels.arrays import F32Array, F64Array

__all__ = ["Form", "is_rounded", "low_rank", "on_grid", "rescaled", "rounding_levels"]

_MANTISSA = {"F64": 24, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}  # with the hidden bit; as float32
_NARROW = {"BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_SEGMENT = 32  # columns whose levels are looked at together: a block of the usual formats, or a part of one
_DENSE = 0.8  # of rows and columns that change: an update of low rank is of all, a few rows that changed are not one
_SHARE = 0.6  # of the squares, that the low rank must have: a few last places that flip have directions, too
_BEYOND = 1.15  # times the largest singular value that rounding alone gives


@dataclass(frozen=True)
class Form:
    """Of the difference of one matrix: `rank` beyond rounding (None where it is not low), and its singular vectors
    where the rank is 1.
    """

    rank: int | None
    left: F64Array | None = None
    right: F64Array | None = None


def is_rounded(x: F32Array, y: F32Array, dtype: str) -> bool:
    """Whether `y` is `x` rounded to this type, in every element."""
    if dtype not in _NARROW:
        return bool(np.array_equal(x, y, equal_nan=True))
    kind: Any = np.float16 if dtype == "F16" else getattr(_types(), _NARROW[dtype])
    with np.errstate(over="ignore"):
        return bool(np.array_equal(x.astype(kind).astype(np.float32), y, equal_nan=True))


def on_grid(x: F32Array, dtype: str) -> float:
    """The share of the elements of `x`, without zeros, that this type holds exactly; 1 without any."""
    held = x[np.isfinite(x) & (x != 0)]
    if not held.size:
        return 1.0
    kind: Any = np.float16 if dtype == "F16" else getattr(_types(), _NARROW[dtype])
    with np.errstate(over="ignore"):
        return float((held.astype(kind).astype(np.float32) == held).mean())


def _types() -> Any:
    import ml_dtypes  # noqa: PLC0415 - only where it is asked

    return ml_dtypes


def low_rank(x: F32Array, y: F32Array, dtypes: tuple[str, str], most: float = 0.4) -> Form:
    """The form of y - x, of matrices with at least 16 rows and columns of which files hold these types.

    Rounding to the coarser type leaves noise of a known size. A rank is said where what is beyond the noise's largest
    singular value has it, at most `most` of the smaller side, and what is left is no more than that noise.
    """
    d = y.astype(np.float64) - x.astype(np.float64)
    if not np.isfinite(d).all():
        return Form(None)
    bits = min(_MANTISSA.get(name, 24) for name in dtypes)
    largest = np.maximum(np.abs(x), np.abs(y)).astype(np.float64)
    _, exponent = np.frexp(largest)
    step = np.where(largest > 0, np.ldexp(1.0, exponent - bits), 0.0)
    # computed in float32 and rounded: a few of its own last places beside the type's half step
    noise = sqrt(float((step**2).mean()) / 12) * (2.0 if bits == 24 else 1.0)
    m, n = d.shape
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    top = _BEYOND * noise * (sqrt(m) + sqrt(n))
    rank = int((s > top).sum())
    if not rank:
        return Form(0)
    if rank > most * min(m, n) or min((d != 0).any(axis=axis).mean() for axis in (0, 1)) < _DENSE:
        return Form(None)
    left = sqrt(float((s[rank:] ** 2).sum()) / ((m - rank) * (n - rank)))
    if left > 1.2 * noise or float((s[:rank] ** 2).sum()) < _SHARE * float((s**2).sum()):
        return Form(None)
    return Form(rank, u[:, 0], vt[0]) if rank == 1 else Form(rank)


def rounding_levels(x: F32Array, y: F32Array) -> tuple[str, float] | None:
    """("4 bit" or "8 bit", relative error) where `y` is `x` rounded to a few levels of each block; None else.

    4 bit: at most 16 values in every 32 columns of a row, and every element is the nearest of them. 8 bit: whole steps
    in every row, or an error that is as even and as large as that of 255 steps of a block's or a row's largest value,
    and never larger.
    """
    m, n = y.shape
    if n < _SEGMENT or not np.isfinite(x).all() or not np.isfinite(y).all():
        return None
    width = n // _SEGMENT * _SEGMENT
    a, b = (held[:, :width].astype(np.float64).reshape(m, -1, _SEGMENT) for held in (x, y))
    error = float(np.sqrt(((b - a) ** 2).sum() / max((a**2).sum(), 1e-300)))
    if not 1e-4 < error < 0.5:
        return None
    ordered = np.sort(b, axis=2)
    distinct = 1 + (np.diff(ordered, axis=2) > 0).sum(axis=2)
    if (distinct <= 16).mean() > 0.98:
        gap = np.abs(a[..., :, None] - b[..., None, :]).min(axis=3)
        nearest = np.abs(a - b) <= gap + 0.02 * np.abs(b).max(axis=2, keepdims=True)
        return ("4 bit", error) if nearest.mean() > 0.97 else None
    if _whole_steps(x, y):
        return "8 bit", error
    rounded = on_grid(y, "BF16") == 1.0  # the levels were rounded once more
    for peak in (np.abs(a).max(axis=2, keepdims=True), np.abs(x).max(axis=1)[:, None, None].astype(np.float64)):
        step = np.broadcast_to(np.where(peak > 0, peak, 1.0) / 127, a.shape)
        share = np.abs(b - a) / step
        each = np.sqrt((share**2).mean(axis=2))
        even = float(np.sqrt((share**2).mean()))
        # of one size in steps in every block, which training is not
        alike = float(each.std() / max(each.mean(), 1e-300)) < 0.16
        if alike and 0.24 < even < 0.36 and float((share <= (0.85 if rounded else 0.56)).mean()) > 0.995:
            return "8 bit", error
    return None


def _whole_steps(x: F32Array, y: F32Array) -> bool:
    """Whether every row of `y` is of whole steps, at most 127 of them, and `x` at most half a step away."""
    ordered = np.sort(y.astype(np.float64), axis=1)
    gaps = np.diff(ordered, axis=1)
    peak = np.abs(y).max(axis=1, keepdims=True)
    step = np.where(gaps > 1e-4 * peak, gaps, np.inf).min(axis=1, keepdims=True)
    if not np.isfinite(step).all():
        return False
    number = y / step
    whole = np.abs(number - np.round(number)) < 0.02
    near = np.abs(y.astype(np.float64) - x) < 0.56 * step
    return bool(whole.mean() > 0.99 and np.abs(number).max() < 128.5 and near.mean() > 0.995)


def rescaled(x: F32Array, y: F32Array) -> bool:
    """Whether every row of `y` is that of `x` times a factor of its own, or every column is, and not all factors are
    alike: what is left is a tenth of the difference or less.
    """
    a, b = (np.where(np.isfinite(held), held, 0).astype(np.float64) for held in (x, y))
    apart = float(((b - a) ** 2).sum())
    if apart <= 0:
        return False
    for axis in (1, 0):
        square = (a * a).sum(axis=axis, keepdims=True)
        factor = (a * b).sum(axis=axis, keepdims=True) / np.where(square > 0, square, 1.0)
        left = float(((b - factor * a) ** 2).sum())
        if left < 0.01 * apart and float(factor.std()) > 0.01:
            return True
    return False
