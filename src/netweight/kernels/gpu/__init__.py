"""The torch backend: the same counts and sums on CUDA and XPU devices, with numpy buffers at the seam.

Only imported where a device is asked for; nothing outside this package needs torch. Raises ImportError without it.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("kernels for GPUs need torch: pip install 'netweight[torch]'") from error

from typing import TYPE_CHECKING

from netweight.kernels.gpu.backend import TorchKernels

if TYPE_CHECKING:
    from netweight.kernels.gpu.merging import TorchMergeKernels

__all__ = ["TorchKernels", "TorchMergeKernels"]


def __getattr__(name: str) -> object:
    """What merges need is loaded when a merge asks for it."""
    if name == "TorchMergeKernels":
        from netweight.kernels.gpu.merging import TorchMergeKernels  # noqa: PLC0415

        return TorchMergeKernels
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
