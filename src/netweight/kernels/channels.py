"""The seam for statistics that depend on where in a matrix an element stands: rows, columns, groups of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from netweight.dtypes import DType
from netweight.kernels.arrays import F64Array, U8Array

__all__ = ["DEAD", "PIECE", "ChannelAccumulator", "ChannelPartial", "elements_of_piece"]

DEAD = 1e-6
"""A row or column is dead where no element's magnitude is above this."""

PIECE = 4096
"""Pieces of a long row hold a multiple of so many elements, but for the last."""


def elements_of_piece(block: U8Array, dtype: DType, before: int, cols: int) -> int:
    """How many elements of a row of `cols` the bytes `block` are, of which `before` came before.

    Raises ValueError for a piece that is not a multiple of PIECE and not the row's last.
    """
    count = 8 * len(block) // dtype.bits
    last = before + count == cols
    if before + count > cols or (count % PIECE and not last):
        raise ValueError(
            f"a piece of {count} elements at column {before} of {cols}: expected a multiple of {PIECE},"
            f" or the rest of the row"
        )
    return count


@dataclass(frozen=True)
class ChannelPartial:
    """The statistics of a matrix. Elements that are not finite count as zeros in all of it.

    errors: float64, sums of (x - x')^2 over all elements, x' the quantized and dequantized x: int8 with a scale for
    every row (None for a matrix of one row, where it is the per-tensor scale), int4 in groups of 128 and of 32 along
    the columns, symmetric and asymmetric; column_maxabs: float64 [cols], max abs(x) by column (None for one row);
    dead_rows; fours: whole aligned groups of four along the columns, and sparse_fours: those with at least two zeros.
    """

    int8_error: float | None
    int4_128_symmetric_error: float
    int4_128_asymmetric_error: float
    int4_32_symmetric_error: float
    int4_32_asymmetric_error: float
    column_maxabs: F64Array | None
    dead_rows: int
    fours: int
    sparse_fours: int


class ChannelAccumulator(Protocol):
    """One matrix at a time, given row by row from the first to the last; for one thread at a time."""

    def start(self, dtype: DType, rows: int, cols: int) -> None:
        """Begin a matrix of 8- to 64-bit floats."""
        ...

    def add(self, block: U8Array, rows: int) -> None:
        """Take in whole rows: uint8 [rows * cols * bytes of an element], native elements, row by row."""
        ...

    def add_piece(self, block: U8Array) -> None:
        """Take in the next piece of a row that is too long to be given whole: native elements, a multiple of PIECE.

        The row's last piece may be shorter. When it was given, all pieces are given again, to `add_piece_again`; for a
        matrix of one row they are not.
        """
        ...

    def add_piece_again(self, block: U8Array) -> None:
        """Take in the next piece of the same row once more, now that its largest element is known."""
        ...

    def partial(self) -> ChannelPartial:
        """The statistics since `start`; raises RuntimeError where the last row is not complete."""
        ...
