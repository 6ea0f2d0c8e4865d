"""What lies inside a matrix: the code that its values are of, its heads, its rows where they are tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from netweight.measures.within import Within
from netweight.statistics.codes import TILE, Codes, Steps, codes_of, steps_of
from netweight.statistics.formats.errors import widened
from netweight.statistics.heads import HeadSums
from netweight.statistics.token_rows import SAMPLED, TokenSums, axes_of, sampled_rows

if TYPE_CHECKING:
    from netweight.checkpoint.matrix import Matrix
    from netweight.kernels.arrays import F32Array, U8Array
    from netweight.passes.subjects import Subject

__all__ = ["Inside", "Look", "inside_bytes", "look_of"]

_BAND = 1 << 24  # bytes of 128 rows, at most, of which there are two
_LONGEST = 1 << 16  # columns of a row that are looked at
_ROWS = 4  # of a band, at least
_ELEMENTS = 1 << 14  # of these rows, at least
_TILES = 8  # of a band
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_FEWEST_HEADS = 3
_NARROWEST_HEAD = 16


@dataclass(frozen=True)
class Look:
    """What to look for in a matrix. `heads`: (0: its rows, 1: its columns; elements of a head along them), None where
    it has none that are known; `tokens`: whether its rows are of tokens; `packed`: the type of few bits that it is
    stored in, "" for plain floats.
    """

    heads: tuple[Literal[0, 1], int] | None = None
    tokens: bool = False
    packed: str = ""


def look_of(subject: Subject) -> Look:
    """What to look for in the matrix that this subject opens, which is [out, in] also where it is stored transposed."""
    rows, cols = subject.part.stored_shape
    if subject.part.transposed:
        rows, cols = cols, rows
    heads = subject.heads
    known: tuple[Literal[0, 1], int] | None = None
    if heads is not None and min(rows, cols) > 1:
        axis: Literal[0, 1] = 1 if subject.parameter.role == "o_proj" else 0
        count, size = heads
        if count >= _FEWEST_HEADS and size >= _NARROWEST_HEAD and (rows, cols)[axis] == count * size:
            known = axis, size
    tokens = subject.parameter.slot in ("token_embedding", "lm_head") and subject.parameter.kind == "weight"
    stored = subject.tensor.stored
    return Look(known, tokens and min(rows, cols) > 1, "" if stored in _PLAIN else stored)


def inside_bytes(subject: Subject) -> int:
    """Memory that looking inside takes at most."""
    rows, cols = subject.part.stored_shape
    if subject.part.transposed:
        rows, cols = cols, rows
    look = look_of(subject)
    row_bytes = cols * subject.tensor.dtype.bits // 8
    total = 2 * max(row_bytes, min(_BAND, TILE * row_bytes)) + 2 * 96 * (_ELEMENTS + _ROWS * min(cols, _LONGEST))
    total += 96 * 2 * _TILES * TILE * TILE
    if look.heads is not None:
        total += HeadSums.nbytes(cols, *look.heads)
    if look.tokens:
        total += 3 * SAMPLED * (28 * cols + 3 * SAMPLED * 24) + 80 * rows + 3 * (1 << 23)
    return total


class Inside:
    """Looks inside one matrix, whose first reading its `sinks` take."""

    def __init__(self, matrix: Matrix, look: Look) -> None:
        """Reads the sample of rows that a table of tokens needs beforehand; raises ReadError."""
        shape = matrix.rows, matrix.cols
        self._codes = None if look.packed else _Bands(matrix)
        self._heads = None if look.heads is None else HeadSums(matrix.dtype, *shape, *look.heads)
        self._tokens = _Tokens(matrix) if look.tokens else None

    @property
    def sinks(self) -> tuple[_Bands | HeadSums | _Tokens, ...]:
        """What takes every block of rows."""
        return tuple(sink for sink in (self._codes, self._heads, self._tokens) if sink is not None)

    def finish(self) -> Within:
        """All that was found."""
        return Within(
            None if self._codes is None else self._codes.finish(),
            None if self._heads is None else self._heads.finish(),
            None if self._tokens is None else self._tokens.sums.finish(),
        )


class _Tokens:
    """The rows of a table: a `BlockSink`."""

    def __init__(self, matrix: Matrix) -> None:
        """Reads a sample of rows beforehand; raises ReadError."""
        self._dtype = matrix.dtype
        numbers = sampled_rows(matrix.rows)
        self.sums = TokenSums(axes_of(_rows(matrix, numbers), numbers))

    def add(self, block: U8Array, rows: int) -> None:
        """Take in `rows` whole rows."""
        self.sums.take(widened(block, self._dtype, rows))


def _read(matrix: Matrix, first: int, count: int) -> U8Array:
    raw = np.empty(matrix.dtype.nbytes(matrix.cols) * count, np.uint8)
    matrix.read_rows(first, count, raw.data)
    return raw


def _rows(matrix: Matrix, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> F32Array:
    """Rows of ascending numbers, float32."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    stops = [*starts[1:].tolist(), len(numbers)]
    parts = [_read(matrix, int(numbers[a]), b - a) for a, b in zip(starts.tolist(), stops, strict=True)]
    return widened(np.concatenate(parts), matrix.dtype, len(numbers))


class _Bands:
    """The first 128 rows of a matrix, and the last from a multiple of 128 on; fewer of long ones: a `BlockSink`."""

    def __init__(self, matrix: Matrix) -> None:
        row_bytes = matrix.dtype.nbytes(matrix.cols)
        height = min(TILE, matrix.rows, max(1, _BAND // row_bytes))
        self._dtype = matrix.dtype
        self._firsts = sorted({0, (matrix.rows - height) // TILE * TILE})
        self._bands = np.zeros((len(self._firsts), height, row_bytes), np.uint8)
        self._seen = 0

    def add(self, block: U8Array, rows: int) -> None:
        """Take in `rows` whole rows."""
        height = self._bands.shape[1]
        for first, band in zip(self._firsts, self._bands, strict=True):
            start, stop = max(first, self._seen), min(first + height, self._seen + rows)
            if start < stop:
                some = block.reshape(rows, -1)[start - self._seen : stop - self._seen]
                band[start - first : stop - first] = some
        self._seen += rows

    def finish(self) -> Codes:
        """The verdict of four rows of each band and more; and where these may be coded, of eight tiles of each."""
        width, (_, height, row_bytes) = self._dtype.bits // 8, self._bands.shape
        cols = row_bytes // width
        taken = np.unique(np.linspace(0, height - 1, max(_ROWS, _ELEMENTS // cols)).astype(int))
        rows = self._bands[:, taken, : _LONGEST * width]

        def tiles() -> list[Steps]:
            if height < TILE or cols < TILE:
                return []
            places = np.unique(np.linspace(0, cols // TILE - 1, _TILES).astype(int)) * TILE * width
            cut = (band[:, place : place + TILE * width] for band in self._bands for place in places.tolist())
            return [self._steps(tile) for tile in cut]

        return codes_of(self._steps(rows), tiles, self._dtype)

    def _steps(self, raw: U8Array) -> Steps:
        """Of native bytes, [..., bytes of a row]."""
        cols = raw.shape[-1] * 8 // self._dtype.bits
        return steps_of(np.ascontiguousarray(raw).reshape(-1), self._dtype, cols)
