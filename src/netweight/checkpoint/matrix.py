"""A matrix of one checkpoint, read in blocks of whole rows.

Most matrices are a whole tensor: `rows` is its first dimension, `cols` the rest flattened; scalars and vectors are one
row. Others are a part of a tensor: one expert of a fused stack, or the rows or columns that one projection has in a
fused one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

__all__ = ["HeldMatrix", "Matrix", "Part", "RowMatrix", "open_matrix", "whole"]

_SQUARE = 256  # rows, and columns of them, that are picked at a time


class Matrix(Protocol):
    """Rows of native elements, to be read from any thread."""

    @property
    def name(self) -> str:
        """The tensor's name, with the part in brackets."""
        ...

    @property
    def dtype(self) -> DType:
        """Of the elements, a float type."""
        ...

    @property
    def rows(self) -> int:
        """Rows."""
        ...

    @property
    def cols(self) -> int:
        """Columns."""
        ...

    @property
    def size(self) -> int:
        """Elements."""
        ...

    def read_rows(self, first: int, count: int, out: memoryview) -> None:
        """Fill `out` with the native bytes of `count` whole rows; raises ReadError."""
        ...

    def read_cells(self, row: int, first: int, count: int, out: memoryview) -> None:
        """Fill `out` with `count` elements of one row, from column `first`; raises ReadError."""
        ...


