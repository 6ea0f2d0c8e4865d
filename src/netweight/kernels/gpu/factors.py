"""`FactorKernels` in torch: blocks and panels on the device, sums in float64 there; a device without float64 (Apple's)
leaves them to the CPU.
"""

from __future__ import annotations

import numpy as np
import torch

from netweight.kernels.arrays import Array, F32Array, F64Array
from netweight.kernels.gpu.elements import upload
from netweight.kernels.gpu.memory import guarded, has_float64

__all__ = ["TorchFactorKernels"]


class TorchFactorKernels:
    """kernels.factors.FactorKernels in torch; `name` is "torch cuda:0" or the like.

    All methods raise DeviceOutOfMemory and DeviceLost. Raises ValueError for a device without float64.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if not has_float64(self._device):
            raise ValueError(f"{device} has no float64")
        self.name = f"torch {self._device}"

    def load(self, block: F32Array) -> torch.Tensor:
        """See the protocol."""
        with guarded(self._device):
            return upload(block, self._device)

    def send(self, panel: Array, *, wide: bool) -> torch.Tensor:
        """See the protocol."""
        with guarded(self._device):
            return upload(panel.copy(), self._device).to(torch.float64 if wide else torch.float32)

    def total(self, rows: int, cols: int) -> torch.Tensor:
        """See the protocol."""
        with guarded(self._device):
            return torch.zeros((rows, cols), dtype=torch.float64, device=self._device)

    def fetch(self, total: torch.Tensor) -> F64Array:
        """See the protocol."""
        with guarded(self._device):
            values: F64Array = total.cpu().numpy()
            return values

    def add_sketch(self, block: torch.Tensor, panel: torch.Tensor, total: torch.Tensor) -> None:
        """See the protocol."""
        with guarded(self._device):
            x = block.to(panel.dtype)
            total += x.T @ (x @ panel)

    def add_lifted(self, block: torch.Tensor, rows: torch.Tensor, total: torch.Tensor) -> None:
        """See the protocol."""
        with guarded(self._device):
            total += block.to(rows.dtype).T @ rows

    def add_image_gram(self, block: torch.Tensor, panel: torch.Tensor, total: torch.Tensor) -> None:
        """See the protocol."""
        with guarded(self._device):
            y = (block.to(panel.dtype) @ panel).to(torch.float64)
            total.addmm_(y.T, y)

    def add_gram(self, block: torch.Tensor, total: torch.Tensor) -> None:
        """See the protocol."""
        with guarded(self._device):
            x = block.to(torch.float64)
            total.addmm_(x.T, x)

    def row_gram(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        """See the protocol."""
        with guarded(self._device):
            x = torch.cat([block.to(torch.float64) for block in blocks])
            return x @ x.T

    def eigen(self, total: torch.Tensor) -> tuple[F64Array, F64Array]:
        """See the protocol."""
        with guarded(self._device):
            values, vectors = torch.linalg.eigh(total)
            return values.cpu().numpy(), vectors.cpu().numpy()

    def image(self, block: torch.Tensor, panel: torch.Tensor) -> Array:
        """See the protocol."""
        with guarded(self._device):
            product: Array = (block.to(panel.dtype) @ panel).cpu().numpy()
            return product

    def residual(self, block: torch.Tensor, left: Array, right: torch.Tensor) -> float:
        """See the protocol."""
        with guarded(self._device):
            rest = block.to(torch.float64)
            rest -= upload(np.ascontiguousarray(left, np.float64), self._device) @ right
            return float(rest.square().sum())
