"""The seam for truncated factorisations: products of blocks of rows of a matrix D [m, n] with thin panels.

A block is float32 [k, n], some rows of D, where `load` has put it. Products are taken in float32, or in float64 where
`wide`; sums over blocks are float64 totals, which stay where they are summed until `fetch`. Which products are needed,
and what follows from them, is decided in statistics/singular_vectors.py and statistics/factorisation.py.
"""

from __future__ import annotations

from typing import Any, Protocol

from netweight.kernels.arrays import Array, F32Array, F64Array

__all__ = ["FactorKernels"]


class FactorKernels(Protocol):
    """One backend. Any thread may call any method; nothing is kept between calls."""

    @property
    def name(self) -> str:
        """For results and messages."""
        ...

    def load(self, block: F32Array) -> Any:
        """A block for the methods below; where it computes on the host, the array itself."""
        ...

    def send(self, panel: Array, *, wide: bool) -> Any:
        """A panel [n, b] for the methods below, in float32, or float64 where `wide`."""
        ...

    def total(self, rows: int, cols: int) -> Any:
        """A total float64 [rows, cols] of zeros."""
        ...

    def fetch(self, total: Any) -> F64Array:
        """A total on the host, in C order."""
        ...

    def add_sketch(self, block: Any, panel: Any, total: Any) -> None:
        """Total [n, b] += block^T (block panel)."""
        ...

    def add_lifted(self, block: Any, rows: Any, total: Any) -> None:
        """Total [n, b] += block^T rows, for a panel of rows [k, b]."""
        ...

    def add_image_gram(self, block: Any, panel: Any, total: Any) -> None:
        """Total [b, b] += Y^T Y, with Y = block panel; the sum in float64."""
        ...

    def add_gram(self, block: Any, total: Any) -> None:
        """Total [n, n] += block^T block in float64, for `eigen`: only one triangle of it is summed."""
        ...

    def row_gram(self, blocks: list[Any]) -> Any:
        """Total [m, m] of D D^T in float64, for `eigen`, from all blocks of D in order."""
        ...

    def eigen(self, total: Any) -> tuple[F64Array, F64Array]:
        """Eigenvalues [n], ascending, and eigenvectors [n, n] in columns, of what the two methods above give."""
        ...

    def image(self, block: Any, panel: Any) -> Array:
        """The product block panel [k, b] on the host, in the panel's type."""
        ...

    def residual(self, block: Any, left: Array, right: Any) -> float:
        """The sum of squares of block - left right in float64, for left [k, r] of the host and a wide panel [r, n]."""
        ...
