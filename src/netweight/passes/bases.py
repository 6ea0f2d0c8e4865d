"""Matrices of a model read whole, in a basis of the residual stream that another model shares: a few of its dimensions
in a given order and with given signs, or a few directions of a rotated stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.kernels.arrays import F32Array, F64Array
from netweight.statistics.kinship.matching import Indices

__all__ = ["Basis", "inputs_in", "outputs_in", "row_blocks", "rows_at"]

_BLOCK = 16 << 20  # bytes of a block of rows, as float32


@dataclass(frozen=True)
class Basis:
    """Directions of a residual stream of `width` dimensions: of `dimensions` times `signs`, or the columns of `map`
    (width, n) where that is not None.
    """

    width: int
    dimensions: Indices
    signs: F64Array
    map: F32Array | None = None

    @property
    def size(self) -> int:
        """How many directions."""
        return len(self.dimensions) if self.map is None else self.map.shape[1]

    def of(self, rows: F32Array) -> F32Array:
        """Rows over the residual stream (n, width) in the basis (n, size)."""
        if self.map is not None:
            return rows @ self.map
        return np.asarray(rows[:, self.dimensions] * self.signs.astype(np.float32))


def row_blocks(tensor: Tensor) -> Iterator[tuple[int, F32Array]]:
    """(first row, rows as float32) of a matrix, block after block; what is not finite becomes zero; ReadError."""
    rows, cols = tensor.shape[0], prod(tensor.shape[1:])
    step = max(1, _BLOCK // (4 * max(cols, 1)))
    for first in range(0, rows, step):
        yield first, rows_at(tensor, first, min(step, rows - first))


def rows_at(tensor: Tensor, first: int, count: int) -> F32Array:
    """`count` rows of a matrix from `first`, as float32; what is not finite becomes zero. Raises ReadError."""
    cols = prod(tensor.shape[1:])
    block = np.empty((count, cols), tensor.dtype.to_numpy())
    read_elements(tensor, first * cols, block.reshape(-1).view(np.uint8).data)
    with np.errstate(over="ignore"):
        held = block.astype(np.float32)
    held[~np.isfinite(held)] = 0
    return held


def inputs_in(tensor: Tensor, gain: F32Array | None, basis: Basis) -> F32Array:
    """A matrix that reads the residual stream (outputs, width), times the gain of the norm before it, as (outputs,
    size of the basis).
    """
    found = np.empty((tensor.shape[0], basis.size), np.float32)
    for first, rows in row_blocks(tensor):
        found[first : first + len(rows)] = basis.of(rows if gain is None else rows * gain)
    return found


def outputs_in(tensor: Tensor, basis: Basis) -> F32Array:
    """A matrix that writes to the residual stream (width, inputs), as (inputs, size of the basis)."""
    if basis.map is None:
        found = np.empty((basis.size, tensor.shape[1]), np.float32)
        at = {int(dimension): place for place, dimension in enumerate(basis.dimensions)}
        for first, rows in row_blocks(tensor):
            held = [dimension for dimension in range(first, first + len(rows)) if dimension in at]
            places = [at[dimension] for dimension in held]
            found[places] = rows[[dimension - first for dimension in held]] * basis.signs[places, None]
        return np.ascontiguousarray(found.T)
    total = np.zeros((tensor.shape[1], basis.size), np.float32)
    for first, rows in row_blocks(tensor):
        total += rows.T @ basis.map[first : first + len(rows)]
    return total
