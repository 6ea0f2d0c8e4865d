"""The arithmetic of merges on tensors, operation by operation as cpu.merge_arithmetic has it, and so the same bits.

Every product and sum is an operation of its own: none is contracted to a fused multiply-add, and divisors are tensors,
since torch multiplies by the reciprocal of a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from netweight.kernels.arrays import Array
from netweight.kernels.merge_terms import Terms

__all__ = ["combined", "drawn", "elected", "merged"]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_A = 0xBF58476D1CE4E5B9
_MIX_B = 0x94D049BB133111EB
_RANGE = 2.0**32


def _signed(bits: int) -> int:
    """The int64 of these 64 bits: torch computes with such, and wraps around."""
    bits &= (1 << 64) - 1
    return bits - (1 << 64) if bits >> 63 else bits


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """Of int64, as if it were unsigned."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def drawn(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """int64 [count] = the upper 32 bits of splitmix64's numbers (Steele, Lea, Flood 2014) from element `start` on."""
    state = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _signed(_GOLDEN)
    z = state + _signed(key + start * _GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(_MIX_A)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX_B)
    return _shifted(z ^ _shifted(z, 31), 32)


def _moved(base: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """-0.0 + 0.0 is +0.0; what nothing is added to stays as it is."""
    return torch.where(moved == 0, base, base + moved)


def _on(values: Array, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(values, values.dtype)).to(x.device)


def combined(x: torch.Tensor, pivot: int, scale: Any, rows: Array, factors: Array) -> torch.Tensor:
    """[n] = scale * x[pivot] + sum of factors * (x[rows] - x[pivot]), in the order of `rows`."""
    base = x[pivot]
    numbers = _on(np.append(factors, scale), x)
    total = torch.zeros_like(base)
    for k, row in enumerate(rows.tolist()):
        total = total + numbers[k] * (x[row] - base)
    return _moved(numbers[-1] * base, total)


def merged(x: torch.Tensor, terms: Terms, chances: torch.Tensor | None, start: int) -> torch.Tensor:
    """[n]: sums of trimmed differences added to x[0]; `terms` as merge_terms.trimming gives them without `elect`."""
    values, divisor, scale = _trimmed(x, terms, chances, start)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return _moved(x[0], scale * (total if float(terms[5]) == 1.0 else total / divisor))


def elected(x: torch.Tensor, terms: Terms, chances: torch.Tensor | None, start: int) -> torch.Tensor:
    """The same of those that agree with the sign of the sum; NaN where the sum is."""
    values, least, scale = _trimmed(x, terms, chances, start)
    weights = _on(terms[1][4], x)
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + value
    positive = total > 0
    chosen, divisor = torch.zeros_like(total), torch.zeros_like(total) + least
    for k, value in enumerate(values):
        towards = torch.where(positive, value, -value)  # what is positive now counts
        agrees = towards > 0
        chosen = chosen + torch.where(agrees, towards, 0.0)
        divisor = divisor + torch.where(agrees, weights[k], torch.zeros_like(weights[k]))
    none = divisor == 0
    mean = torch.where(none, 0.0, chosen / torch.where(none, 1.0, divisor))
    mean = torch.where(positive, mean, -mean)
    mean = torch.where(total != 0, mean, 0.0)
    mean = torch.where(torch.isnan(total), total, mean)
    return _moved(x[0], scale * mean)


def _trimmed(
    x: torch.Tensor, terms: Terms, chances: torch.Tensor | None, start: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Every model's weighted difference where it is kept, 0 elsewhere; divisor and scale."""
    rows, numbers, draws, keys, most, divisor, scale = terms
    placed = _on(numbers, x)
    last = _on(np.array([divisor, scale], numbers.dtype), x)
    values = []
    for k, row in enumerate(rows.tolist()):
        low, high, factor, weight = placed[0, k], placed[1, k], placed[2, k], placed[3, k]
        d = x[row] - x[0]
        size = d.abs()
        kept = ~((size < low) | (size > high))  # NaN is within
        if draws[k]:
            random = drawn(int(keys[k]), start, len(d), x.device)
            if draws[k] == 1:
                below = random <= int(most[k])
            else:
                assert chances is not None  # noqa: S101 - there are such draws only with probabilities
                chance = chances[row - 1]
                # a product with a power of two is exact, and so is its integer
                below = random < (chance * _RANGE).round().clamp(max=2 * _RANGE).to(torch.int64)
            kept &= below | torch.isnan(d)
        scaled = d if chances is None else d / chances[row - 1]
        values.append(torch.where(kept, weight * (factor * scaled), 0.0))
    return values, last[0], last[1]
