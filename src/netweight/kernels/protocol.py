"""The seam between statistics and hardware: what a backend must count and sum, and in which form it hands it over.

A backend never decides what a number means; it fills `DifferencePartial` and `counts` arrays, and the statistics above
merge them. Results are the same for any division of a tensor into blocks that are multiples of `CHUNK`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, F64Array, U8Array, U32Array, U64Array
from netweight.kernels.packing import Packed, pack, unpack

if TYPE_CHECKING:
    from netweight.kernels.channels import ChannelAccumulator
    from netweight.kernels.pairs import PairAccumulator
    from netweight.kernels.spectrum import SpectrumAccumulator
    from netweight.kernels.values import PatternAccumulator, ValuesAccumulator

__all__ = ["CHUNK", "MOVED", "DifferenceAccumulator", "DifferencePartial", "Kernels", "RefineAccumulator", "Window"]

CHUNK = 4096
"""Elements whose sums are formed together: small enough for the first cache, fixed so that sums never depend on
blocks."""

MOVED = 1 << 17
"""Residual values of one model and stretch that go from process to process, at most: where there are more, looking at
the data again is cheaper."""


@dataclass(frozen=True)
class Window:
    """How a value's bits are split: `width` bits in all, the leading 16 index the histogram, the rest is the
    residue.
    """

    width: int

    @property
    def shift(self) -> int:
        """Bits below the leading 16."""
        return self.width - 16


@dataclass(frozen=True)
class DifferencePartial:
    """The statistics of one pass over a stretch of a parameter, for N models.

    A value is *coarse* where all bits below its leading 16 are zero: the histogram alone then holds it exactly. Every
    other value is *residual*. Differences of neighbouring bfloat16 numbers are nearly always coarse.

    counts: uint32 [N, 65536], all values by their leading 16 bits (sign, exponent, first mantissa bits);
    residual_counts: the same for residual values only, finite or not;
    residual_sums: float64 [N, 8] over finite residual values: n, mean, M2, M3, M4 (central), sum of abs, min, max;
    residuals: per model the bits of the residual values whose leading 16 bits were asked for, or None where there were
    more than fit; gram: float64 [N, N], the products of the models' differences summed (the diagonal is left 0: the
    moments hold it); base_square: float64, the sum of squares of the finite base values.
    """

    window: Window
    counts: U32Array
    residual_counts: U32Array
    residual_sums: F64Array
    residuals: tuple[Array | None, ...]
    gram: F64Array
    base_square: float

    def __reduce__(self) -> tuple[Any, ...]:
        """Counts packed; of a model with more than MOVED residual values, those stay behind."""
        coarse = self.counts - self.residual_counts
        residuals = tuple(None if r is None or len(r) > MOVED else r for r in self.residuals)
        rest = (self.residual_sums, residuals, self.gram, self.base_square)
        return _unpacked, (self.window, pack(coarse), pack(self.residual_counts), *rest)


def _unpacked(window: Window, coarse: Packed, residual: Packed, *rest: Any) -> DifferencePartial:
    residual_counts = unpack(residual)
    return DifferencePartial(window, unpack(coarse) + residual_counts, residual_counts, *rest)


class DifferenceAccumulator(Protocol):
    """Differences of N models to one base, counted and summed block by block; for one thread at a time."""

    @property
    def buffers(self) -> Sequence[U8Array]:
        """1 + N reusable byte buffers: the base's, then the models'."""
        ...

    @property
    def block(self) -> int:
        """Elements that each buffer holds, of the types that `start` was given; a multiple of CHUNK."""
        ...

    def start(self, dtypes: Sequence[DType | None], kept: U8Array) -> None:
        """Begin a stretch: element types of base and models (None: absent; a base of None is all zeros).

        kept: uint8 [65536], 1 where residual values with these leading bits are to be handed over.
        """
        ...

    def add(self, count: int) -> None:
        """Take in the first `count` elements of the buffers."""
        ...

    def partial(self) -> DifferencePartial:
        """The statistics since `start`."""
        ...


class RefineAccumulator(Protocol):
    """Second look at the same differences: the next 16 bits of the values that begin with given prefixes."""

    @property
    def buffers(self) -> Sequence[U8Array]:
        """As in DifferenceAccumulator."""
        ...

    @property
    def block(self) -> int:
        """Elements that each buffer holds, of the types that `start` was given; a multiple of CHUNK."""
        ...

    def start(self, dtypes: Sequence[DType | None], prefixes: Sequence[U64Array], level: int) -> None:
        """Begin: per model the sorted prefixes (the leading 16 * level bits) whose next 16 bits are to be counted."""
        ...

    def add(self, count: int) -> None:
        """Take in the first `count` elements of the buffers."""
        ...

    def counts(self) -> tuple[U32Array, ...]:
        """Per model uint32 [prefixes, 65536]."""
        ...


class Kernels(Protocol):
    """One backend."""

    @property
    def name(self) -> str:
        """For results and messages."""
        ...

    def prepare(self, combinations: Collection[Sequence[DType | None]]) -> None:
        """Compile or load the loops for these combinations of element types, so that no task waits for it."""
        ...

    def count_patterns(self, patterns: Array, counts: U64Array) -> None:
        """Add the number of occurrences of every bit pattern (uint8 or uint16, any length) to counts [256 | 65536]."""
        ...

    def differences(self, models: int) -> DifferenceAccumulator:
        """An accumulator for up to `models` models."""
        ...

    def refine(self, models: int) -> RefineAccumulator:
        """An accumulator for the second look."""
        ...

    def pairs(self) -> PairAccumulator:
        """An accumulator for two tensors side by side."""
        ...

    def patterns(self) -> PatternAccumulator:
        """An accumulator for the bit patterns of one matrix."""
        ...

    def values(self) -> ValuesAccumulator:
        """An accumulator for a look at one matrix of 32- or 64-bit floats."""
        ...

    def channels(self) -> ChannelAccumulator:
        """An accumulator for what depends on rows, columns and groups of columns."""
        ...

    def working_bytes(self, models: int) -> int:
        """Memory that one accumulator of each kind takes, in bytes."""
        ...

    def spectrum(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> SpectrumAccumulator:
        """An accumulator for one matrix's singular values; `leading`: only so many of the largest are asked for."""
        ...

    def spectrum_bytes(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> int:
        """Memory that this accumulator takes at most, in bytes."""
        ...
