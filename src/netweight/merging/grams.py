"""Gram matrices of a parameter's inputs, or of their differences from the base, gathered by looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netweight.kernels.arrays import Array, F64Array

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.merging import MergeKernels

__all__ = ["ColumnGramLook", "GramLook", "channel_products", "symmetric"]


@dataclass(frozen=True)
class GramLook:
    """The Gram matrix float64 [n, n] of all inputs, or with `differences` of the inputs after the first minus that
    one. NaN and infinities follow IEEE 754.
    """

    differences: bool = False
    in_any_order: ClassVar[bool] = False
    whole_rows: bool = False

    def empty(self, inputs: int) -> F64Array:
        """float64 [n, n] of zeros."""
        n = inputs - self.differences
        return np.zeros((n, n))

    def add(self, statistic: F64Array, x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        """See `Look`."""
        if self.differences:
            kernels.difference_gram(x, statistic)
        else:
            kernels.gram(x, statistic)

    def add_native(self, statistic: F64Array, native: Array, dtype: DType, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002
        """See `NativeLook`."""
        if self.differences:
            kernels.difference_gram_native(native, dtype, statistic)
        else:
            kernels.gram_native(native, dtype, statistic)

    def merged(self, statistics: Sequence[F64Array]) -> F64Array:
        """The sum over the stretches, in their order."""
        return _sum(statistics)


@dataclass(frozen=True)
class ColumnGramLook:
    """One Gram matrix for every column, float64 [cols, n, n]; a column's elements are `cols` apart.

    A stretch keeps n (n + 1) / 2 numbers for every column. Rows are added one by one: the size of blocks does not
    change the sums.
    """

    cols: int
    differences: bool = False
    in_any_order: ClassVar[bool] = False
    whole_rows: bool = True

    def empty(self, inputs: int) -> F64Array:
        """float64 [pairs, cols] of zeros."""
        n = inputs - self.differences
        return np.zeros((n * (n + 1) // 2, self.cols))

    def add(self, statistic: F64Array, x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        """See `Look`."""
        for products in np.moveaxis(channel_products(x, self.cols, differences=self.differences), 1, 0):
            statistic += products

    def merged(self, statistics: Sequence[F64Array]) -> F64Array:
        """The sum over the stretches, in their order."""
        return symmetric(_sum(statistics))


def _sum(statistics: Sequence[F64Array]) -> F64Array:
    total = np.zeros_like(statistics[0])
    for part in statistics:
        total += part
    return total


def channel_products(x: Array, cols: int, *, differences: bool) -> F64Array:
    """float64 [pairs, rows, cols]: the elements' products, for every pair of inputs (or of differences from the first)
    in the order of the upper triangle. `x` [inputs, rows * cols].
    """
    rows = x.reshape(len(x), -1, cols)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if differences:
            rows = rows[1:] - rows[0]
        return np.stack(
            [np.multiply(rows[i], rows[j], dtype=np.float64) for i, j in zip(*np.triu_indices(len(rows)), strict=True)]
        )


def symmetric(upper: F64Array) -> F64Array:
    """float64 [channels, n, n] of the upper triangles float64 [n (n + 1) / 2, channels]."""
    n = round((np.sqrt(8 * len(upper) + 1) - 1) / 2)
    i, j = np.triu_indices(n)
    full = np.empty((upper.shape[1], n, n))
    full[:, i, j] = full[:, j, i] = upper.T
    return full
