"""The errors of formats in a matrix: its largest values from the one reading, some of its rows from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netweight.statistics.formats.encoders import TILE
from netweight.statistics.formats.errors import ErrorSums, FormatErrors, Largest, sampled_rows, widened
from netweight.statistics.formats.ggml import installed
from netweight.statistics.formats.table import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netweight.checkpoint.matrix import Matrix
    from netweight.kernels.arrays import F32Array
    from netweight.statistics.formats.table import Format

__all__ = ["SCRATCH", "ZERO", "errors_of", "sampled_errors"]

_NOT_FINITE = "elements that are NaN or infinite, or beyond float32"
ZERO = "all elements are zero as float32"
_TOGETHER = 1 << 17  # elements that are encoded at a time
SCRATCH = 24 * _TOGETHER
"""Bytes that encoding takes, beside a row that is longer."""


def errors_of(matrix: Matrix, largest: Largest | None, *, exact: bool) -> FormatErrors:
    """The errors of all formats that can take the matrix, in rows that `sampled_rows` chooses; none of a vector.

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
    return sampled_errors(matrix, formats, tiles, exact=exact)


def sampled_errors(
    matrix: Matrix,
    formats: Sequence[Format],
    tiles: F32Array | None = None,
    *,
    exact: bool,
    weights: F32Array | None = None,
) -> FormatErrors:
    """The errors of these formats, which all take the matrix, in rows that `sampled_rows` chooses.

    `tiles`: max abs of every block of 128 x 128, for formats that need it (FP8 of a tensor or a block, NVFP4);
    `weights`: float32 [cols], the importance of columns. Raises ReadError where bytes cannot be read.
    """
    blocks = np.zeros((-(-matrix.rows // TILE), -(-matrix.cols // TILE)), np.float32) if tiles is None else tiles
    sums = ErrorSums(formats, blocks, matrix.rows, weights)
    numbers = sampled_rows(matrix.rows, matrix.cols, exact=exact)
    at_once = max(1, _TOGETHER // matrix.cols)
    row_bytes = matrix.dtype.nbytes(matrix.cols)
    for first in range(0, len(numbers), at_once):
        some = numbers[first : first + at_once]
        raw = np.empty(row_bytes * len(some), np.uint8)
        if isinstance(some, range):
            matrix.read_rows(some.start, len(some), raw.data)
        else:
            for place, number in enumerate(some.tolist()):
                matrix.read_rows(number, 1, raw[place * row_bytes : (place + 1) * row_bytes].data)
        values = widened(raw, matrix.dtype, len(some))
        if not np.isfinite(values).all():
            return FormatErrors.none(matrix.rows, _NOT_FINITE)
        sums.add(values, some)
    found = sums.finish()
    return found if found.squares > 0 else FormatErrors.none(matrix.rows, ZERO)
