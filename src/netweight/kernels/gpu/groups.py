"""Quantization errors of groups of elements, each scaled to a few integer levels, in float64.

As x = scale * y, the error of x is scale * (y - rint(y)). What the CPU's loops take for rounding of quotients counts as
no error here either (cpu.groups): they compute in the type of the elements, and a matrix that they find to be
quantized already must not have an error here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from netweight.dtypes import DType
from netweight.kernels.gpu.sums import chunk_sums
from netweight.kernels.protocol import CHUNK

__all__ = ["Precision", "int4_errors", "int8_errors"]

_UP, _DOWN = 2.0**500, 2.0**-100
_HIGH, _LOW = 1e300, 1e-280
_LEAN = 16  # a group's largest magnitude over its spread: beyond, it is summed by itself


@dataclass(frozen=True)
class Precision:
    """Of the CPU's arithmetic: rounding, and the magnitudes between which groups are summed together."""

    epsilon: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, dtype: DType) -> Precision:
        """float64 for F64, float32 for all others."""
        return cls(2.0**-53, 1e-280, 1e300) if dtype.name == "F64" else cls(2.0**-24, 1e-29, 1e38)

    def holds(self, largest: torch.Tensor) -> torch.Tensor:
        """Where magnitudes are in that range."""
        return (largest >= self.lowest) & (largest <= self.highest)


def _to_range(largest: torch.Tensor) -> torch.Tensor:
    """Powers of two that bring scales and their reciprocals into the range of float64."""
    one = torch.ones_like(largest)
    return torch.where(largest > _HIGH, one * _DOWN, torch.where(largest < _LOW, one * _UP, one))


def _of_groups(
    groups: torch.Tensor, levels: int, precision: Precision, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each group of float64 [..., n]: squared errors in units of its scale, the scale, which groups are regular, and
    the squared error of those that are not; symmetric with 2 levels + 1, or with levels + 1 values from least to most.
    """
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    largest = torch.maximum(-least, most)
    factor = _to_range(largest)
    regular = precision.holds(largest)
    y = groups * factor
    if symmetric:
        reach = largest * factor
    else:
        offset = least * factor
        reach = most * factor - offset
        y = y - offset
        regular = regular & (_LEAN * (most - least) >= largest)
    flat = reach == 0
    scale = torch.where(flat, 1.0, reach) / torch.full_like(reach, levels)
    y = y * scale.reciprocal()
    total = (y - y.round()).square_().sum(-1)
    scale = (scale / factor).squeeze(-1)
    regular = (regular & ~flat).squeeze(-1)
    resolution = levels * 2.0**-50
    nothing = regular | flat.squeeze(-1) | (total <= groups.shape[-1] * resolution * resolution)
    return total, scale, regular, torch.where(nothing, 0.0, total * scale * scale)


def _of_whole(x: torch.Tensor, size: int, unit: torch.Tensor, precision: Precision, *, symmetric: bool) -> torch.Tensor:
    """float64 [rows, chunks]: of whole groups in float64 [rows, chunks, n]; unit [rows, chunks]: about the largest
    magnitude, in whose units the regular ones are summed, so that squares stay in range.
    """
    groups = torch.unflatten(x, -1, (-1, size))
    total, scale, regular, odd = _of_groups(groups, 7 if symmetric else 15, precision, symmetric=symmetric)
    ratio = scale / unit[..., None]
    errors = torch.where(regular, total * (ratio * ratio), 0.0).sum(-1)
    resolution = 4 * precision.epsilon * (1 if symmetric else _LEAN)
    settled = torch.where(errors <= x.shape[-1] * resolution * resolution, 0.0, errors * unit * unit)
    return settled + odd.sum(-1)


def _of_short(x: torch.Tensor, precision: Precision, *, symmetric: bool) -> torch.Tensor:
    """float64 [rows, chunks]: of float64 [rows, chunks, n] as one group."""
    never = Precision(precision.epsilon, 1.0, 0.0)
    return _of_groups(x, 7 if symmetric else 15, never, symmetric=symmetric)[3]


def _of_chunks(x: torch.Tensor, precision: Precision) -> torch.Tensor:
    """float64 [4, rows, chunks] of float64 [rows, chunks, n]."""
    whole, n = x.shape[-1] // 128 * 128, x.shape[-1]
    unit = x.abs().amax(-1).clamp_(precision.lowest, precision.highest)
    parts = []
    for size in (128, 32):
        for symmetric in (True, False):
            errors = torch.zeros_like(unit)
            if whole:
                errors = _of_whole(x[..., :whole], size, unit, precision, symmetric=symmetric)
            for first in range(whole, n, size):
                errors = errors + _of_short(x[..., first : min(first + size, n)], precision, symmetric=symmetric)
            parts.append(errors)
    return torch.stack(parts)


def int4_errors(x: torch.Tensor, precision: Precision) -> torch.Tensor:
    """float64 [4, rows, chunks] of float64 [rows, n]: by groups of 128 symmetric and asymmetric, of 32 symmetric and
    asymmetric, in chunks of CHUNK columns, of which the last may be shorter.
    """
    whole = x.shape[1] // CHUNK * CHUNK
    parts = [_of_chunks(torch.unflatten(x[:, :whole], 1, (-1, CHUNK)), precision)] if whole else []
    if whole < x.shape[1]:
        parts.append(_of_chunks(x[:, None, whole:], precision))
    return torch.cat(parts, 2)


def int8_errors(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """float64 [rows, chunks]: squared errors of float64 [rows, n] by chunks of CHUNK columns, in units of each row's
    scale, given its largest magnitude [rows].
    """
    factor = _to_range(largest)
    reach = torch.where(largest > 0, largest * factor, 1.0)
    y = x * factor[:, None] * (torch.full_like(reach, 127.0) / reach)[:, None]
    return chunk_sums((y - y.round()).square_())
