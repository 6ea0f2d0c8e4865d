"""The torch backend: the same counts and sums on CUDA and XPU devices, with numpy buffers at the seam.

Only imported where a device is asked for; nothing outside this package needs torch. Raises ImportError without it.
"""

try:
    import torch
except ImportError as error:
    raise ImportError("kernels for GPUs need torch: pip install 'netweight[torch]'") from error

from typing import TYPE_CHECKING

from netweight.kernels.gpu.backend import TorchKernels

if TYPE_CHECKING:
    from netweight.kernels.gpu.factors import TorchFactorKernels
    from netweight.kernels.gpu.merging import TorchMergeKernels

__all__ = ["TorchKernels", "TorchMergeKernels", "factor_kernels"]


def factor_kernels(device: str) -> "TorchFactorKernels | None":
    """The kernels that factorise on `device`; None where it has no float64."""
    from netweight.kernels.gpu.factors import TorchFactorKernels  # noqa: PLC0415 - loaded where it is wanted
    from netweight.kernels.gpu.memory import has_float64  # noqa: PLC0415

    return TorchFactorKernels(device) if has_float64(torch.device(device)) else None


def __getattr__(name: str) -> object:
    """What merges need is loaded when a merge asks for it."""
    if name == "TorchMergeKernels":
        from netweight.kernels.gpu.merging import TorchMergeKernels  # noqa: PLC0415

        return TorchMergeKernels
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
