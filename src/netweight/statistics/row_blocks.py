"""A matrix that is given by blocks of rows, read as often as an algorithm needs it, and held where it is small."""

from __future__ import annotations

from collections.abc import Iterator
from math import frexp, isfinite
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from netweight.kernels.cpu.task_vectors import extent

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array, F64Array
    from netweight.kernels.factors import FactorKernels

__all__ = ["HeldRows", "NotFiniteError", "OutOfRangeError", "RowBlocks", "RowReader", "rows_of_block"]

_BLOCK = 1 << 20  # elements of a block
_MOST_ROWS = 4096
_SAFE = 20  # exponents of two up to which squares are summed in float32 as they are


class NotFiniteError(ArithmeticError):
    """The matrix has elements that are NaN or infinite."""


class OutOfRangeError(NotFiniteError):
    """The factors leave the range of the type in which they are to be stored."""


class RowBlocks(Protocol):
    """A matrix [rows, cols] of float32, read from its first row to its last, as often as it is asked for."""

    @property
    def rows(self) -> int:
        """Rows."""
        ...

    @property
    def cols(self) -> int:
        """Columns."""
        ...

    def blocks(self) -> Iterator[F32Array]:
        """Blocks of `rows_of_block(cols)` whole rows in C order, the last one of what is left; each is valid until the
        next one.
        """
        ...


class HeldRows:
    """RowBlocks of an array [rows, cols]."""

    def __init__(self, matrix: F32Array) -> None:
        self._matrix = np.ascontiguousarray(matrix, np.float32)
        self.rows, self.cols = matrix.shape

    def blocks(self) -> Iterator[F32Array]:
        """See RowBlocks."""
        step = rows_of_block(self.cols)
        for first in range(0, self.rows, step):
            yield self._matrix[first : first + step]


def rows_of_block(cols: int) -> int:
    """Rows of a block: they follow from the shape alone, and so do sums over blocks."""
    return max(16, min(_MOST_ROWS, _BLOCK // max(cols, 1)))


class RowReader:
    """Blocks as kernels take them; the first look says how large the elements are (`squares`, `most`).

    Where all of it takes at most `hold` bytes, it is read once. Elements far from 1 are multiplied by 2^-`exponent` in
    `scaled` blocks, so that their squares stay within float32. Raises NotFiniteError where an element is NaN or
    infinite, and what reading raises.
    """

    def __init__(self, matrix: RowBlocks, kernels: FactorKernels, hold: int = 0) -> None:
        self.rows, self.cols = matrix.rows, matrix.cols
        self._matrix = matrix
        self._kernels = kernels
        self._held: list[Any] | None = [] if 4 * matrix.rows * matrix.cols <= hold else None
        self.squares, self.most = 0.0, 0.0
        for block in matrix.blocks():
            squares, most = extent(block)
            if not isfinite(most):
                raise NotFiniteError("elements that are NaN or infinite")
            self.squares += squares
            self.most = max(self.most, most)
            if self._held is not None:
                self._held.append(kernels.load(block.copy()))
        exponent = frexp(self.most)[1]
        self.exponent = exponent if abs(exponent) > _SAFE else 0
        if self.exponent:
            self._held = None

    @property
    def scaled_squares(self) -> float:
        """The sum of squares of scaled blocks."""
        return float(np.ldexp(self.squares, -2 * self.exponent))

    def blocks(self) -> Iterator[Any]:
        """The blocks as they are."""
        if self._held is not None:
            yield from self._held
            return
        for block in self._matrix.blocks():
            yield self._kernels.load(block)

    def scaled(self) -> Iterator[Any]:
        """The blocks times 2^-exponent."""
        if not self.exponent:
            yield from self.blocks()
            return
        for block in self._scaled_copies():
            yield self._kernels.load(block)

    def all_scaled(self) -> list[Any]:
        """All scaled blocks at once."""
        return self._held if self._held is not None else [self._kernels.load(block) for block in self._scaled_copies()]

    def on_host(self) -> F64Array:
        """The whole scaled matrix, for small ones."""
        return np.concatenate([*self._scaled_copies()]).astype(np.float64)

    def _scaled_copies(self) -> Iterator[F32Array]:
        for block in self._matrix.blocks():
            yield np.ldexp(block, np.int32(-self.exponent))
