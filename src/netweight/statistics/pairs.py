"""Statistics of two tensors a and b and of d = b - a: those of two stretches merge into those of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import inf, sqrt

from netweight.kernels.pairs import PairPartial

__all__ = ["NOTHING", "PairStatistics"]


@dataclass(frozen=True)
class PairStatistics:
    """Over the `n` pairs whose a, b and d are finite; `n_nonfinite` others are left out of everything else.

    `mean_*` and m2_* = sum (x - mean)^2 of a, b and d, `comoment` = sum (a - mean_a) (b - mean_b), `absolute` = sum
    abs(d), `minimum` and `maximum` of d; how many pairs are equal (`n_identical`), changed significantly
    (`n_significant`: kernels.pairs.SIGNIFICANT), or of opposite signs (`n_flipped`). Of `looked_at` elements of a,
    `clipped` are beyond what b's codes can say (passes.clipping). Merging follows Pebay 2008 (SAND2008-6212). Sums of
    squares beyond the range of float64 are infinite or NaN.
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

    @classmethod
    def of(cls, partial: PairPartial) -> PairStatistics:
        """From the partial result of one stretch."""
        return cls(**vars(partial))

    @classmethod
    def of_stretches(cls, parts: Iterable[PairPartial]) -> PairStatistics:
        """Of a whole tensor: its stretches in their order, which decides the last bits."""
        statistics = [cls.of(part) for part in parts]
        return reduce(cls.merge, statistics) if statistics else NOTHING

    def merge(self, other: PairStatistics) -> PairStatistics:
        """Of the pairs of both."""
        counts = (
            self.n + other.n,
            self.n_nonfinite + other.n_nonfinite,
            self.n_identical + other.n_identical,
            self.n_significant + other.n_significant,
            self.n_flipped + other.n_flipped,
        )
        seen = self.looked_at + other.looked_at, self.clipped + other.clipped
        if not self.n or not other.n:
            held = self if self.n else other
            sums = (held.mean_a, held.mean_b, held.mean_d, held.m2_a, held.m2_b, held.m2_d, held.comoment)
            return PairStatistics(*counts, *sums, held.absolute, held.minimum, held.maximum, *seen)
        n = counts[0]
        d_a, d_b, d_d = other.mean_a - self.mean_a, other.mean_b - self.mean_b, other.mean_d - self.mean_d
        weight, share = self.n * other.n / n, other.n / n
        return PairStatistics(
            *counts,
            self.mean_a + d_a * share,
            self.mean_b + d_b * share,
            self.mean_d + d_d * share,
            self.m2_a + other.m2_a + d_a * d_a * weight,
            self.m2_b + other.m2_b + d_b * d_b * weight,
            self.m2_d + other.m2_d + d_d * d_d * weight,
            self.comoment + other.comoment + d_a * d_b * weight,
            self.absolute + other.absolute,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            *seen,
        )

    @property
    def identical(self) -> bool:
        """Every finite pair is equal; comparisons of a with b are then free of rounding."""
        return self.n_identical == self.n

    @property
    def square_a(self) -> float:
        """Sum of a^2."""
        return self.m2_a + self.n * self.mean_a * self.mean_a

    @property
    def square_b(self) -> float:
        """Sum of b^2."""
        return self.square_a if self.identical else self.m2_b + self.n * self.mean_b * self.mean_b

    @property
    def square_d(self) -> float:
        """Sum of d^2."""
        return self.m2_d + self.n * self.mean_d * self.mean_d

    @property
    def dot(self) -> float:
        """<a, b>."""
        return self.square_a if self.identical else self.comoment + self.n * self.mean_a * self.mean_b

    @property
    def mean_diff(self) -> float:
        """mean b - mean a; NaN where n = 0."""
        return (0.0 if self.identical else self.mean_b - self.mean_a) if self.n else float("nan")

    @property
    def std_diff(self) -> float:
        """std b - std a, population; NaN where n = 0."""
        if not self.n:
            return float("nan")
        return 0.0 if self.identical else sqrt(self.m2_b / self.n) - sqrt(self.m2_a / self.n)

    @property
    def maxabs(self) -> float:
        """max abs(d), 0 where n = 0."""
        return max(abs(self.minimum), abs(self.maximum)) if self.n else 0.0


NOTHING = PairStatistics(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, inf, -inf)
"""Of no pairs: merging with it changes nothing."""
