"""GPUs that are none: the CPU's kernels under the names of devices, so that jobs run as they do on several GPUs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from netweight.kernels import choose
from netweight.kernels.cpu import CpuKernels
from netweight.kernels.cpu.factors import CpuFactorKernels
from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.run import devices
from netweight.run.device_survey import Device, Survey

CPU = Device("cpu", "cpu", "a CPU, 2 cores")


class StubKernels(CpuKernels):
    """Takes a device, as torch's kernels do."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.name = f"torch {device}"


class StubMergeKernels(CpuMergeKernels):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.name = f"torch {device}"


class StubFactorKernels(CpuFactorKernels):
    def __init__(self, device: str) -> None:
        self.device = device
        self.name = f"torch {device}"


def gpu(number: int = 0, *, doubles: bool = True, kind: str = "cuda", model: str = "Stub") -> Device:
    return Device(f"{kind}:{number}", kind, model, 80 << 30, 79 << 30, doubles)


def fake_gpus(
    monkeypatch: Any,
    count: int = 2,
    *,
    kernels: type = StubKernels,
    merging: type = StubMergeKernels,
    factors: Callable[[str], Any] = StubFactorKernels,
    gpus: Sequence[Device] | None = None,
) -> None:
    """From here on there are `count` GPUs, whose kernels are made by `kernels(device)`, `merging(device)` and
    `factors(device)`.
    """
    module = ModuleType("netweight.kernels.gpu")
    module.TorchKernels = kernels  # type: ignore[attr-defined]
    module.TorchMergeKernels = merging  # type: ignore[attr-defined]
    module.factor_kernels = factors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "netweight.kernels.gpu", module)
    monkeypatch.setattr(choose, "find_spec", lambda name: module)
    found = tuple(gpu(n) for n in range(count)) if gpus is None else tuple(gpus)
    problem = "" if found else "torch sees none"
    monkeypatch.setattr(devices, "survey", lambda **_: Survey((CPU, *found), problem))
    monkeypatch.setattr(devices, "driver_is_there", lambda: True)
