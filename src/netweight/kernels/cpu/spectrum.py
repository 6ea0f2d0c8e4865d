"""`SpectrumAccumulator` on the CPU: a Gram matrix panel by panel, its eigenvalues, and a QR decomposition where needed.

The singular values of W are the roots of the eigenvalues of the Gram matrix of its short side, exact to about
eps sigma_1^2 / sigma_i. Small ones are computed again from the R of a QR decomposition of panels stacked upon each
other, exact to eps sigma_1 (Golub and Van Loan, Matrix Computations, 8.6). No element is left out in either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, sqrt

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import F64Array, U8Array
from netweight.kernels.cpu import lapack
from netweight.kernels.cpu.elements import native_rows, widen_rows
from netweight.kernels.cpu.grams import ScaledGram
from netweight.kernels.cpu.lanczos import basis_bytes, largest, worth_it
from netweight.kernels.spectrum import SMALL, SingularValues

__all__ = ["CpuSpectrum", "spectrum_bytes"]

_EPS = 2.0**-52
_PANEL = 1 << 20  # elements that are widened at a time
_STEP = 256  # of the long side, at least: BLAS is slow for fewer
_LONG_STEP = 4096  # of the long side, at most: the error of a sum grows with the length of its pieces
_SAFE = 200  # exponents up to 2^200 apart are summed as they are: squares and their sums stay far inside float64


def _step(short: int, long: int) -> int:
    """Rows (or columns, of a wide matrix) that are widened at a time."""
    if short == 1:
        return min(long, _PANEL)
    return min(long, max(_STEP, min(_LONG_STEP, _PANEL // short)))


def _sides(rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns as they are worked on: a single row is a column."""
    return (cols, 1) if rows == 1 else (rows, cols)


def spectrum_bytes(dtype: DType, rows: int, cols: int, leading: int | None = None) -> int:
    """Memory that the accumulator takes at most, in bytes."""
    rows, cols = _sides(rows, cols)
    short, long = min(rows, cols), max(rows, cols)
    if not short:
        return 0
    held = dtype.nbytes(rows * cols) if rows < cols else 0
    panels = 2 * 8 * short * _step(short, long)
    basis = basis_bytes(leading, short) if leading and worth_it(leading, short) else 0
    return held + panels + 8 * short * (short + lapack.WORK_ROWS + 16) + basis


