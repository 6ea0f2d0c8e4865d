"""`SpectrumAccumulator` in torch: a float64 Gram matrix panel by panel, its eigenvalues, a QR decomposition.

The same course as kernels.cpu.spectrum: the least singular values, below SMALL of the largest, come from the R of
panels stacked upon each other by QR. A tall matrix is streamed; one that is wider than tall stays on the device as it
is stored. Where only the `leading` values are asked for they are roots of the same eigenvalues, and no small end is
sought. A device without float64 (Apple's) leaves spectra to the CPU: `note` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, sqrt

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import F64Array, U8Array
from netweight.kernels.cpu.lanczos import worth_it
from netweight.kernels.cpu.spectrum import CpuSpectrum, spectrum_bytes
from netweight.kernels.gpu.eigenvalues import eigenvalues
from netweight.kernels.gpu.elements import floats, upload
from netweight.kernels.gpu.grams import ScaledGram, add_qr, singular_values
from netweight.kernels.gpu.memory import guarded, has_float64
from netweight.kernels.spectrum import SMALL, SingularValues, SpectrumAccumulator

__all__ = ["TorchSpectrum", "torch_spectrum_bytes"]

_EPS = 2.0**-52
_PANEL = 1 << 23  # elements that are widened at a time
_STEP = 256  # of the long side, at least
_LONG_STEP = 4096  # of the long side, at most: the error of a sum grows with the length of its pieces


def _step(short: int, long: int) -> int:
    """Rows (or columns, of a wide matrix) that are widened at a time."""
    if short == 1:
        return min(long, _PANEL)
    return min(long, max(_STEP, min(_LONG_STEP, _PANEL // short)))


def torch_spectrum_bytes(
    dtype: DType, rows: int, cols: int, leading: int | None = None, device: torch.device | str = "cuda"
) -> int:
    """Memory of the host that the accumulator takes at most, in bytes: values alone, where the device has float64."""
    if not has_float64(torch.device(device)):
        return spectrum_bytes(dtype, rows, cols, leading)
    return 8 * 8 * min(rows, cols)


class _Course:
    """The spectrum of one matrix on one device."""

    def __init__(self, device: torch.device, dtype: DType, rows: int, cols: int, leading: int | None) -> None:
        self._device, self._dtype = device, dtype
        self._row_bytes = dtype.nbytes(cols)
        self.rows, self.cols = rows, cols
        tall, self._width = (cols, 1) if rows == 1 else (rows, cols)  # a single row is a column
        self._short, self._long = min(tall, self._width), max(tall, self._width)
        self._wide = tall < self._width
        self._leading = leading if worth_it(leading, self._short) else None
        self._seen = 0  # rows of this reading
        self._filled = 0  # bytes of the panel
        self._result: SingularValues | None = None
        self._triangle: torch.Tensor | None = None
        if not self._short:
            self._result = SingularValues(np.zeros(0), "zero", 0.0, 0.0, complete=True)
            return
        self._gram = ScaledGram(self._short, device, any_exponent=dtype.name == "F64")
        self._step = _step(self._short, self._long)
        self._keep = torch.arange(self._short, device=device)
        # The Gram matrix of rows needs all of them at once.
        elements = rows * cols if self._wide else self._step * self._width
        self._held = torch.empty(dtype.nbytes(elements), dtype=torch.uint8, device=device)

    def add(self, block: U8Array, rows: int) -> None:
        size = rows * self._row_bytes
        if len(block) < size or self._seen + rows > self.rows:
            raise ValueError(
                f"rows {self._seen} to {self._seen + rows} in {len(block)} bytes:"
                f" expected at most {self.rows} rows of {self._row_bytes} bytes each"
            )
        self._seen += rows
        if not self._short or not rows or not self._gram.finite:
            return
        native = upload(block[:size], self._device)
        taken = 0
        while taken < size:
            count = min(size - taken, len(self._held) - self._filled)
            self._held[self._filled : self._filled + count] = native[taken : taken + count]
            taken += count
            self._filled += count
            if self._filled == len(self._held) and not self._wide:
                self._flush()

    def _flush(self) -> None:
        """Take in the rows of the panel."""
        panel = floats(self._held[: self._filled], self._dtype, torch.float64).view(-1, self._width)
        self._filled = 0
        if self._triangle is None:
            self._gram.add(panel)
        elif len(panel):
            self._gram.scale(panel)
            self._triangle = add_qr(self._triangle, panel[:, self._keep])

    def look_again(self) -> bool:
        self.singular_values()
        return self._triangle is not None

    def singular_values(self) -> SingularValues:
        if self._result is not None and (self._triangle is None or not self._seen):
            return self._result  # finished, or the second reading has not begun
        if self._seen < self.rows:
            raise ValueError(f"{self._seen} rows were given: expected {self.rows}")
        if self._filled and not self._wide:
            self._flush()
        if self._triangle is not None:
            self._result = self._of_triangle(self._triangle)
            self._triangle = None
        else:
            self._result = self._of_gram()
        if self._triangle is None:
            self._gram = ScaledGram(0, self._device, any_exponent=False)  # memory goes back while this is still held
            self._held = self._held[:0].clone()
        return self._result

    def _strips(self) -> Iterator[torch.Tensor]:
        """float64 [w, rows]: columns of the rows that are held."""
        held = self._held.view(self._short, -1)
        size = self._dtype.bits // 8
        for first in range(0, self._width, self._step):
            strip = held[:, size * first : size * min(first + self._step, self._width)]
            strip = strip.clone(memory_format=torch.contiguous_format)  # what comes of it may be scaled in place
            yield floats(strip.view(-1), self._dtype, torch.float64).view(self._short, -1).T

    def _of_gram(self) -> SingularValues:
        gram = self._gram
        for strip in self._strips() if self._wide else ():
            gram.add(strip)
        diagonal: F64Array = gram.matrix.diagonal().cpu().numpy().copy()
        if not gram.finite or not np.isfinite(diagonal).all():
            return SingularValues(None, "gram", inf, inf, complete=False, reason="elements that are NaN or infinite")
        squares = float(diagonal.sum())
        if squares == 0.0:
            return SingularValues(np.zeros(self._short), "zero", 0.0, 0.0, complete=True)
        square_sum = self._square_sum(squares)
        keep = np.flatnonzero(diagonal)
        if len(keep) < self._short:
            self._keep = torch.from_numpy(keep).to(self._device)
            gram.shrink(self._keep)
        of_gram = eigenvalues(gram.matrix).flip(0).numpy() if self._short > 1 else diagonal
        roots: F64Array = np.sqrt(np.maximum(of_gram, 0.0))
        # Worst case of sums in pieces, and of eigenvalues, in units of the largest eigenvalue (Higham 2002, 3.1; LAPACK
        # Users' Guide, 4.7).
        piece = self._step if self._short > 1 else 64  # sums of vectors are formed as trees
        relative = _EPS * (self._short + piece + -(-self._long // self._step))
        if self._leading:
            values = self._padded(roots)[: self._leading]
            return SingularValues(values, "gram", _error(relative, values), square_sum, complete=False)
        if roots[-1] < SMALL * roots[0]:
            self._triangle = torch.zeros_like(gram.matrix)
            gram.matrix = gram.matrix[:0]
            if self._wide:
                return self._of_held()
            self._seen = 0
        error = _error(relative, roots)
        return SingularValues(self._padded(roots), "gram", error, square_sum, complete=True, zeros=self._zeros)

    def _of_held(self) -> SingularValues:
        triangle, self._triangle = self._triangle, None
        assert triangle is not None  # noqa: S101 - the caller has made it
        for strip in self._strips():
            self._gram.scale(strip)
            triangle = add_qr(triangle, strip[:, self._keep])
        return self._of_triangle(triangle)

    def _of_triangle(self, triangle: torch.Tensor) -> SingularValues:
        squares = float(triangle.square().sum())  # an orthogonal factor leaves the norm as it is
        roots: F64Array = singular_values(triangle).numpy()
        error = _EPS * (8 + self._short + -(-self._long // self._step))  # Higham 2002, 19.3, as grown in practice
        square_sum = self._square_sum(squares)
        return SingularValues(self._padded(roots), "qr", error, square_sum, complete=True, zeros=self._zeros)

    @property
    def _zeros(self) -> int:
        """Rows or columns of the short side that are zero."""
        return self._short - len(self._keep)

    def _padded(self, roots: F64Array) -> F64Array:
        """Unscaled, with the zeros of the rows or columns that were left out."""
        with np.errstate(over="ignore", under="ignore"):
            every = np.concatenate([roots, np.zeros(self._short - len(roots))])
            values: F64Array = np.ldexp(every, self._gram.exponent)
        return values

    def _square_sum(self, scaled: float) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.ldexp(scaled, 2 * self._gram.exponent))


def _error(relative: float, values: F64Array) -> float:
    """Of the least of the values, in units of the largest, where squares are known to `relative`."""
    ratio = float(values[-1] / values[0])
    return min(sqrt(relative), relative / (2 * ratio)) if ratio else sqrt(relative)


class TorchSpectrum:
    """kernels.spectrum.SpectrumAccumulator in torch, or the CPU's where the device has no float64."""

    def __init__(
        self, device: torch.device | str, dtype: DType, rows: int, cols: int, leading: int | None = None
    ) -> None:
        """Raises DeviceOutOfMemory, DeviceLost, as all methods do."""
        self._device = torch.device(device)
        self.rows, self.cols = rows, cols
        self.note = ""
        self._course: SpectrumAccumulator
        if has_float64(self._device):
            with guarded(self._device):
                self._course = _Course(self._device, dtype, rows, cols, leading)
        else:
            self.note = f"{self._device} has no float64: spectra are computed on the CPU"
            self._course = CpuSpectrum(dtype, rows, cols, leading)

    def add(self, block: U8Array, rows: int) -> None:
        """See the protocol."""
        with guarded(self._device):
            self._course.add(block, rows)

    def look_again(self) -> bool:
        """See the protocol."""
        with guarded(self._device):
            return self._course.look_again()

    def singular_values(self) -> SingularValues:
        """See the protocol."""
        with guarded(self._device):
            return self._course.singular_values()
