"""The seam for statistics of all elements of one matrix: bit patterns counted, and a look with known thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array, U64Array

__all__ = ["LookPartial", "PatternAccumulator", "ValuesAccumulator"]


class PatternAccumulator(Protocol):
    """Occurrences of the bit patterns of an 8- or 16-bit type; for one thread at a time."""

    def start(self, dtype: DType) -> None:
        """Begin."""
        ...

    def add(self, block: U8Array) -> None:
        """Count the elements of a block of native bytes, of any length."""
        ...

    def counts(self) -> U64Array:
        """uint64 [256 | 65536]."""
        ...


@dataclass(frozen=True)
class LookPartial:
    """The counts and sums of a look.

    `at_most`: per threshold the elements of no larger magnitude; `inside`: per range the elements in it, ends included;
    and over the finite elements x, with x' = clamp(rint(x / scale), -128, 127) * scale, the sums
    of (x - x')^2, abs(x - x'), x x' and x'^2 (zeros where no scale was given).
    """

    at_most: tuple[int, ...]
    inside: tuple[int, ...]
    error_square: float
    error_absolute: float
    product: float
    quantized_square: float


class ValuesAccumulator(Protocol):
    """A look at 32- or 64-bit floats when extremes and quantiles are known; for one thread at a time."""

    @property
    def buffer(self) -> U8Array:
        """The reusable byte buffer to be filled."""
        ...

    @property
    def block(self) -> int:
        """Elements that the buffer holds, of the type that `start` was given; a multiple of CHUNK."""
        ...

    def start(
        self, dtype: DType, scale: float | None, ranges: Sequence[tuple[float, float]], thresholds: Sequence[float]
    ) -> None:
        """Begin: the int8 scale, above zero, or None; up to 2 ranges and up to 5 thresholds."""
        ...

    def add(self, count: int) -> None:
        """Take in the first `count` elements of the buffer, a multiple of CHUNK but for the last ones."""
        ...

    def partial(self) -> LookPartial:
        """The counts and sums since `start`."""
        ...