@dataclass(frozen=True)
class Part:
    """Where a matrix lies in its tensor.

    The region [region_rows, region_cols] begins at element `start` of the tensor (row-major); `row_runs` and `col_runs`
    are the region's rows and columns that belong to the matrix, in order; `transposed`: the matrix is the transpose of
    what they pick. `label` goes in brackets behind the tensor's name, "" for the whole tensor.
    """

    label: str
    start: int
    region_rows: int
    region_cols: int
    row_runs: tuple[range, ...]
    col_runs: tuple[range, ...]
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Rows and columns as they are stored."""
        return sum(map(len, self.row_runs)), sum(map(len, self.col_runs))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        rows, cols = self.stored_shape
        return (cols, rows) if self.transposed else (rows, cols)

    @property
    def size(self) -> int:
        """Elements of the matrix."""
        rows, cols = self.stored_shape
        return rows * cols

    @property
    def held(self) -> bool:
        """Whether the region has to be held in memory to pick the matrix from it."""
        return self.transposed or self.col_runs != (range(self.region_cols),)


def whole(shape: tuple[int, ...]) -> Part:
    """The whole tensor: the first dimension by the rest; one row for scalars and vectors."""
    rows = shape[0] if len(shape) > 1 else 1
    cols = prod(shape[1:]) if len(shape) > 1 else prod(shape)
    return Part("", 0, rows, cols, (range(rows),), (range(cols),))


class _TensorPart:
    tensor: Tensor
    part: Part

    @property
    def name(self) -> str:
        """See Matrix."""
        return matrix_name(self.tensor, self.part)

    @property
    def dtype(self) -> DType:
        """See Matrix."""
        return self.tensor.dtype

    @property
    def size(self) -> int:
        """See Matrix."""
        return self.part.size


@dataclass(frozen=True)
class RowMatrix(_TensorPart):
    """Whole rows of a tensor's region: see `Matrix`."""

    tensor: Tensor
    part: Part

    @property
    def rows(self) -> int:
        """See Matrix."""
        return self.part.stored_shape[0]

    @property
    def cols(self) -> int:
        """See Matrix."""
        return self.part.region_cols

    def read_rows(self, first: int, count: int, out: memoryview) -> None:
        """See Matrix."""
        width = self.cols * self.dtype.bits // 8
        done = 0
        for start, length in _spans(self.part.row_runs, first, count):
            self._read(start * self.cols, out[done * width : (done + length) * width])
            done += length

    def read_cells(self, row: int, first: int, count: int, out: memoryview) -> None:
        """See Matrix."""
        ((start, _),) = _spans(self.part.row_runs, row, 1)
        self._read(start * self.cols + first, out[: count * self.dtype.bits // 8])

    def _read(self, element: int, out: memoryview) -> None:
        read_elements(self.tensor, self.part.start + element, out)


class HeldMatrix(_TensorPart):
    """A matrix that is picked from a region held in memory: columns of a tensor, or a transpose. See `Matrix`."""

    def __init__(self, tensor: Tensor, part: Part) -> None:
        self.tensor = tensor
        self.part = part
        self._picked: np.ndarray[Any, Any] | None = None
        self._reading = threading.Lock()

    @property
    def rows(self) -> int:
        """See Matrix."""
        return self.part.stored_shape[int(self.part.transposed)]

    @property
    def cols(self) -> int:
        """See Matrix."""
        return self.part.stored_shape[int(not self.part.transposed)]

    def read_rows(self, first: int, count: int, out: memoryview) -> None:
        """See Matrix."""
        out[:] = self._bytes()[first : first + count].reshape(-1).data

    def read_cells(self, row: int, first: int, count: int, out: memoryview) -> None:
        """See Matrix."""
        width = self.dtype.bits // 8
        out[: count * width] = self._bytes()[row, first * width : (first + count) * width].data

    def _bytes(self) -> np.ndarray[Any, Any]:
        """uint8 [rows, cols * bytes of an element]."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        with self._reading:
            if self._picked is None:
                part, width = self.part, self.dtype.bits // 8
                picked = np.empty((self.rows, self.cols), f"u{width}")
                stored = picked.T if part.transposed else picked
                room = np.empty(min(_SQUARE, len(stored)) * part.region_cols * width, np.uint8)
                for top in range(0, len(stored), _SQUARE):
                    count = min(_SQUARE, len(stored) - top)
                    self._read_rows(top, count, room)
                    cells = room[: count * part.region_cols * width].view(f"u{width}").reshape(count, -1)
                    left = 0
                    for run in part.col_runs:
                        for first in range(0, len(run), _SQUARE):  # squares stay in the caches
                            columns = run[first : first + _SQUARE]
                            piece = cells[:, columns.start : columns.stop : columns.step]
                            stored[top : top + count, left : left + len(columns)] = piece
                            left += len(columns)
                self._picked = picked.view(np.uint8)
            return self._picked

    def _read_rows(self, first: int, count: int, room: np.ndarray[Any, Any]) -> None:
        """Whole rows of the region into the front of `room`."""
        cols = self.part.region_cols
        width = cols * self.dtype.bits // 8
        done = 0
        for start, length in _spans(self.part.row_runs, first, count):
            read_elements(
                self.tensor, self.part.start + start * cols, room[done * width : (done + length) * width].data
            )
            done += length


def open_matrix(tensor: Tensor, part: Part) -> Matrix:
    """The matrix that `part` describes, to be used for one measurement and dropped."""
    return HeldMatrix(tensor, part) if part.held else RowMatrix(tensor, part)


def matrix_name(tensor: Tensor, part: Part) -> str:
    """The tensor's name, with the part in brackets."""
    return f"{tensor.name}[{part.label}]" if part.label else tensor.name


def _spans(runs: tuple[range, ...], first: int, count: int) -> list[tuple[int, int]]:
    """(start, length) of neighbouring stored rows that hold rows `first` to `first + count` of the runs."""
    spans: list[tuple[int, int]] = []
    for run in runs:
        if count <= 0:
            break
        if first >= len(run):
            first -= len(run)
            continue
        taken = run[first : first + count]
        pieces = [(taken.start, len(taken))] if run.step == 1 else [(row, 1) for row in taken]
        for start, length in pieces:
            if spans and sum(spans[-1]) == start:
                spans[-1] = (spans[-1][0], spans[-1][1] + length)
            else:
                spans.append((start, length))
        count -= len(taken)
        first = 0
    return spans
