"""Magnitudes counted by their bits, 16 at a time, for radix selection: as cpu.magnitudes counts them.

NaN counts by its bits, which differ between processors; all of them are above infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["count_deeper", "count_leading", "magnitude_bits"]

_BINS = 65536


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """int32 or int64 [n], none negative: the bits of float32 or float64 but for their sign."""
    if values.dtype == torch.float64:
        return values.view(torch.int64) & ((1 << 63) - 1)
    return values.view(torch.int32) & ((1 << 31) - 1)


def _counted(bins: torch.Tensor, rest: torch.Tensor, length: int) -> torch.Tensor:
    """int64 [2, length]: all, and those of which bits are left."""
    counts = torch.bincount(bins, minlength=length)
    return torch.stack([counts, torch.bincount(bins[rest != 0], minlength=length)])


def count_leading(bits: torch.Tensor, width: int) -> torch.Tensor:
    """int64 [2, 1, 65536]: values by their leading 16 bits, and those of them that have bits below."""
    below = width - 16
    return _counted(bits >> below, bits & ((1 << below) - 1), _BINS).view(2, 1, _BINS)


def count_deeper(bits: torch.Tensor, width: int, level: int, prefixes: Sequence[int]) -> torch.Tensor:
    """int64 [2, k, 65536]: by the 16 bits after `level` times 16, of those that begin with the sorted prefixes [k]."""
    below = width - 16 * (level + 1)
    wanted = torch.tensor(list(prefixes), dtype=torch.int64, device=bits.device).to(bits.dtype)
    top = bits >> (below + 16)
    slots = torch.searchsorted(wanted, top).clamp_(max=len(wanted) - 1)
    hits = wanted[slots] == top
    bits, slots = bits[hits], slots[hits]
    bins = slots * _BINS + ((bits >> below) & (_BINS - 1))
    return _counted(bins, bits & ((1 << below) - 1), len(wanted) * _BINS).view(2, -1, _BINS)
