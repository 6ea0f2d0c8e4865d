"""The heads of an attention projection: how large each is, and how far from noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from netweight.dtypes import DType
from netweight.statistics.formats.errors import widened

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array, F64Array, U8Array

__all__ = ["HeadSums", "Heads"]


@dataclass(frozen=True)
class Heads:
    """Of every head, float64 [heads]: `rms` of its elements; `noise`: its largest singular value over rms (sqrt rows +
    sqrt cols), what noise of its size and variance has, nan for a head of zeros. Each is a matrix [size, width].
    """

    size: int
    rms: F64Array
    noise: F64Array


class HeadSums:
    """Gathers the heads of a matrix from blocks of whole rows in order: a `BlockSink`.

    `axis` 0: `size` neighbouring rows are a head; 1: columns. Memory: float32 of a head's rows, or a Gram matrix
    float64 [size, size] for each head.
    """

    def __init__(self, dtype: DType, rows: int, cols: int, axis: int, size: int) -> None:
        self._dtype = dtype
        self._shape = (rows, cols)
        self._axis = axis
        self._size = size
        self._count = (rows, cols)[axis] // size
        self._grams = np.zeros((self._count, size, size)) if axis else None
        self._room: F32Array = np.empty((0 if axis else size, cols), np.float32)
        self._filled = 0
        self._squares: list[float] = []
        self._largest: list[float] = []

    @staticmethod
    def nbytes(cols: int, axis: int, size: int) -> int:
        """Memory that it takes, with what a block is widened to for a moment."""
        return (cols // size * size * size * 16 if axis else 8 * size * cols) + 24 * size * size + 3 * (1 << 23)

    def add(self, block: U8Array, rows: int) -> None:
        """Take in `rows` whole rows."""
        values = widened(block, self._dtype, rows)
        with np.errstate(invalid="ignore", over="ignore"):
            if self._grams is not None:
                heads = values.reshape(rows, self._count, self._size).transpose(1, 2, 0)
                self._grams += np.matmul(heads, heads.transpose(0, 2, 1))
                return
            while len(values):
                taken = min(len(values), self._size - self._filled)
                self._room[self._filled : self._filled + taken] = values[:taken]
                values = values[taken:]
                self._filled += taken
                if self._filled == self._size:
                    short = self._room if self._size <= self._shape[1] else self._room.T
                    self._take(np.matmul(short, short.T, dtype=np.float32).astype(np.float64))
                    self._filled = 0

    def _take(self, gram: F64Array) -> None:
        finite = bool(np.isfinite(gram).all())
        self._squares.append(float(np.trace(gram)) if finite else np.nan)
        self._largest.append(float(np.linalg.eigvalsh(gram)[-1]) if finite else np.nan)

    def finish(self) -> Heads | None:
        """The heads; None where one has elements that are not finite, or squares beyond float32."""
        for gram in () if self._grams is None else self._grams:
            self._take(gram)
        squares, largest = np.array(self._squares), np.array(self._largest)
        if not np.isfinite(squares).all():
            return None
        long = self._shape[1 - self._axis]
        rms = np.sqrt(squares / (self._size * long))
        edge = rms * (sqrt(self._size) + sqrt(long))
        noise = np.divide(np.sqrt(np.maximum(largest, 0)), edge, out=np.full(len(rms), np.nan), where=edge > 0)
        return Heads(self._size, rms, noise)
