"""The spectrum of a matrix whose elements are in random order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netweight.statistics.spectrum import Spectrum

if TYPE_CHECKING:
    from netweight.checkpoint.matrix import Matrix
    from netweight.passes.matrices import Scratch

__all__ = ["held_bytes", "permuted_spectra", "replicas"]

_HELD = 1 << 28  # bytes of elements that are permuted at a time
_FEW = 100  # WeightWatcher's: a shorter side below it has too few eigenvalues for one order
_REPLICAS = 5


def replicas(rows: int, cols: int) -> int:
    """How many orders are drawn: one, or five for a matrix with a side below 100, as WeightWatcher does."""
    return _REPLICAS if min(rows, cols) < _FEW else 1


def held_bytes(row_bytes: int, rows: int) -> int:
    """Memory that permuting takes at most, beside the spectrum's own."""
    return min(row_bytes * rows, max(_HELD, row_bytes))


def permuted_spectra(matrix: Matrix, scratch: Scratch, seed: int) -> tuple[Spectrum, ...]:
    """The spectra of the elements of a matrix of two rows and columns or more in orders that follow from `seed` alone.

    The order is that of numpy's frozen RandomState. Beyond 256 MiB, elements change places within the rows b, b + n,
    b + 2 n ... of n stretches, so that rows of one kind are in all of them. Small singular values are those of the Gram
    matrix. Raises ReadError where bytes cannot be read.
    """
    random = np.random.RandomState(seed)
    row_bytes = matrix.dtype.nbytes(matrix.cols)
    stretches = -(-matrix.rows * row_bytes // max(_HELD, row_bytes))
    found = []
    for _ in range(replicas(matrix.rows, matrix.cols)):
        accumulator = scratch.kernels.spectrum(matrix.dtype, matrix.rows, matrix.cols, None)
        for first in range(stretches):
            held = _rows(matrix, first, stretches)
            random.shuffle(held.reshape(-1).view(f"u{matrix.dtype.bits // 8}"))
            at_once = max(1, scratch.nbytes // row_bytes)
            for top in range(0, len(held), at_once):
                block = held[top : top + at_once]
                accumulator.add(block.reshape(-1), len(block))
        accumulator.look_again()
        found.append(Spectrum.of(accumulator))
    return tuple(found)


def _rows(matrix: Matrix, first: int, step: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """uint8 [rows, bytes of a row]: the native bytes of every `step`-th row from `first`."""
    numbers = range(first, matrix.rows, step)
    held = np.empty((len(numbers), matrix.dtype.nbytes(matrix.cols)), np.uint8)
    if step == 1:
        matrix.read_rows(0, matrix.rows, held.reshape(-1).data)
    else:
        for row, number in zip(held, numbers, strict=True):
            matrix.read_rows(number, 1, row.data)
    return held
