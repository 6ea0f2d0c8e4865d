"""What lies inside a matrix: the code that its values are of, its heads, its rows where they are tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from netweight.statistics.codes import TILE, Codes, Steps, codes_of, steps_of
from netweight.statistics.formats.errors import widened
from netweight.statistics.heads import HeadSums
from netweight.statistics.inside import Within
from netweight.statistics.token_rows import SAMPLED, TokenSums, axes_of, sampled_rows

if TYPE_CHECKING:
    from netweight.checkpoint.matrix import Matrix
    from netweight.kernels.arrays import F32Array, U8Array
    from netweight.passes.subjects import Subject

__all__ = ["Inside", "Look", "inside_bytes", "look_of"]

_BAND = 1 << 25  # bytes of 128 rows, at most, of which tiles are cut
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
    total = max(row_bytes, min(_BAND, TILE * row_bytes)) + 2 * 96 * (_ELEMENTS + _ROWS * min(cols, _LONGEST))
    total += 96 * 2 * _TILES * TILE * TILE
    if look.heads is not None:
        total += HeadSums.nbytes(cols, *look.heads)
    if look.tokens:
        total += 3 * SAMPLED * (28 * cols + 3 * SAMPLED * 24) + 80 * rows + 3 * (1 << 23)
    return total


class Inside:
    """Looks inside one matrix: its `sinks` take the first reading, `finish` reads some rows once more."""

    def __init__(self, matrix: Matrix, look: Look) -> None:
        """Reads the sample of rows that a table of tokens needs beforehand; raises ReadError."""
        self._matrix = matrix
        self._look = look
        shape = matrix.rows, matrix.cols
        self._heads = None if look.heads is None else HeadSums(matrix.dtype, *shape, *look.heads)
        self._tokens = _Tokens(matrix) if look.tokens else None

    @property
    def sinks(self) -> tuple[HeadSums | _Tokens, ...]:
        """What takes every block of rows."""
        return tuple(sink for sink in (self._heads, self._tokens) if sink is not None)

    def finish(self) -> Within:
        """All that was found; raises ReadError."""
        codes = None if self._look.packed else _codes(self._matrix)
        heads = None if self._heads is None else self._heads.finish()
        return Within(codes, heads, None if self._tokens is None else self._tokens.sums.finish())


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


def _codes(matrix: Matrix) -> Codes:
    """From two bands of 128 rows: four rows of each and more; and where these may be coded, eight tiles of each."""
    width = matrix.dtype.bits // 8
    height = min(TILE, matrix.rows)
    firsts = sorted({0, (matrix.rows - height) // TILE * TILE})
    taken = np.unique(np.linspace(0, height - 1, max(_ROWS, _ELEMENTS // matrix.cols)).astype(int)).tolist()
    rows = []
    for number in [first + one for first in firsts for one in taken]:
        raw = _read(matrix, number, 1)[: _LONGEST * width]
        rows.append(steps_of(raw, matrix.dtype, len(raw) // width))

    def tiles() -> list[Steps]:
        if height < TILE or TILE * matrix.cols * width > _BAND:
            return []
        across = np.unique(np.linspace(0, matrix.cols // TILE - 1, _TILES).astype(int)) if matrix.cols >= TILE else ()
        found = []
        for first in firsts:
            band = _read(matrix, first, height).reshape(height, -1)
            cut = (band[:, number * TILE * width : (number + 1) * TILE * width] for number in across)
            found += [steps_of(np.ascontiguousarray(tile).reshape(-1), matrix.dtype, TILE) for tile in cut]
        return found

    return codes_of(np.concatenate(rows), tiles, matrix.dtype)
