"""A matrix in memory, for what reads matrices."""

from __future__ import annotations

import numpy as np

from netweight.dtypes import DTYPES


class ArrayMatrix:
    """`checkpoint.matrix.Matrix` over an array of the element type `name`."""

    def __init__(self, array, name):
        self.name = "an array"
        self.dtype = DTYPES[name]
        self.rows, self.cols = array.shape
        self.size = array.size
        self._bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.bytes_read = 0

    def _copy(self, first, count, out):
        start, stop = self.dtype.nbytes(first), self.dtype.nbytes(first + count)
        assert len(out) == stop - start
        self.bytes_read += len(out)
        np.frombuffer(out, np.uint8)[:] = self._bytes[start:stop]

    def read_rows(self, first, count, out):
        self._copy(first * self.cols, count * self.cols, out)

    def read_cells(self, row, first, count, out):
        assert first + count <= self.cols
        self._copy(row * self.cols + first, count, out)
