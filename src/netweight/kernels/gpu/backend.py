"""`Kernels` in torch: one device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, U64Array
from netweight.kernels.gpu.differences import STORE, TorchDifferences, device_bytes
from netweight.kernels.gpu.lanes import lane_bytes
from netweight.kernels.gpu.memory import LEAST, fitting_block, has_float64, in_pieces
from netweight.kernels.gpu.pairs import TorchPairs
from netweight.kernels.gpu.refine import TorchRefine
from netweight.kernels.protocol import DifferenceAccumulator, Kernels, RefineAccumulator

if TYPE_CHECKING:
    from netweight.kernels.channels import ChannelAccumulator
    from netweight.kernels.pairs import PairAccumulator
    from netweight.kernels.spectrum import SpectrumAccumulator
    from netweight.kernels.values import PatternAccumulator, ValuesAccumulator

__all__ = ["TorchKernels", "count_patterns"]


def count_patterns(device: torch.device, patterns: Array, counts: U64Array) -> None:
    """Kernels.count_patterns; raises TypeError for other types than uint8 and uint16, DeviceOutOfMemory, DeviceLost."""
    if patterns.dtype not in (np.uint8, np.uint16):
        msg = f"bit patterns of {patterns.dtype}: expected uint8 or uint16"
        raise TypeError(msg)
    narrow = patterns.dtype == np.uint8

    def run(first: int, start: int, stop: int) -> None:
        # torch has no bitwise arithmetic for uint16, and takes no array that must not be written to
        piece = np.require(patterns[first + start : first + stop], requirements=("C", "W"))
        native = torch.from_numpy(piece if narrow else piece.view(np.int16)).to(device)
        if not narrow:
            native = native.to(torch.int32) & 0xFFFF
        counts[:] += torch.bincount(native, minlength=len(counts)).cpu().numpy().astype(np.uint64)

    block = fitting_block(device, 16, lane_bytes(device))
    for first in range(0, len(patterns), block):
        in_pieces(device, min(block, len(patterns) - first), partial(run, first))


class TorchKernels:
    """Statistics on one device of torch ("cuda:1", "xpu:0", "cpu"). Counts equal the CPU backend's, sums agree to 1e-9.

    A device without float64 (MPS) counts bit patterns; what needs sums stays with the CPU backend, and `name` says so.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device if ":" in device or device == "cpu" else f"{device}:0")

    @property
    def name(self) -> str:
        """See the protocol."""
        return f"torch {self.device}" if self._cpu is None else f"torch {self.device}, sums in float64 on the cpu"

    @cached_property
    def _cpu(self) -> Kernels | None:
        """What stands in for a device without float64."""
        if has_float64(self.device):
            return None
        from netweight.kernels.cpu import CpuKernels  # noqa: PLC0415 - loads numba, which other devices do not need

        return CpuKernels()

    def prepare(self, combinations: Collection[Sequence[DType | None]]) -> None:
        """See the protocol: a small run of each loads the device's code. Raises DeviceOutOfMemory and DeviceLost."""
        if self._cpu is not None:
            self._cpu.prepare(combinations)
            return
        for dtypes in {tuple(c) for c in combinations}:
            models = len(dtypes) - 1
            first = TorchDifferences(self.device, models, LEAST)
            first.start(dtypes, np.ones(65536, np.uint8))
            second = TorchRefine(self.device, models, LEAST)
            second.start(dtypes, [np.zeros(1, np.uint64)] * models, 1)
            for accumulator in (first, second):
                for buffer in accumulator.buffers:
                    buffer[:128] = np.arange(128)
                accumulator.add(16)
            first.partial()
            second.counts()

    def count_patterns(self, patterns: Array, counts: U64Array) -> None:
        """See the protocol; raises TypeError for other types than uint8 and uint16."""
        count_patterns(self.device, patterns, counts)

    def differences(self, models: int) -> DifferenceAccumulator:
        """See the protocol."""
        return TorchDifferences(self.device, models) if self._cpu is None else self._cpu.differences(models)

    def refine(self, models: int) -> RefineAccumulator:
        """See the protocol."""
        return TorchRefine(self.device, models) if self._cpu is None else self._cpu.refine(models)

    def pairs(self) -> PairAccumulator:
        """See the protocol."""
        return TorchPairs(self.device) if self._cpu is None else self._cpu.pairs()

    def patterns(self) -> PatternAccumulator:
        """See the protocol."""
        from netweight.kernels.gpu.values import TorchPatterns  # noqa: PLC0415 - loaded where it is wanted

        return TorchPatterns(self.device)

    def values(self) -> ValuesAccumulator:
        """See the protocol."""
        if self._cpu is not None:
            return self._cpu.values()
        from netweight.kernels.gpu.values import TorchValues  # noqa: PLC0415

        return TorchValues(self.device, lane_bytes(self.device))

    def channels(self) -> ChannelAccumulator:
        """See the protocol."""
        if self._cpu is not None:
            return self._cpu.channels()
        from netweight.kernels.gpu.channels import TorchChannels  # noqa: PLC0415

        return TorchChannels(self.device)

    def working_bytes(self, models: int) -> int:
        """See the protocol; of the host: its buffers and what is handed over, on the CPU also what is computed."""
        if self._cpu is not None:
            return self._cpu.working_bytes(models)
        lane = lane_bytes(self.device)
        lanes = 2 * (1 + models) * lane
        handed = models * (2 * 65536 * (8 + 4) + STORE * 8) + models * 18 * 65536 * (8 + 4)
        return lanes + handed + (device_bytes(models) * lane if self.device.type == "cpu" else 0)

    def spectrum(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> SpectrumAccumulator:
        """See the protocol."""
        from netweight.kernels.gpu.spectrum import TorchSpectrum  # noqa: PLC0415

        return TorchSpectrum(self.device, dtype, rows, cols, leading)

    def spectrum_bytes(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> int:
        """See the protocol; of the host."""
        from netweight.kernels.gpu.spectrum import torch_spectrum_bytes  # noqa: PLC0415

        return torch_spectrum_bytes(dtype, rows, cols, leading)
