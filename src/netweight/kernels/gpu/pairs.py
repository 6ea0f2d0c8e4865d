"""`PairAccumulator` on a device. Counts and extremes are those of the CPU; sums are float64, of pieces that follow the
memory: they agree with the CPU's, but for their last bits.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import torch

from netweight.dtypes import DType
from netweight.kernels.gpu.lanes import LaneAccumulator
from netweight.kernels.pairs import SIGNIFICANT, SMALLEST, PairPartial

__all__ = ["DEVICE_BYTES", "TorchPairs"]

DEVICE_BYTES = 128
"""What a pair needs on the device while it is looked at, besides its own bytes."""

_NOTHING = PairPartial(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, inf, -inf)


def _look(a: torch.Tensor, b: torch.Tensor) -> PairPartial:
    """Of float32 or float64 [n]: moments in two passes, the mean first."""
    d = b - a
    finite = a.isfinite() & b.isfinite() & d.isfinite()
    n = int(finite.sum().item())
    lost = len(a) - n
    if not n:
        return replace(_NOTHING, n_nonfinite=lost)
    if lost:
        a, b, d = a[finite], b[finite], d[finite]
    counts = [a == b, ((a < 0) & (b > 0)) | ((a > 0) & (b < 0))]
    x, y, z = (v.to(torch.float64) for v in (a, b, d))
    size = z.abs()
    counts.append(size / (x.abs() + SMALLEST) > SIGNIFICANT)
    identical, flipped, significant = torch.stack([v.sum() for v in counts]).tolist()
    means = [v.sum() / n for v in (x, y, z)]
    extremes = [size.sum(), z.min(), z.max()]
    x, y, z = (v - mean for v, mean in zip((x, y, z), means, strict=True))
    sums = [x.sum(), y.sum(), z.sum(), (x * x).sum(), (y * y).sum(), (z * z).sum(), (x * y).sum()]
    results = torch.stack([*means, *sums, *extremes]).tolist()
    near, left, squares, (product, absolute, least, most) = results[:3], results[3:6], results[6:9], results[9:]
    mean_a, mean_b, mean_d = (center + s / n for center, s in zip(near, left, strict=True))  # s: rounding of the centre
    m2_a, m2_b, m2_d = (max(q - s * (s / n), 0.0) for q, s in zip(squares, left, strict=True))
    return PairPartial(
        n=n,
        n_nonfinite=lost,
        n_identical=identical,
        n_significant=significant,
        n_flipped=flipped,
        mean_a=mean_a,
        mean_b=mean_b,
        mean_d=mean_d,
        m2_a=m2_a,
        m2_b=m2_b,
        m2_d=m2_d,
        comoment=product - left[0] * (left[1] / n),
        absolute=absolute,
        minimum=least,
        maximum=most,
    )


def _merge(held: PairPartial, new: PairPartial) -> PairPartial:
    """Of the pairs of both (Pebay 2008, SAND2008-6212, eq. 2.1)."""
    if not held.n or not new.n:
        return replace(held if held.n else new, n_nonfinite=held.n_nonfinite + new.n_nonfinite)
    n = held.n + new.n
    weight, share = held.n * new.n / n, new.n / n
    a, b, d = new.mean_a - held.mean_a, new.mean_b - held.mean_b, new.mean_d - held.mean_d
    return PairPartial(
        n=n,
        n_nonfinite=held.n_nonfinite + new.n_nonfinite,
        n_identical=held.n_identical + new.n_identical,
        n_significant=held.n_significant + new.n_significant,
        n_flipped=held.n_flipped + new.n_flipped,
        mean_a=held.mean_a + a * share,
        mean_b=held.mean_b + b * share,
        mean_d=held.mean_d + d * share,
        m2_a=held.m2_a + new.m2_a + a * a * weight,
        m2_b=held.m2_b + new.m2_b + b * b * weight,
        m2_d=held.m2_d + new.m2_d + d * d * weight,
        comoment=held.comoment + new.comoment + a * b * weight,
        absolute=held.absolute + new.absolute,
        minimum=min(held.minimum, new.minimum),
        maximum=max(held.maximum, new.maximum),
    )


class TorchPairs(LaneAccumulator):
    """kernels.pairs.PairAccumulator; `most`: pairs taken at once, at most."""

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        super().__init__(device, 2, DEVICE_BYTES, most)
        self._total = _NOTHING

    @property
    def nbytes(self) -> int:
        """See the protocol; of the host."""
        return self._lanes.nbytes

    def start(self, a: DType, b: DType) -> None:
        """See the protocol; raises DeviceOutOfMemory and DeviceLost, as `add` and `partial` do."""
        self._lanes.open((a, b))
        self._total = _NOTHING

    def _look(self, lanes: torch.Tensor, start: int, stop: int) -> None:
        a, b = (self._lanes.values(lanes, lane, start, stop) for lane in (0, 1))
        if a is None or b is None:
            raise TypeError("a pair of tensors needs the element types of both")
        self._total = _merge(self._total, _look(a, b))

    def partial(self) -> PairPartial:
        """See the protocol."""
        self._lanes.finish()
        return self._total