class CpuSpectrum:
    """kernels.spectrum.SpectrumAccumulator with LAPACK."""

    def __init__(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> None:
        self._dtype = dtype
        self._row_bytes = dtype.nbytes(cols)
        self.rows, self.cols = rows, cols
        tall, self._width = _sides(rows, cols)
        self._short, self._long = min(tall, self._width), max(tall, self._width)
        self._wide = tall < self._width
        self._leading = leading if worth_it(leading, self._short) else None
        self._seen = 0  # rows of this reading
        self._filled = 0  # rows of the panel
        self._result: SingularValues | None = None
        self._triangle: F64Array | None = None
        if not self._short:
            self._result = SingularValues(np.zeros(0), "zero", 0.0, 0.0, complete=True)
            return
        self._gram = ScaledGram(self._short)
        self._step = _step(self._short, self._long)
        self._panel = np.empty(self._short * self._step)
        self._keep = np.arange(self._short)
        # The Gram matrix of rows needs all of them at once.
        self._held = np.empty(rows * self._row_bytes if self._wide else 0, np.uint8)

    def add(self, block: U8Array, rows: int) -> None:
        """See the protocol."""
        size = rows * self._row_bytes
        if len(block) < size or self._seen + rows > self.rows:
            raise ValueError(
                f"rows {self._seen} to {self._seen + rows} in {len(block)} bytes:"
                f" expected at most {self.rows} rows of {self._row_bytes} bytes each"
            )
        first, self._seen = self._seen, self._seen + rows
        if not self._short or not rows or not self._gram.finite:
            return
        if self._wide:
            self._held[first * self._row_bytes : first * self._row_bytes + size] = block[:size]
            return
        whole = native_rows(block[:size], self._dtype, self._width)
        panel = self._panel.reshape(-1, self._width)
        taken = 0
        while taken < len(whole):
            count = min(len(whole) - taken, len(panel) - self._filled)
            widen_rows(whole[taken : taken + count], self._dtype, 0, panel[self._filled : self._filled + count])
            taken += count
            self._filled += count
            if self._filled == len(panel):
                self._flush()

    def look_again(self) -> bool:
        """See the protocol."""
        self._finish()
        return self._triangle is not None

    def singular_values(self) -> SingularValues:
        """See the protocol."""
        return self._finish()

    def _flush(self) -> None:
        """Take in the rows of the panel."""
        panel = self._panel.reshape(-1, self._width)[: self._filled]
        self._filled = 0
        if self._triangle is None:
            self._gram.add(panel, transposed=False)
        elif len(panel):
            self._gram.scale(panel)
            lapack.add_qr(self._triangle, np.ascontiguousarray(panel.T[self._keep]))

    def _finish(self) -> SingularValues:
        if self._result is not None and self._triangle is None:
            return self._result
        if self._result is not None and not self._seen:
            return self._result  # the second reading has not begun
        if self._seen < self.rows:
            raise ValueError(f"{self._seen} rows were given: expected {self.rows}")
        if self._triangle is not None:
            self._flush()
            self._result = self._of_triangle(self._triangle)
            self._triangle = None
        else:
            self._result = self._of_gram()
        if self._triangle is None:
            self._release()
        return self._result

    def _release(self) -> None:
        """Give memory back while the accumulator is still held."""
        del self._gram, self._panel, self._held

    def _strips(self) -> Iterator[F64Array]:
        """The held rows, widened in strips of columns [rows, w]; each one is valid until the next."""
        held = native_rows(self._held, self._dtype, self._width)
        for first in range(0, self._width, self._step):
            width = min(self._step, self._width - first)
            strip = self._panel[: self._short * width].reshape(self._short, width)
            widen_rows(held, self._dtype, first, strip)
            yield strip

    def _of_gram(self) -> SingularValues:
        gram = self._gram
        if self._wide:
            for strip in self._strips():
                gram.add(strip, transposed=True)
        else:
            self._flush()
        if not gram.finite:
            return SingularValues(None, "gram", inf, inf, complete=False, reason="elements that are NaN or infinite")
        diagonal = np.diagonal(gram.matrix).copy()
        squares = float(diagonal.sum())
        if squares == 0.0:
            return SingularValues(np.zeros(self._short), "zero", 0.0, 0.0, complete=True)
        square_sum = self._square_sum(squares)
        # Worst case of sums in pieces, and of eigenvalues, in units of the largest eigenvalue (Higham 2002, 3.1; LAPACK
        # Users' Guide, 4.7).
        piece = self._step if self._short > 1 else 64  # numpy sums vectors in pairs
        relative = _EPS * (self._short + piece + -(-self._long // self._step))
        if self._leading and (pairs := largest(gram.matrix, self._leading)) is not None:
            roots, residual = np.sqrt(pairs.values), pairs.residual + relative * float(pairs.values[0])
            error = min(sqrt(residual), residual / float(roots[-1])) / float(roots[0]) if roots[-1] else inf
            return SingularValues(self._unscaled(roots), "lanczos", error, square_sum, complete=False)
        self._keep = np.flatnonzero(diagonal)
        if len(self._keep) < self._short:
            gram.shrink(self._keep)
        roots = (
            np.sqrt(np.maximum(lapack.eigenvalues(gram.matrix)[::-1], 0.0)) if self._short > 1 else np.sqrt(diagonal)
        )
        ratio = float(roots[-1] / roots[0])
        if ratio < SMALL and self._wide:
            return self._of_triangle(self._qr_of_strips())
        if ratio < SMALL:
            self._triangle, self._seen = gram.cleared(), 0
        error = min(sqrt(relative), relative / (2 * ratio)) if ratio else sqrt(relative)
        return SingularValues(self._padded(roots), "gram", error, square_sum, complete=True, zeros=self._zeros)

    def _qr_of_strips(self) -> F64Array:
        triangle = self._gram.cleared()
        for strip in self._strips():
            self._gram.scale(strip)
            lapack.add_qr(triangle, strip if len(self._keep) == self._short else strip[self._keep])
        return triangle

    def _of_triangle(self, triangle: F64Array) -> SingularValues:
        squares = float(np.square(triangle).sum())  # an orthogonal factor leaves the norm as it is
        roots = lapack.singular_values(triangle)
        error = _EPS * (8 + self._short + -(-self._long // self._step))  # Higham 2002, 19.3, as grown in practice
        square_sum = self._square_sum(squares)
        return SingularValues(self._padded(roots), "qr", error, square_sum, complete=True, zeros=self._zeros)

    @property
    def _zeros(self) -> int:
        """Rows or columns of the short side that are zero."""
        return self._short - len(self._keep)

    def _padded(self, roots: F64Array) -> F64Array:
        """Unscaled, with the zeros of the rows or columns that were left out."""
        return self._unscaled(np.concatenate([roots, np.zeros(self._short - len(roots))]))

    def _unscaled(self, roots: F64Array) -> F64Array:
        with np.errstate(over="ignore", under="ignore"):
            values: F64Array = np.ldexp(roots, self._gram.exponent)
        return values

    def _square_sum(self, scaled: float) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.ldexp(scaled, 2 * self._gram.exponent))
