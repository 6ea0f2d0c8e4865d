"""Task vectors of which some elements are kept: the settings that recipes give them, the sum that is written, and
the scale that makes up for what was left out.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from netweight.errors import OptionError, printable
from netweight.kernels.arrays import Array
from netweight.kernels.merging import Trim
from netweight.kernels.protocol import CHUNK
from netweight.merging.course import Copy, Look, Subject
from netweight.merging.method import Setting

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.merging import MergeKernels

__all__ = ["DENSITY", "INT8_MASK", "LAMBDA", "RESCALE_BY_SUMS", "WEIGHT", "TrimmedSum"]
__all__ += ["keep_all", "keep_between", "keep_nothing", "normalize", "rescaled", "sum_of"]


WEIGHT = Setting("weight", "How much this model's task vector counts; may be negative.", per_model=True)
DENSITY = Setting(
    "density", "Share of the task vector's elements that is kept.", per_model=True, default=1.0, low=0.0, high=1.0
)
LAMBDA = Setting("lambda", "Factor on the merged task vector before it is added to the base.", default=1.0)
INT8_MASK = Setting("int8_mask", "Accepted, since recipes have it; has no effect.", kind="flag", default=False)
RESCALE_BY_SUMS = Setting(
    "rescale",
    "Whether kept elements are scaled up so that the task vector keeps its sum of magnitudes.",
    kind="flag",
    default=False,
)


def normalize(*, default: bool) -> Setting:
    """The flag `normalize` of task-vector methods."""
    return Setting("normalize", "Whether the sum is divided by the sum of weights.", kind="flag", default=default)


def keep_all(weight: float) -> Trim:
    """The whole task vector."""
    return Trim(weight)


def keep_nothing(weight: float) -> Trim:
    """No number at all (NaN stays)."""
    return Trim(weight, float("inf"), 0.0)


def keep_between(weight: float, low: float, high: float = float("inf")) -> Trim:
    """Magnitudes from `low` to `high`, order statistics that are NaN where NaN reaches down to their rank."""
    low, high = (float("inf") if value != value else value for value in (low, high))  # noqa: PLR0124 - NaN alone
    return Trim(weight, low, high)


@dataclass(frozen=True)
class TrimmedSum:
    """The write of `MergeKernels.merge_differences`; models that weigh 0 are not read (`inputs`)."""

    trims: tuple[Trim, ...]
    inputs: tuple[int, ...]
    elect: bool
    normalize: bool
    scale: float
    whole_rows: bool = False

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:
        """See `Write`."""
        kernels.merge_differences(
            x, self.trims, start, elect=self.elect, normalize=self.normalize, scale=self.scale, out=out
        )

    def native_block(self, native: Array, dtype: DType, start: int, out: Array, kernels: MergeKernels) -> int:
        """See `NativeWrite`."""
        how: dict[str, Any] = {"elect": self.elect, "normalize": self.normalize, "scale": self.scale}
        return kernels.merge_differences_native(native, dtype, self.trims, start, out=out, **how)


def sum_of(subject: Subject, trims: Sequence[Trim], *, elect: bool) -> TrimmedSum | Copy:
    """The write of trimmed task vectors by the settings `normalize` and `lambda`: the base, where all weigh 0.

    Raises OptionError where weights that are to divide the sum cancel.
    """
    used = [i for i, trim in enumerate(trims) if trim.weight != 0]
    scale = float(subject.settings["lambda"])
    if not used or not scale or not subject.size:
        return Copy(0)
    divided = bool(subject.settings["normalize"])
    if divided and not elect and not sum(trim.weight for trim in trims):
        raise OptionError(
            f"'{printable(subject.name)}': the weights sum to 0, by which normalize divides; give other weights, or"
            " normalize: false"
        )
    return TrimmedSum(
        tuple(trims[i] for i in used),
        (0, *(i + 1 for i in used)),
        elect,
        divided,
        scale,
    )


def rescaled(trims: Sequence[Trim]) -> Generator[Look, Any, list[Trim]]:
    """Trims by magnitude alone, each with the factor sum of |d| / sum of the kept |d|, 1 where nothing is kept.

    Elements that are not finite count in neither sum.
    """
    whole, kept = yield _MagnitudeSums(tuple((trim.low, trim.high) for trim in trims))
    factors = np.divide(whole, kept, out=np.ones(len(trims)), where=kept > 0)
    return [replace(trim, factor=float(factor)) for trim, factor in zip(trims, factors, strict=True)]


@dataclass(frozen=True)
class _MagnitudeSums:
    """A look: the sums of |d|, over all and over those in `ranges`, by chunks of CHUNK elements in float64."""

    ranges: tuple[tuple[float, float], ...]
    in_any_order: ClassVar[bool] = False
    whole_rows: bool = False

    def empty(self, inputs: int) -> list[tuple[Array, Array]]:
        return [(np.zeros((inputs - 1, 1)), np.zeros((inputs - 1, 1)))]

    def add(self, statistic: list[tuple[Array, Array]], x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        for first in range(0, x.shape[1], CHUNK):
            part = x[:, first : first + CHUNK]
            with np.errstate(invalid="ignore", over="ignore"):
                d = np.abs(part[1:] - part[0]).astype(np.float64)
            d[~np.isfinite(d)] = 0
            low, high = np.array(self.ranges).T[:, :, None]
            statistic.append((d.sum(axis=1)[:, None], np.where((low <= d) & (d <= high), d, 0).sum(axis=1)[:, None]))

    def merged(self, statistics: Sequence[list[tuple[Array, Array]]]) -> tuple[Array, ...]:
        """float64 [models] each, correctly rounded sums of those of chunks."""
        whole, kept = zip(*(pair for stretch in statistics for pair in stretch), strict=True)
        return tuple(np.array([fsum(row) for row in np.concatenate(part, axis=1)]) for part in (whole, kept))
