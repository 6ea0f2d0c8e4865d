"""The errors of formats in a matrix: its largest values and some of its rows, from one reading where these are few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.statistics.formats.encoders import TILE
from netweight.statistics.formats.errors import ErrorSums, FormatErrors, Largest, sample_size, sampled_rows, widened
from netweight.statistics.formats.ggml import installed
from netweight.statistics.formats.table import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netweight.checkpoint.matrix import Matrix
    from netweight.kernels.arrays import F32Array, U8Array
    from netweight.statistics.formats.table import Format

__all__ = ["KEPT", "SCRATCH", "ZERO", "SampledRows", "errors_of", "sampled_errors"]

_NOT_FINITE = "elements that are NaN or infinite, or beyond float32"
ZERO = "all elements are zero as float32"
_TOGETHER = 1 << 17  # elements that are encoded at a time
SCRATCH = 24 * _TOGETHER
"""Bytes that encoding takes, beside a row that is longer."""

KEPT = 1 << 22
"""Bytes of sampled rows that are kept, at most; longer ones are read once more."""


class SampledRows:
    """Keeps the rows that `sampled_rows` chooses, as they are read: a `BlockSink`."""

    def __init__(self, matrix: Matrix) -> None:
        self._numbers = np.asarray(sampled_rows(matrix.rows, matrix.cols, exact=False))
        self._rows = np.empty((len(self._numbers), matrix.dtype.nbytes(matrix.cols)), np.uint8)
        self._seen = 0

    @staticmethod
    def fit(matrix: Matrix) -> bool:
        """Whether the rows are few enough to be kept."""
        return sample_size(matrix.rows, matrix.cols, exact=False) * matrix.dtype.nbytes(matrix.cols) <= KEPT

    def add(self, block: U8Array, rows: int) -> None:
        """Take in `rows` whole rows."""
        start, stop = np.searchsorted(self._numbers, (self._seen, self._seen + rows))
        self._rows[start:stop] = block.reshape(rows, -1)[self._numbers[start:stop] - self._seen]
        self._seen += rows

    def read(self, first: int, count: int) -> U8Array:
        """The native bytes of `count` of the chosen rows, from the one at place `first` on."""
        return self._rows[first : first + count].reshape(-1)


def errors_of(
    matrix: Matrix, largest: Largest | None, *, exact: bool, sample: SampledRows | None = None
) -> FormatErrors:
    """The errors of all formats that can take the matrix, in rows that `sampled_rows` chooses (`sample`, where they
    were kept); none of a vector.

    Raises ReadError where bytes cannot be read.
    """
    if min(matrix.rows, matrix.cols) < 2:
        return FormatErrors.none(matrix.rows, "a vector: formats leave it in 16 or 32 bits")
    if largest is None:
        return FormatErrors.none(matrix.rows, "rows of more than 64 MiB are not taken in")
    tiles = largest.tiles
    if not np.isfinite(tiles).all():
        return FormatErrors.none(matrix.rows, _NOT_FINITE)
    if not tiles.any():
        return FormatErrors.none(matrix.rows, ZERO)
    ready = installed()
    formats = [one for one in FORMATS if matrix.cols % one.block == 0 and (ready or not one.ggml)]
    return sampled_errors(matrix, formats, tiles, exact=exact, sample=sample)


def sampled_errors(
    matrix: Matrix,
    formats: Sequence[Format],
    tiles: F32Array | None = None,
    *,
    exact: bool,
    weights: F32Array | None = None,
    sample: SampledRows | None = None,
) -> FormatErrors:
    """The errors of these formats, which all take the matrix, in rows that `sampled_rows` chooses.

    `tiles`: max abs of every block of 128 x 128, for formats that need it (FP8 of a tensor or a block, NVFP4);
    `weights`: float32 [cols], the importance of columns; `sample`: these rows, where they were read before. Raises
    ReadError where bytes cannot be read.
    """
    blocks = np.zeros((-(-matrix.rows // TILE), -(-matrix.cols // TILE)), np.float32) if tiles is None else tiles
    sums = ErrorSums(formats, blocks, matrix.rows, weights)
    numbers = sampled_rows(matrix.rows, matrix.cols, exact=exact)
    at_once = max(1, _TOGETHER // matrix.cols)
    for first in range(0, len(numbers), at_once):
        some = numbers[first : first + at_once]
        raw = _read(matrix, some) if sample is None else sample.read(first, len(some))
        values = widened(raw, matrix.dtype, len(some))
        if not np.isfinite(values).all():
            return FormatErrors.none(matrix.rows, _NOT_FINITE)
        sums.add(values, some)
    found = sums.finish()
    return found if found.squares > 0 else FormatErrors.none(matrix.rows, ZERO)


def _read(matrix: Matrix, numbers: range | np.ndarray[Any, np.dtype[np.int64]]) -> U8Array:
    """The native bytes of these rows."""
    row_bytes = matrix.dtype.nbytes(matrix.cols)
    raw = np.empty(row_bytes * len(numbers), np.uint8)
    if isinstance(numbers, range):
        matrix.read_rows(numbers.start, len(numbers), raw.data)
        return raw
    for place, number in enumerate(numbers.tolist()):
        matrix.read_rows(number, 1, raw[place * row_bytes : (place + 1) * row_bytes].data)
    return raw
