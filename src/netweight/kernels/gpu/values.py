"""Bit patterns and the look at known thresholds, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array, U64Array
from netweight.kernels.gpu.elements import floats, integers, scalar, upload
from netweight.kernels.gpu.memory import guarded, has_float64, in_pieces
from netweight.kernels.gpu.sums import RunningSum, chunk_sums
from netweight.kernels.protocol import CHUNK
from netweight.kernels.values import LookPartial

__all__ = ["TorchPatterns", "TorchValues"]

_LEAST = 1 << 16  # elements: what takes no more memory than this is not halved


class TorchPatterns:
    """protocol `PatternAccumulator` in torch; counts are exact."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def start(self, dtype: DType) -> None:
        """See the protocol; raises TypeError for types that are not of 8 or 16 bits, DeviceOutOfMemory, DeviceLost."""
        if dtype.bits not in (8, 16):
            raise TypeError(f"bit patterns of {dtype}: expected a type of 8 or 16 bits")
        self._bits = dtype.bits
        with guarded(self._device):
            self._counts = torch.zeros(1 << self._bits, dtype=torch.int64, device=self._device)

    def add(self, block: U8Array) -> None:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        size = self._bits // 8

        def run(start: int, stop: int) -> None:
            patterns = integers(upload(block[size * start : size * stop], self._device), self._bits)
            self._counts = self._counts + torch.bincount(patterns, minlength=1 << self._bits)

        with guarded(self._device):
            in_pieces(self._device, len(block) // size, run, _LEAST)

    def counts(self) -> U64Array:
        """See the protocol; raises DeviceLost."""
        with guarded(self._device):
            counts: U64Array = self._counts.cpu().numpy().astype(np.uint64)
        return counts


class TorchValues:
    """protocol `ValuesAccumulator` in torch: exact counts, sums in float64."""

    def __init__(self, device: torch.device | str, nbytes: int) -> None:
        """`nbytes` of buffer on the host, a multiple of 8 * CHUNK; raises TypeError for a device without float64."""
        self._device = torch.device(device)
        if not has_float64(self._device):
            raise TypeError(f"a look at values on {self._device}: expected a device with float64; use the CPU's")
        with guarded(self._device):
            self._room = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            self._sums = RunningSum(4, self._device)
        self.buffer: U8Array = self._room.numpy()
        self.block = nbytes // 8

    def start(
        self, dtype: DType, scale: float | None, ranges: Sequence[tuple[float, float]], thresholds: Sequence[float]
    ) -> None:
        """See the protocol; raises TypeError for other types than F32 and F64, DeviceOutOfMemory, DeviceLost."""
        if dtype.name not in ("F32", "F64"):
            raise TypeError(f"a look at {dtype}: expected F32 or F64")
        self._dtype = dtype
        self.block = 8 * len(self.buffer) // dtype.bits
        largest = float(np.finfo(dtype.to_numpy()).max)  # infinity is in no range
        self._thresholds = [min(t, largest) for t in thresholds]
        self._ranges = [(max(low, -largest), min(high, largest)) for low, high in ranges]
        self._scale = scale
        self._sums.clear()
        with guarded(self._device):
            self._counts = torch.zeros(len(thresholds) + len(ranges), dtype=torch.int64, device=self._device)

    def add(self, count: int) -> None:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        size = self._dtype.bits // 8

        def run(start: int, stop: int) -> None:
            first, last = CHUNK * start, min(CHUNK * stop, count)
            raw = self._room[size * first : size * last].to(self._device)
            # float64 holds every float32, so that comparing with any bound is exact
            self._look(floats(raw, self._dtype, torch.float64))

        with guarded(self._device):
            in_pieces(self._device, -(-count // CHUNK), run, _LEAST // CHUNK)

    def _look(self, x: torch.Tensor) -> None:
        magnitudes = x.abs()
        within = [(magnitudes <= t).sum() for t in self._thresholds]
        within += [((x >= low) & (x <= high)).sum() for low, high in self._ranges]
        counts = self._counts + torch.stack(within) if within else self._counts
        if self._scale is not None:
            self._sums.add(chunk_sums(_quantized(x, self._scale)))
        self._counts = counts

    def partial(self) -> LookPartial:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        with guarded(self._device):
            counts: list[Any] = self._counts.tolist()
            square, absolute, product, quantized = self._sums.total().tolist()
        thresholds = len(self._thresholds)
        return LookPartial(
            at_most=tuple(counts[:thresholds]),
            inside=tuple(counts[thresholds:]),
            error_square=square,
            error_absolute=absolute,
            product=product,
            quantized_square=quantized,
        )


def _quantized(x: torch.Tensor, scale: float) -> torch.Tensor:
    """[4, n]: squared error, absolute error, x x' and x'^2; 0 where x is not finite."""
    x = torch.where(torch.isfinite(x), x, 0.0)
    step = scalar(scale, x)
    back = (x / step).round_().clamp_(-128.0, 127.0) * step
    e = x - back
    return torch.stack([e * e, e.abs(), x * back, back * back])
