"""Backends by the name of the device: numba on the CPU, torch everywhere else."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from netweight.errors import OptionError

if TYPE_CHECKING:
    from netweight.kernels.factors import FactorKernels
    from netweight.kernels.merging import MergeKernels
    from netweight.kernels.protocol import Kernels

__all__ = ["factor_kernels_for", "kernels_for", "merge_kernels_for"]


def kernels_for(device: str) -> Kernels:
    """The kernels that measure on `device` ("cpu", "cuda:0", "mps", "xpu:1" ...).

    Raises OptionError where torch is needed and not installed.
    """
    if device == "cpu":
        from netweight.kernels.cpu import CpuKernels  # noqa: PLC0415 - numba loads when it is needed

        return CpuKernels()
    kernels: Kernels = _torch_backend(device).TorchKernels(device)
    return kernels


def merge_kernels_for(device: str) -> MergeKernels:
    """The kernels that merge on `device`; raises as `kernels_for` does."""
    if device == "cpu":
        from netweight.kernels.cpu.merging import CpuMergeKernels  # noqa: PLC0415

        return CpuMergeKernels()
    kernels: MergeKernels = _torch_backend(device).TorchMergeKernels(device)
    return kernels


def factor_kernels_for(device: str) -> FactorKernels:
    """The kernels that factorise on `device`, the CPU's for one without float64; raises as `kernels_for` does."""
    from netweight.kernels.cpu.factors import CpuFactorKernels  # noqa: PLC0415

    if device == "cpu":
        return CpuFactorKernels()
    made: FactorKernels | None = _torch_backend(device).factor_kernels(device)
    return made or CpuFactorKernels()


def _torch_backend(device: str) -> Any:
    """By its name, so that nobody loads torch who does not ask for it."""
    if find_spec("torch") is None:
        raise OptionError(
            f"--device {device}: needs torch, which is not installed: pip install 'netweight[torch]'; or use"
            " --device cpu"
        )
    return import_module("netweight.kernels.gpu")
