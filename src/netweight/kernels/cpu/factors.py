"""`FactorKernels` on the CPU: BLAS and LAPACK, by numpy, which gives the interpreter's lock back meanwhile."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from netweight.kernels.arrays import Array, F32Array, F64Array
from netweight.kernels.cpu import lapack

__all__ = ["CpuFactorKernels"]

_STRIP = 1 << 20  # elements that are widened at a time for the Gram matrix of rows


class CpuFactorKernels:
    """kernels.factors.FactorKernels in numpy; `name` is "cpu"."""

    name = "cpu"

    def load(self, block: F32Array) -> F32Array:
        """See the protocol."""
        return block

    def send(self, panel: Array, *, wide: bool) -> Array:
        """See the protocol."""
        return np.ascontiguousarray(panel, np.float64 if wide else np.float32)

    def total(self, rows: int, cols: int) -> F64Array:
        """See the protocol."""
        return np.zeros((rows, cols))

    def fetch(self, total: F64Array) -> F64Array:
        """See the protocol."""
        return total

    def add_sketch(self, block: F32Array, panel: Array, total: F64Array) -> None:
        """See the protocol."""
        x = block.astype(panel.dtype, copy=False)
        total += x.T @ (x @ panel)

    def add_lifted(self, block: F32Array, rows: Array, total: F64Array) -> None:
        """See the protocol."""
        total += block.astype(rows.dtype, copy=False).T @ rows

    def add_image_gram(self, block: F32Array, panel: Array, total: F64Array) -> None:
        """See the protocol."""
        y = (block.astype(panel.dtype, copy=False) @ panel).astype(np.float64, copy=False)
        total += y.T @ y

    def add_gram(self, block: F32Array, total: F64Array) -> None:
        """See the protocol."""
        # the upper triangle in C order, and so the lower one of Fortran's
        lapack.add_square(block.astype(np.float64), total, transposed=False)

    def row_gram(self, blocks: list[F32Array]) -> F64Array:
        """See the protocol."""
        rows, cols = sum(map(len, blocks)), blocks[0].shape[1]
        total = np.zeros((rows, rows))
        ends = list(accumulate(map(len, blocks)))
        step = max(64, min(cols, _STRIP // rows))
        for first in range(0, cols, step):
            strip = np.empty((rows, min(step, cols - first)))
            for block, end in zip(blocks, ends, strict=True):
                strip[end - len(block) : end] = block[:, first : first + strip.shape[1]]
            lapack.add_square(strip, total, transposed=True)
        return total

    def eigen(self, total: F64Array) -> tuple[F64Array, F64Array]:
        """See the protocol."""
        values, vectors = np.linalg.eigh(total, UPLO="U")
        return values, vectors

    def image(self, block: F32Array, panel: Array) -> Array:
        """See the protocol."""
        product: Array = block.astype(panel.dtype, copy=False) @ panel
        return product

    def residual(self, block: F32Array, left: Array, right: F64Array) -> float:
        """See the protocol."""
        rest = block.astype(np.float64)
        rest -= left.astype(np.float64) @ right
        return float(np.vdot(rest, rest))
