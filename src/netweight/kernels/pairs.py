"""The seam for two tensors side by side: what a backend counts and sums over the pairs of their elements.

a and b are widened to float32, to float64 where either is F64; the difference d = b - a is taken in that width. A pair
is *finite* where a, b and d are; every other pair is counted and left out of all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array

__all__ = ["SIGNIFICANT", "SMALLEST", "PairAccumulator", "PairPartial"]

SIGNIFICANT, SMALLEST = 0.01, 1e-10
"""A change is significant where abs(d) / (abs(a) + SMALLEST) > SIGNIFICANT: d of its own width, then all in float64,
the quotient rounded before it is compared.
"""


@dataclass(frozen=True)
class PairPartial:
    """What one stretch of a pair of tensors holds, over its `n` finite pairs.

    `mean_a`, `mean_b`, `mean_d`; `m2_a`, `m2_b`, `m2_d` = sum (x - mean)^2; `comoment` = sum (a - mean_a) (b - mean_b);
    `absolute` = sum abs(d); `minimum` and `maximum` of d: float64, of an empty stretch 0 and +-inf. `n_nonfinite`: the
    other pairs; `n_identical`: b == a; `n_significant`: see SIGNIFICANT; `n_flipped`: signs differ, neither is zero.
    `looked_at` and `clipped` are not of a backend: see passes.clipping.
    """

    n: int
    n_nonfinite: int
    n_identical: int
    n_significant: int
    n_flipped: int
    mean_a: float
    mean_b: float
    mean_d: float
    m2_a: float
    m2_b: float
    m2_d: float
    comoment: float
    absolute: float
    minimum: float
    maximum: float
    looked_at: int = 0
    clipped: int = 0


class PairAccumulator(Protocol):
    """Pairs of elements, summed block by block in chunks that divide CHUNK; for one thread at a time.

    Moments merge chunk by chunk (Pebay 2008, SAND2008-6212): results are the same for any blocks that are multiples of
    CHUNK.
    """

    @property
    def buffers(self) -> Sequence[U8Array]:
        """Two reusable byte buffers: a's and b's."""
        ...

    @property
    def block(self) -> int:
        """Elements that each buffer holds, of the types that `start` was given; a multiple of CHUNK."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that the accumulator takes, for any types."""
        ...

    def start(self, a: DType, b: DType) -> None:
        """Begin a stretch of these element types (Kind.FLOAT of 8 to 64 bits)."""
        ...

    def add(self, count: int) -> None:
        """Take in the first `count` elements of the buffers."""
        ...

    def partial(self) -> PairPartial:
        """The statistics since `start`."""
        ...
