"""Counting values by bits: those that are left of an unsigned integer when it is shifted."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled

__all__ = ["PADDING", "count_in_four", "count_in_one", "count_in_two"]

PADDING = 272
"""Counters between tables, so that equal values in different tables do not share the low 12 bits of their addresses,
which a load after a store waits for."""

_ONE = np.uint32(1)


@compiled
def count_in_one(bits: Array, shift: Any, counts: Array) -> None:
    """counts uint32 [bins] += occurrences of bits [n] >> shift."""
    for i in range(len(bits)):
        counts[np.uintp(bits[i] >> shift)] += _ONE


@compiled
def count_in_two(bits: Array, shift: Any, counts: Array) -> None:
    """The same in counts[2 or more, bins + PADDING]: two tables fit the first cache."""
    for i in range(len(bits) // 2):
        j = np.uintp(2 * i)
        counts[0, bits[j] >> shift] += _ONE
        counts[1, bits[j + np.uintp(1)] >> shift] += _ONE
    if len(bits) % 2:
        counts[0, bits[-1] >> shift] += _ONE


@compiled
def count_in_four(bits: Array, shift: Any, counts: Array) -> None:
    """The same in counts[4, bins + PADDING], for values of which many are equal: a run of one value does not wait for
    its own last store.
    """
    quarter = len(bits) // 4
    for i in range(quarter):
        j = np.uintp(4 * i)
        counts[0, bits[j] >> shift] += _ONE
        counts[1, bits[j + np.uintp(1)] >> shift] += _ONE
        counts[2, bits[j + np.uintp(2)] >> shift] += _ONE
        counts[3, bits[j + np.uintp(3)] >> shift] += _ONE
    for i in range(4 * quarter, len(bits)):
        counts[0, bits[i] >> shift] += _ONE
