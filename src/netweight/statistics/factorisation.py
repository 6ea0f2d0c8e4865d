"""A matrix as a product of two thin ones in the type in which they are stored, with the error that it really has."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np

from netweight.statistics.row_blocks import OutOfRangeError, RowBlocks, RowReader
from netweight.statistics.singular_vectors import Directions, Method, Rule, find_directions

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.arrays import Array, F64Array
    from netweight.kernels.factors import FactorKernels

__all__ = ["FactorSink", "Factorised", "HeldFactors", "factorise"]

_ATTEMPTS = 4


class FactorSink(Protocol):
    """Takes the factors of one matrix, in the type in which they are stored."""

    def start(self, rank: int) -> None:
        """The factors of this rank follow; what came before is forgotten."""
        ...

    def right(self, factor: Array) -> None:
        """The right factor [r, n]."""
        ...

    def left(self, first: int, rows: Array) -> None:
        """Rows of the left factor [m, r] from row `first`, in order."""
        ...


class HeldFactors:
    """A FactorSink that holds both: `matrices()` are left [m, r] and right [r, n]."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, rank: int) -> None:
        """See FactorSink."""
        self._rows: list[Array] = []
        self._right: Array = np.zeros((rank, 0), np.float32)

    def right(self, factor: Array) -> None:
        """See FactorSink."""
        self._right = factor

    def left(self, first: int, rows: Array) -> None:  # noqa: ARG002 - in order
        """See FactorSink."""
        self._rows.append(rows)

    def matrices(self) -> tuple[Array, Array]:
        """(left, right); raises ValueError where nothing came."""
        return np.concatenate(self._rows), self._right


@dataclass(frozen=True, eq=False)
class Factorised:
    """The factors' `rank` (0: all elements are zero), the sum of squares of the matrix, that of what the factors as
    stored leave of it (`left`), and what they would leave if they were not rounded (`unrounded`); the singular `values`
    of the directions found, each at most the matrix's own; how they were found.
    """

    rank: int
    squares: float
    left: float
    unrounded: float
    values: F64Array
    method: Method
    readings: int

    @property
    def error(self) -> float:
        """||D - left right||_F / ||D||_F; 0 for a matrix of zeros."""
        return sqrt(self.left / self.squares) if self.squares else 0.0


def factorise(
    matrix: RowBlocks,
    rule: Rule,
    kernels: FactorKernels,
    sink: FactorSink,
    dtype: DType,
    *,
    key: int = 0,
    hold: int = 0,
    stored_error: bool = False,
) -> Factorised:
    """D [m, n], given by blocks of rows, as left [m, r] @ right [r, n], rounded to `dtype` and handed to `sink`.

    Both factors have the square roots of the singular values in them. The error is that of the rounded factors, summed
    in float64 over the blocks. `stored_error`: it is the rounded factors that must keep to `rule.left`, and the rank
    rises where rounding would break it. `hold`: bytes up to which the matrix is held rather than read again.

    Raises NotFiniteError where an element is NaN or infinite, OutOfRangeError where a factor leaves the range of
    `dtype`, and what reading raises.
    """
    reader = RowReader(matrix, kernels, hold)
    allowed = rule.left
    for _ in range(_ATTEMPTS):
        found = find_directions(reader, rule, kernels, key)
        if not len(found.values):
            return Factorised(0, 0.0, 0.0, 0.0, found.values, found.method, found.readings)
        left = _store(reader, found, kernels, sink, dtype)
        rounding = max(left - found.left, 0.0) / found.squares
        full = len(found.values) == min(reader.rows, reader.cols)
        if not stored_error or allowed is None or left <= allowed * found.squares or full or rounding >= allowed:
            break
        rule = Rule(left=allowed - 1.01 * rounding)
    rank = len(found.values)
    return Factorised(rank, found.squares, left, found.left, found.values, found.method, found.readings + 1)


def _store(reader: RowReader, found: Directions, kernels: FactorKernels, sink: FactorSink, dtype: DType) -> float:
    """Hand the factors over; what they leave of the squares."""
    roots = np.sqrt(found.values)
    stored = dtype.to_numpy()
    sink.start(len(roots))
    right = _rounded(np.ascontiguousarray((found.vectors * roots).T), stored)
    sink.right(right)
    panel = kernels.send(found.vectors / roots, wide=found.wide)
    sent_right = kernels.send(right.astype(np.float64), wide=True)
    left, first = 0.0, 0
    for block in reader.blocks():
        rows = _rounded(kernels.image(block, panel), stored)
        left += kernels.residual(block, rows, sent_right)
        sink.left(first, rows)
        first += len(rows)
    return left


def _rounded(values: Array, stored: np.dtype[np.generic]) -> Array:
    with np.errstate(over="ignore"):
        rows: Array = values.astype(np.float32).astype(stored)
    if not np.isfinite(rows.astype(np.float32)).all():
        raise OutOfRangeError(f"its factors are beyond the range of {stored}")
    return rows
