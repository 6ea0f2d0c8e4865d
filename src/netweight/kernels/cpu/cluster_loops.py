"""Loops over rows of embeddings: widened and centred, measured, added up by cluster."""

from __future__ import annotations

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.cpu.elements import number_of_bfloat16

__all__ = ["add_by_cluster", "distances", "load", "row_facts", "widen_bfloat16"]

_LARGEST = float(np.finfo(np.float64).max)


@compiled
def widen_bfloat16(bits: Array, scale: np.float32, out: Array) -> None:
    """out float32 [n] = the bfloat16 numbers of `bits` uint16 [n], times `scale`."""
    for i in range(len(bits)):
        out[i] = number_of_bfloat16(bits[i]) * scale


@compiled
def row_facts(x: Array, squares: Array, total: Array) -> None:
    """squares float64 [rows] = each row's sum of squares; total float64 [cols] += the sum of finite rows.

    A row that holds a NaN or an infinity has a sum of squares that is none either.
    """
    for r in range(len(x)):
        square = 0.0
        for c in range(x.shape[1]):
            value = np.float64(x[r, c])
            square += value * value
        squares[r] = square
        if square <= _LARGEST:  # an isfinite is compiled away by these rules of arithmetic
            for c in range(x.shape[1]):
                total[c] += np.float64(x[r, c])


@compiled
def add_by_cluster(x: Array, labels: Array, counts: Array, sums: Array) -> None:
    """counts int64 [k] and sums float64 [k, cols] += the rows of `x` float32 by their `labels` int64 [rows]."""
    for r in range(len(x)):
        label = labels[r]
        counts[label] += 1
        for c in range(x.shape[1]):
            sums[label, c] += np.float64(x[r, c])


@compiled
def distances(x: Array, labels: Array, centres: Array, out: Array) -> None:
    """out float64 [rows] = the Euclidean distance of each row of `x` float32 to centres[label] float64 [k, cols]."""
    for r in range(len(x)):
        square = 0.0
        for c in range(x.shape[1]):
            apart = np.float64(x[r, c]) - centres[labels[r], c]
            square += apart * apart
        out[r] = np.sqrt(square)


def load() -> None:
    """Compile the loops, or load them from the cache of an earlier run."""
    x, labels, centres = np.ones((1, 1), np.float32), np.zeros(1, np.int64), np.zeros((1, 1))
    widen_bfloat16(np.zeros(1, np.uint16), np.float32(1), np.empty(1, np.float32))
    row_facts(x, np.empty(1), np.zeros(1))
    add_by_cluster(x, labels, np.zeros(1, np.int64), centres)
    distances(x, labels, centres, np.empty(1))
