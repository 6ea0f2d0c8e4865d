"""The seam for singular values: what a backend takes in, and in which form it hands the spectrum over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array, U8Array

__all__ = ["SMALL", "Method", "SingularValues", "SpectrumAccumulator"]

Method = Literal["gram", "qr", "lanczos", "zero", "factors"]
"""How values were computed: from the float64 Gram matrix of the short side, from the R of a QR decomposition, as the
largest of the Gram matrix by Lanczos' method, without any work because all elements are zero, or from the
factors that a product is stored as."""

SMALL = 1e-6
"""Below this ratio of the least to the largest singular value the Gram matrix, which holds squares, is not enough."""


@dataclass(frozen=True, eq=False)
class SingularValues:
    """values: float64 [k], descending, or None where they are undefined, for the `reason` given.

    error: a bound of every value's absolute error in units of the largest one, worst for the least; square_sum: of all
    elements (the square of the Frobenius norm), infinite beyond float64; complete: all min(rows, cols) are given.
    zeros: values at the end that are exactly 0, since whole rows or columns of the short side are.
    """

    values: F64Array | None
    method: Method
    error: float
    square_sum: float
    complete: bool
    reason: str = ""
    zeros: int = 0


class SpectrumAccumulator(Protocol):
    """The singular values of one matrix, from its rows in order; for one thread, and for one matrix.

    The values do not depend on how the rows are divided into blocks.
    """

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        ...

    @property
    def cols(self) -> int:
        """Columns of the matrix."""
        ...

    def add(self, block: U8Array, rows: int) -> None:
        """Take in the native bytes of the next `rows` whole rows; raises ValueError where sizes do not fit."""
        ...

    def look_again(self) -> bool:
        """After a whole reading: True where the small values need the same rows once more, from the first.

        Raises ValueError where rows are missing.
        """
        ...

    def singular_values(self) -> SingularValues:
        """The spectrum; raises ValueError where rows are missing.

        Where `look_again` was True and no second reading followed, the values of the Gram matrix with their error.
        """
        ...
