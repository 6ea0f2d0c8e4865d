"""A Gram matrix in float64, panel by panel."""

from __future__ import annotations

from math import frexp, isfinite, ldexp

import numpy as np

from netweight.kernels.arrays import Array, F64Array
from netweight.kernels.cpu import lapack
from netweight.kernels.cpu.compiled import compiled

__all__ = ["ScaledGram"]

_SAFE = 200  # exponents up to 2^200 apart are summed as they are: squares and their sums stay far inside float64


@compiled
def _greatest_bits(bits: Array) -> int:
    most = np.int64(0)
    for i in range(len(bits)):
        most = max(most, bits[i] & np.int64(0x7FFFFFFFFFFFFFFF))
    return int(most)


def _greatest(values: F64Array) -> float:
    """The largest absolute value of a contiguous array, infinite or NaN where any element is."""
    # Of non-negative floats the order of the bits is the order of the values, and NaN is above infinity.
    return float(np.int64(_greatest_bits(values.reshape(-1).view(np.int64))).view(np.float64))


class ScaledGram:
    """Sum of panel.T @ panel, times 2^(-2 exponent): a power of two keeps the squares inside float64."""

    def __init__(self, n: int) -> None:
        self._flat = np.zeros(n * n)
        self.matrix: F64Array = self._flat.reshape(n, n, order="F")
        self.exponent = 0
        self.finite = True
        self._begun = False

    def add(self, panel: F64Array, *, transposed: bool) -> None:
        """Take in a C-ordered panel [k, n] ([n, k] where transposed), which may be scaled in place."""
        most = _greatest(panel)
        self.finite = self.finite and isfinite(most)
        if not self.finite or most == 0.0:
            return
        self._make_room(frexp(most)[1])
        self.scale(panel)
        if len(self.matrix) == 1:
            self.matrix[0, 0] += np.square(panel).sum()
        else:
            lapack.add_square(panel, self.matrix, transposed=transposed)

    def _make_room(self, exponent: int) -> None:
        if not self._begun:
            self.exponent = exponent if abs(exponent) > _SAFE else 0
            self._begun = True
        elif exponent > self.exponent + _SAFE:
            self.matrix *= ldexp(1.0, 2 * (self.exponent - exponent))
            self.exponent = exponent

    def scale(self, panel: F64Array) -> None:
        """Panel times 2^-exponent."""
        if self.exponent:
            np.ldexp(panel, -self.exponent, out=panel)

    def shrink(self, keep: Array) -> None:
        """Keep these rows and columns, in the same memory."""
        m = len(keep)
        for j, column in enumerate(keep):
            self._flat[j * m : (j + 1) * m] = self.matrix[keep, column]  # never ahead of what is still to be read
        self.matrix = self._flat[: m * m].reshape(m, m, order="F")

    def cleared(self) -> F64Array:
        """The same memory as a matrix of zeros."""
        self.matrix[:] = 0.0
        return self.matrix
