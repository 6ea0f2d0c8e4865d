"""The errors of formats in rows of a matrix, summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.dtypes import DType
from netweight.statistics.formats.encoders import TILE, Rows

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array, F64Array, U8Array
    from netweight.statistics.formats.table import Format

__all__ = ["ErrorSums", "FormatErrors", "Largest", "sample_size", "sampled_rows", "widened"]

_SAMPLED = 1 << 17  # elements
_LEAST = 16  # rows


def sample_size(rows: int, cols: int, *, exact: bool) -> int:
    """How many rows are encoded: all, or those of 131,072 elements, at least 16."""
    return rows if exact else min(rows, max(_LEAST, _SAMPLED // max(1, cols)))


def sampled_rows(rows: int, cols: int, *, exact: bool) -> range | np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of the rows that are encoded: evenly spaced."""
    count = sample_size(rows, cols, exact=exact)
    return range(rows) if count == rows else (np.arange(count) * rows + rows // 2) // count


def widened(raw: U8Array, dtype: DType, rows: int) -> F32Array:
    """Native bytes of whole rows as float32 [rows, cols]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return raw.view(dtype.to_numpy()).reshape(rows, -1).astype(np.float32)


class Largest:
    """max abs of every 128 x 128 block of a matrix, from blocks of whole rows in order: a `BlockSink`.

    By bit patterns, whose order is that of magnitudes; one that is not finite is larger than all others.
    """

    def __init__(self, dtype: DType, rows: int, cols: int) -> None:
        self._dtype = dtype
        self._cols = cols
        self._kind = np.dtype(f"u{dtype.bits // 8}")
        self._mask = self._kind.type((1 << (dtype.bits - 1)) - 1)
        self._tiles = np.zeros((-(-rows // TILE), -(-cols // TILE)), self._kind)
        self._seen = 0

    def add(self, block: U8Array, rows: int) -> None:
        """Take in `rows` whole rows."""
        native = block.view(self._kind).reshape(rows, self._cols)
        starts = np.arange(0, self._cols, TILE)
        first = 0
        while first < rows:
            band = self._seen // TILE
            count = min(rows - first, (band + 1) * TILE - self._seen)
            highest = (native[first : first + count] & self._mask).max(axis=0)
            np.maximum(self._tiles[band], np.maximum.reduceat(highest, starts), out=self._tiles[band])
            first += count
            self._seen += count

    @property
    def tiles(self) -> F32Array:
        """float32 [bands, tiles]."""
        with np.errstate(over="ignore"):
            return self._tiles.view(self._dtype.to_numpy()).astype(np.float32)


@dataclass(frozen=True)
class FormatErrors:
    """errors: {format: sum (x - x')^2}, squares: sum x^2, over `rows` of `of` rows of `cols` elements; deviation:
    {format: standard error of its relative error, of that itself}, 0 where all rows are taken. `reason` says why there
    are none.
    """

    errors: dict[str, float]
    squares: float
    rows: int
    of: int
    cols: int
    deviation: dict[str, float]
    reason: str = ""

    @classmethod
    def none(cls, rows: int, reason: str) -> FormatErrors:
        """Of a matrix that has none, for this `reason`."""
        return cls({}, 0.0, 0, rows, 0, {}, reason)

    @property
    def mean_square(self) -> float:
        """Of the rows that were taken; nan without any."""
        return self.squares / (self.rows * self.cols) if self.rows else nan

    def relative(self, key: str) -> float:
        """sqrt(sum (x - x')^2 / sum x^2)."""
        return sqrt(self.errors[key] / self.squares)


class ErrorSums:
    """Sums the errors of formats over rows."""

    def __init__(self, formats: Sequence[Format], tiles: F32Array, rows: int, weights: F32Array | None = None) -> None:
        self._formats = formats
        self._tiles = tiles
        self._largest = float(tiles.max(initial=0.0))
        self._rows = rows
        self._cols = 0
        self._weights = weights
        self._squares: list[F64Array] = []
        self._errors: dict[str, list[F64Array]] = {one.key: [] for one in formats}

    def add(self, values: F32Array, numbers: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Take in rows float32 [n, cols] with these numbers."""
        self._cols = values.shape[1]
        rows = Rows(values, self._largest, self._tiles[np.asarray(numbers) // TILE])
        self._squares.append(self._sums(values))
        for one in self._formats:
            self._errors[one.key].append(self._sums(values - one.decoded(rows, self._weights)))

    def _sums(self, values: F32Array) -> F64Array:
        squares = np.square(values, dtype=np.float64)
        found: F64Array = squares.sum(axis=1) if self._weights is None else squares @ self._weights.astype(np.float64)
        return found

    def finish(self) -> FormatErrors:
        """The sums, and how far a sample may be off."""
        squares = np.concatenate([np.zeros(0), *self._squares])
        total, taken = float(squares.sum()), len(squares)
        sums, deviation = {}, {}
        for key, parts in self._errors.items():
            errors = np.concatenate([np.zeros(0), *parts])
            sums[key] = float(errors.sum())
            deviation[key] = 0.0
            if 1 < taken < self._rows and sums[key] > 0:
                # of a ratio of sums (Cochran, Sampling Techniques, 6.4); the root of a ratio has half of its error
                rest = errors - sums[key] / total * squares
                share = 1 - taken / self._rows
                deviation[key] = sqrt(share * taken / (taken - 1) * float(rest @ rest)) / sums[key] / 2
        return FormatErrors(sums, total, taken, self._rows, self._cols, deviation)
