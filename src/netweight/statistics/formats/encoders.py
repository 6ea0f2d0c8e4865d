"""Encoders of number formats that back ends of inference read, other than llama.cpp's: rows are encoded and decoded.

FP8 and FP4 are rounded to the nearest value, ties to even, and clipped to the largest. Sources: the scales of
compressed-tensors' `calculate_qparams` (FP8, int4), OCP's Microscaling Formats 1.0 (MXFP4), modelopt's two-level scales
(NVFP4), Dettmers et al. (2023), "QLoRA", as in bitsandbytes (NF4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from netweight.kernels.quantiles import NF4

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array

__all__ = ["TILE", "Rows", "fp8_block", "fp8_channel", "fp8_tensor", "int4_asymmetric", "int4_symmetric", "mxfp4"]
__all__ += ["mlx", "nf4", "nvfp4"]

TILE = 128
"""The side of a block of FP8, and the length of a group of int4."""

_FP8 = 448.0  # the largest value of E4M3
_FP4 = 6.0  # of E2M1
_TINY = np.float32(2.0**-126)
_NF4 = np.array(NF4, np.float32)
_NEARER = (_NF4[1:] + _NF4[:-1]) / 2


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a matrix. values: float32 [n, cols], finite; largest: max abs of the whole matrix; tiles: float32
    [n, cols / 128 rounded up], max abs of the 128 x 128 block that a row's elements lie in.
    """

    values: F32Array
    largest: float
    tiles: F32Array


def _rounded(values: F32Array, kind: type[Any], most: float) -> F32Array:
    """The nearest values of a small float type."""
    found: F32Array = np.clip(values, -most, most).astype(kind).astype(np.float32)
    return found


def _scaled(values: F32Array, scale: Any, kind: type[Any], most: float) -> F32Array:
    """Values over a scale, rounded, times the scale; where the scale is 0 they are 0."""
    scale = np.asarray(scale, np.float32)
    safe: F32Array = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return _rounded(values / safe, kind, most) * np.where(scale > 0, scale, np.float32(0))


def fp8_tensor(rows: Rows) -> F32Array:
    """E4M3 with one scale, max abs / 448."""
    return _scaled(rows.values, rows.largest / _FP8, ml_dtypes.float8_e4m3fn, _FP8)


def fp8_channel(rows: Rows) -> F32Array:
    """E4M3 with a scale for every row."""
    return _scaled(rows.values, np.abs(rows.values).max(axis=1, keepdims=True) / _FP8, ml_dtypes.float8_e4m3fn, _FP8)


def fp8_block(rows: Rows) -> F32Array:
    """E4M3 with a scale for every block of 128 x 128, as DeepSeek-V3 has it."""
    scale = np.repeat(rows.tiles / np.float32(_FP8), TILE, axis=1)[:, : rows.values.shape[1]]
    return _scaled(rows.values, scale, ml_dtypes.float8_e4m3fn, _FP8)


def _groups(values: F32Array, size: int) -> F32Array:
    """[n, groups, size]; the last group of a row is filled with its last value."""
    short = -values.shape[1] % size
    if short:
        values = np.pad(values, ((0, 0), (0, short)), mode="edge")
    return values.reshape(len(values), -1, size)


def _as_rows(groups: F32Array, cols: int) -> F32Array:
    return groups.reshape(len(groups), -1)[:, :cols]


def int4_symmetric(rows: Rows) -> F32Array:
    """-8 to 7 in groups of 128, times max abs / 7.5 in bfloat16."""
    x = _groups(rows.values, TILE)
    scale = _bfloat16(np.abs(x).max(axis=2, keepdims=True) / np.float32(7.5))
    return _as_rows(np.clip(np.rint(x / np.maximum(scale, _TINY)), -8, 7) * scale, rows.values.shape[1])


def int4_asymmetric(rows: Rows) -> F32Array:
    """0 to 15 in groups of 128 less a whole zero point, times (max - min) / 15 in bfloat16; 0 is within the range."""
    x = _groups(rows.values, TILE)
    least = np.minimum(x.min(axis=2, keepdims=True), 0)
    # every step in bfloat16, as of a bfloat16 model
    scale = _bfloat16(_bfloat16(np.maximum(x.max(axis=2, keepdims=True), 0) - least) / np.float32(15))
    safe = np.maximum(scale, _TINY)
    zero = np.clip(np.rint(_bfloat16(-8 - _bfloat16(least / safe))), -8, 7) + 8
    return _as_rows((np.clip(np.rint(x / safe + zero), 0, 15) - zero) * scale, rows.values.shape[1])


def _bfloat16(values: F32Array) -> F32Array:
    found: F32Array = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return found


def mxfp4(rows: Rows) -> F32Array:
    """E2M1 in groups of 32, times 2^(floor(log2(max abs)) - 2)."""
    x = _groups(rows.values, 32)
    _, exponent = np.frexp(np.abs(x).max(axis=2, keepdims=True))
    scale = np.ldexp(np.float32(1), np.clip(exponent - 3, -127, 127))
    return _as_rows(_scaled(x, scale, ml_dtypes.float4_e2m1fn, _FP4), rows.values.shape[1])


def nvfp4(rows: Rows) -> F32Array:
    """E2M1 in groups of 16, times an E4M3 scale, times one for the tensor: max abs / (6 * 448)."""
    x = _groups(rows.values, 16)
    whole = np.float32(rows.largest / (_FP4 * _FP8))
    if not whole > 0:
        return np.zeros_like(rows.values)
    scale = _rounded(np.abs(x).max(axis=2, keepdims=True) / np.float32(_FP4) / whole, ml_dtypes.float8_e4m3fn, _FP8)
    return _as_rows(_scaled(x, scale * whole, ml_dtypes.float4_e2m1fn, _FP4), rows.values.shape[1])


def nf4(rows: Rows) -> F32Array:
    """The nearest of 16 normal quantiles in groups of 64, times max abs."""
    x = _groups(rows.values, 64)
    scale = np.abs(x).max(axis=2, keepdims=True)
    codes = np.searchsorted(_NEARER, x / np.maximum(scale, _TINY))
    return _as_rows(_NF4[codes] * scale, rows.values.shape[1])


def mlx(rows: Rows, bits: int) -> F32Array:
    """MLX's affine codes of so many bits in groups of 64: scale and offset in bfloat16, 0 a code where it is within."""
    x = _groups(rows.values, 64)
    steps = np.float32(2**bits - 1)
    least, most = x.min(axis=2, keepdims=True), x.max(axis=2, keepdims=True)
    below = np.abs(least) > np.abs(most)
    scale = np.maximum((most - least) / steps, np.float32(1e-7))
    scale = np.where(below, scale, -scale)
    edge = np.where(below, least, most)
    codes = np.rint(edge / scale)
    scale = np.where(codes != 0, edge / np.where(codes != 0, codes, 1), scale).astype(np.float32)
    offset = np.where(codes != 0, edge, np.float32(0))
    taken = np.clip(np.rint((x - offset) / scale), 0, steps)
    return _as_rows((taken * _bfloat16(scale) + _bfloat16(offset)).astype(np.float32), rows.values.shape[1])
