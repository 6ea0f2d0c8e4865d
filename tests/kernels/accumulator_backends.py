"""The backends that tests of kernels run over; what is missing on this machine is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from netweight.dtypes import DType
from netweight.kernels.cpu import CpuKernels
from netweight.kernels.cpu.merging import CpuMergeKernels

try:
    import torch
except ImportError:
    torch = None
else:
    torch.set_num_threads(1)  # what tests give is too little to be worth sharing out


@dataclass(frozen=True)
class Backend:
    """Accumulators of one kind; `device` None: numba's."""

    device: str | None

    @property
    def exact(self) -> bool:
        """Whether errors of channels are formed in float64 throughout."""
        return self.device is not None

    def patterns(self) -> Any:
        if self.device is None:
            return CpuKernels().patterns()
        from netweight.kernels.gpu.values import TorchPatterns

        return TorchPatterns(self.device)

    def values(self) -> Any:
        if self.device is None:
            return CpuKernels().values()
        from netweight.kernels.gpu.values import TorchValues

        return TorchValues(self.device, 1 << 19)

    def channels(self) -> Any:
        if self.device is None:
            return CpuKernels().channels()
        from netweight.kernels.gpu.channels import TorchChannels

        return TorchChannels(self.device)

    def spectrum(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> Any:
        if self.device is None:
            return CpuKernels().spectrum(dtype, rows, cols, leading)
        from netweight.kernels.gpu.spectrum import TorchSpectrum

        return TorchSpectrum(self.device, dtype, rows, cols, leading)

    def merging(self) -> Any:
        if self.device is None:
            return CpuMergeKernels()
        from netweight.kernels.gpu.merging import TorchMergeKernels

        return TorchMergeKernels(self.device)


needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
needs_cuda = pytest.mark.skipif(torch is None or not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = [pytest.param("cpu", marks=needs_torch), pytest.param("cuda", marks=needs_cuda)]
BACKENDS = [
    pytest.param(Backend(None), id="cpu-numba"),
    pytest.param(Backend("cpu"), id="torch-cpu", marks=needs_torch),
    pytest.param(Backend("cuda"), id="torch-cuda", marks=needs_cuda),
]


def short_of_memory(function, limit):
    """`function`, which runs out of memory where its first argument has more than `limit` elements."""

    def refuses(first, *rest):
        if first.size().numel() > limit:
            raise torch.OutOfMemoryError(f"{first.size().numel()} elements")
        return function(first, *rest)

    return refuses
