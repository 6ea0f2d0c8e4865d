"""The seam between merge methods and hardware: arithmetic on blocks of several tensors side by side.

`x` is always float32 or float64 [inputs, count], one row a tensor, in C order; row 0 is the base where there is one.
Arithmetic is done in the type of `x`; sums are float64, by chunks of CHUNK elements, so that they do not depend on how
a stretch is cut into blocks of whole chunks. NaN and infinities go the way that IEEE 754 sends them.

`native` is the same in the inputs' own element type, one that `fuses` names: uint16 patterns of BF16 and F16, float32
for F32. What begins with a native block gives the bits that widening it, the same in float32, and narrowing give, but
goes through the memory only once; C order, like `x`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, F64Array, U8Array, U32Array

__all__ = ["MergeKernels", "Trim"]


@dataclass(frozen=True)
class Trim:
    """What is kept of one model's difference d = x[i] - x[0], and how it counts.

    An element is kept where low <= |d| <= high, and of those with probability `keep`: where the upper 32 bits of
    splitmix64(key, element) are below round(keep * 2^32). Kept elements are multiplied by `factor`, and count with
    `weight`. NaN is kept.
    """

    weight: float
    low: float = 0.0
    high: float = float("inf")
    keep: float = 1.0
    factor: float = 1.0
    key: int = 0


class MergeKernels(Protocol):
    """One backend's arithmetic for merges. Any thread may call any method; nothing is kept between calls."""

    @property
    def name(self) -> str:
        """For results and messages."""
        ...

    def prepare(self, dtypes: Collection[DType], bits: Collection[int]) -> None:
        """Compile or load what these element types and widths (32, 64) need, so that no task waits for it; where all is
        of one type that `fuses` names, only what native blocks need.
        """
        ...

    def widen(self, raw: U8Array, dtype: DType, out: Array) -> None:
        """out float32 or float64 [count] = the elements in `raw` (little-endian bytes, count * dtype.bits / 8)."""
        ...

    def narrow(self, values: Array, dtype: DType, out: U8Array) -> int:
        """Write `values` [count] as `dtype` into `out`, rounded once, half to even: infinite beyond the range, NaN
        where the type has no infinity. Returns how many of the results are not finite.
        """
        ...

    def gram(self, x: Array, total: F64Array) -> None:
        """total float64 [inputs, inputs] += inner products of the rows."""
        ...

    def difference_gram(self, x: Array, total: F64Array) -> None:
        """total float64 [inputs - 1, inputs - 1] += inner products of the differences x[1:] - x[0]."""
        ...

    def combine(self, x: Array, pivot: int, scale: float, factors: Sequence[float], out: Array) -> None:
        """out = scale * x[pivot] + sum over i of factors[i] * (x[i] - x[pivot]); factors[pivot] is not looked at.

        In this form equal inputs give themselves exactly where scale rounds to 1.
        """
        ...

    def count_magnitudes(
        self,
        x: Array,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        """Count the bits of |x[1:] - x[0]| for radix selection: 16 bits at a time, of values that begin with a prefix.

        level: how many 16-bit groups are behind (0: prefixes are [0]); prefixes: per model, sorted, of level * 16 bits;
        counts: per model uint32 [prefixes, 65536], counted up; finer: likewise, only of values that have bits below
        these 16. Models without prefixes are not looked at.
        """
        ...

    def count_scores(
        self, scores: Array, level: int, prefixes: Sequence[int], counts: U32Array, finer: U32Array
    ) -> None:
        """The same for given non-negative scores float32 or float64 [count]: one row."""
        ...

    def merge_differences(
        self,
        x: Array,
        trims: Sequence[Trim],
        start: int,
        *,
        elect: bool,
        normalize: bool,
        scale: float,
        out: Array,
        keep: Array | None = None,
    ) -> None:
        """out = x[0] + scale * m, with v_i = factor_i * (x[i] - x[0]) where it is kept (see Trim), 0 elsewhere.

        m = sum of weight_i * v_i over the models that count. `elect`: only those with sgn(weight_i * v_i) equal to the
        sign of the sum of all weight_i * v_i count, and none where that sum is zero. `normalize`: m is divided by the
        sum of the weights: with `elect` of the models that count at this element, else of all models, kept or not;
        where no model counts, or the weights cancel to exactly 0, m is 0.

        `start`: the number of the first element, for the random numbers. `keep` float32 [models, count]: a probability
        for every element in the place of Trim.keep; kept elements are then divided by it, and `factor` counts besides.
        """
        ...

    def fuses(self, dtype: DType) -> bool:
        """Whether there are the methods below for inputs and outputs of this type, with arithmetic in float32."""
        ...

    def gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """`gram` of a native block."""
        ...

    def difference_gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """`difference_gram` of a native block."""
        ...

    def count_magnitudes_native(
        self,
        native: Array,
        dtype: DType,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        """`count_magnitudes` of a native block."""
        ...

    def combine_native(
        self, native: Array, dtype: DType, pivot: int, scale: float, factors: Sequence[float], out: Array
    ) -> int:
        """`combine` of a native block into a native one, out [count]; returns what `narrow` does."""
        ...

    def merge_differences_native(
        self,
        native: Array,
        dtype: DType,
        trims: Sequence[Trim],
        start: int,
        *,
        elect: bool,
        normalize: bool,
        scale: float,
        out: Array,
    ) -> int:
        """`merge_differences` of a native block into a native one, out [count]; returns what `narrow` does."""
        ...
