"""Counting bit patterns of 8- and 16-bit types."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.cpu.compiled import compiled

__all__ = ["PADDING", "count_patterns"]

PADDING = 272  # counters between tables: see count_patterns
_ONE = np.uint32(1)

Array = np.ndarray[Any, Any]


@compiled
def count_patterns(patterns: Array, counts: Array) -> None:
    """counts[4, patterns + padding] += occurrences of uint8 or uint16 patterns.

    Four tables, so that a run of one value does not wait for its own last store; padded, so that equal values in
    different tables do not share the low 12 bits of their addresses, which a load after a store waits for as well.
    """
    quarter = len(patterns) // 4
    for i in range(quarter):
        j = np.uintp(4 * i)
        counts[0, patterns[j]] += _ONE
        counts[1, patterns[j + np.uintp(1)]] += _ONE
        counts[2, patterns[j + np.uintp(2)]] += _ONE
        counts[3, patterns[j + np.uintp(3)]] += _ONE
    for i in range(4 * quarter, len(patterns)):
        counts[0, patterns[i]] += _ONE
