"""Quantization errors of groups of elements: each group scaled to a few integer levels, in float64.

As x = scale * y, the error of x is scale * (y - rint(y)). What is left of quotients that are integers but for rounding
counts as no error, as on the CPU.
"""

from __future__ import annotations

import torch

from netweight.kernels.gpu.sums import chunk_sums
from netweight.kernels.protocol import CHUNK

__all__ = ["group_errors", "int4_errors", "int8_errors", "scaled_to_range"]

_UP, _DOWN = 2.0**500, 2.0**-100
_HIGH, _LOW = 1e300, 1e-280


def scaled_to_range(largest: torch.Tensor) -> torch.Tensor:
    """Powers of two that bring scales and their reciprocals into the range of float64."""
    one = torch.ones_like(largest)
    return torch.where(largest > _HIGH, one * _DOWN, torch.where(largest < _LOW, one * _UP, one))


def group_errors(groups: torch.Tensor, levels: int, *, symmetric: bool) -> torch.Tensor:
    """float64 [...]: sum of (x - x')^2 of each group of float64 [..., n]; symmetric with 2 levels + 1, or asymmetric
    with levels + 1 values from the least to the greatest.
    """
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    largest = torch.maximum(-least, most)
    factor = scaled_to_range(largest)
    if symmetric:
        scale = largest * factor
        y = groups * factor
    else:
        offset = least * factor
        scale = most * factor - offset
        y = groups * factor - offset
    flat = scale == 0
    scale = torch.where(flat, 1.0, scale) / torch.full_like(scale, levels)
    y = y * scale.reciprocal()
    total = (y - y.round()).square_().sum(-1)
    resolution = levels * 2.0**-50
    nothing = flat.squeeze(-1) | (total <= groups.shape[-1] * resolution * resolution)
    scale = (scale / factor).squeeze(-1)
    return torch.where(nothing, 0.0, total * scale * scale)


def _by_groups(x: torch.Tensor, size: int, levels: int, *, symmetric: bool) -> torch.Tensor:
    """float64 [...]: errors of float64 [..., n] in groups of `size`, the last of which may be short."""
    whole = x.shape[-1] // size * size
    found = x.new_zeros(x.shape[:-1])
    if whole:
        found = group_errors(torch.unflatten(x[..., :whole], -1, (-1, size)), levels, symmetric=symmetric).sum(-1)
    if whole < x.shape[-1]:
        found = found + group_errors(x[..., whole:], levels, symmetric=symmetric)
    return found


def _of_chunk(x: torch.Tensor) -> torch.Tensor:
    """float64 [4, rows, chunks] of float64 [rows, chunks, n]."""
    return torch.stack(
        [
            _by_groups(x, size, levels, symmetric=symmetric)
            for size in (128, 32)
            for symmetric, levels in ((True, 7), (False, 15))
        ]
    )


def int4_errors(x: torch.Tensor) -> torch.Tensor:
    """float64 [4, rows, chunks] of float64 [rows, n]: by groups of 128 symmetric and asymmetric, of 32 symmetric and
    asymmetric, in chunks of CHUNK columns, of which the last may be shorter.
    """
    whole = x.shape[1] // CHUNK * CHUNK
    parts = [_of_chunk(torch.unflatten(x[:, :whole], 1, (-1, CHUNK)))] if whole else []
    if whole < x.shape[1]:
        parts.append(_of_chunk(x[:, None, whole:]))
    return torch.cat(parts, 2)


def int8_errors(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """float64 [rows, chunks]: squared errors of float64 [rows, n] by chunks of CHUNK columns, in units of each row's
    scale, given its largest magnitude [rows].
    """
    factor = scaled_to_range(largest)
    reach = torch.where(largest > 0, largest * factor, 1.0)
    y = x * factor[:, None] * (torch.full_like(reach, 127.0) / reach)[:, None]
    return chunk_sums((y - y.round()).square_())
