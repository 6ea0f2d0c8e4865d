"""Writes of linear combinations: with one coefficient for each input, or one for each input and row, or column.

All have the pivot form: out = scale * x_p + sum of factor_i * (x_i - x_p), where scale is the sum of all coefficients.
Where scale is 1 and the inputs are equal, the output equals them bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from netweight.kernels.arrays import Array, F64Array
from netweight.merging.course import Copy
from netweight.merging.grams import channel_products, symmetric

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.merging import MergeKernels

__all__ = ["ColumnCombine", "Combine", "RowCombine", "Rule", "combination", "snapped"]

Rule: TypeAlias = Callable[[F64Array], F64Array]
"""From Gram matrices float64 [channels, n, n] to coefficients float64 [channels, n]."""

_NEAR_ONE = 1e-12


def snapped(total: float, error: float = 0.0) -> float:
    """`total`, or 1.0 where it is within 1e-12 or `error` of it: such a difference is rounding."""
    return 1.0 if abs(total - 1) <= max(_NEAR_ONE, error) else total


@dataclass(frozen=True)
class Combine:
    """`MergeKernels.combine` of `inputs`, the only ones that are read; `pivot` and `factors` count among them."""

    pivot: int
    scale: float
    factors: tuple[float, ...]
    inputs: tuple[int, ...]
    whole_rows: bool = False

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        """See `Write`."""
        kernels.combine(x, self.pivot, self.scale, self.factors, out)

    def native_block(self, native: Array, dtype: DType, start: int, out: Array, kernels: MergeKernels) -> int:  # noqa: ARG002
        """See `NativeWrite`."""
        return kernels.combine_native(native, dtype, self.pivot, self.scale, self.factors, out)


def combination(
    coefficients: Sequence[float], *, total: float | None = None, base: bool = False, error: float = 0.0
) -> Combine | Copy:
    """The write of sum of coefficients[i] * x_i, over those that are not 0.

    `total`: what the coefficients add up to, where the formula says it (else they are added, and `error` is what
    rounding may have left of a sum of 1). The pivot is input 0 where that is a base that counts, else the input of the
    largest coefficient. One coefficient of 1 alone is a copy.
    """
    inputs = tuple(i for i, a in enumerate(coefficients) if a != 0)
    used = tuple(float(coefficients[i]) for i in inputs)
    if used == (1.0,):
        return Copy(inputs[0])
    if not used:
        return Combine(0, 0.0, (0.0,), (0,))
    scale = snapped(fsum(used), error) if total is None else total
    pivot = 0 if base and inputs[0] == 0 else max(range(len(used)), key=lambda i: abs(used[i]))
    return Combine(pivot, scale, used, inputs)


@dataclass(frozen=True, eq=False)
class RowCombine:
    """Every row by the coefficients that `rule` makes of its own Gram matrix: of the inputs, or with `base` of their
    differences from input 0, to which their combination is then added.
    """

    cols: int
    rule: Rule
    base: bool
    inputs: tuple[int, ...] | None = None
    whole_rows: bool = True

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        """See `Write`."""
        products = channel_products(x, self.cols, differences=self.base)
        with np.errstate(invalid="ignore", over="ignore"):
            coefficients = self.rule(symmetric(products.sum(axis=2)))
        _combine(x.reshape(len(x), -1, self.cols), coefficients.T[:, :, None], out, base=self.base)


@dataclass(frozen=True, eq=False)
class ColumnCombine:
    """Every column by its own coefficients, float64 [cols, n]: of the inputs, or with `base` of their differences from
    input 0, to which their combination is then added.
    """

    coefficients: F64Array
    base: bool
    inputs: tuple[int, ...] | None = None
    whole_rows: bool = True

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        """See `Write`."""
        rows = x.reshape(len(x), -1, len(self.coefficients))
        _combine(rows, self.coefficients.T[:, None, :], out, base=self.base)


def _combine(x: Array, coefficients: F64Array, out: Array, *, base: bool) -> None:
    """out [rows * cols] of `x` [inputs, rows, cols] by coefficients [n, rows, 1] or [n, 1, cols], which are those of
    the inputs after the first where that is a base.
    """
    if base:
        coefficients = np.concatenate([np.zeros_like(coefficients[:1]), coefficients])
        scale, chosen = np.ones_like(coefficients[0]), np.zeros(coefficients[0].shape, np.intp)
    else:
        scale, chosen = coefficients.sum(axis=0), np.abs(coefficients).argmax(axis=0)
        scale[np.abs(scale - 1) <= _NEAR_ONE] = 1
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        pivot = x[0] if base else np.take_along_axis(x, chosen[None], axis=0)[0]
        kept, moved = scale.astype(x.dtype) * pivot, np.zeros_like(pivot)
        for i, factor in enumerate(coefficients):
            counts = (chosen != i) & (factor != 0)
            moved += np.where(counts, factor.astype(x.dtype) * (x[i] - pivot), 0)
        # a step of 0 leaves the sign of a zero alone
        out[:] = np.where(moved == 0, kept, kept + moved).reshape(-1)
