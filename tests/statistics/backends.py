"""The backends that every test of a kernel runs on, and how much their sums may differ from an oracle's."""

from __future__ import annotations

import pytest

BACKENDS = ["cpu-numba", "torch-cpu", "torch-cuda"]


def kernels_of(name):
    """The kernels of one of BACKENDS; skips the test where what they need is not there."""
    if name == "cpu-numba":
        from netweight.kernels.cpu import CpuKernels

        return CpuKernels()
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(1)  # what tests give is too little to be worth sharing out
    device = name.removeprefix("torch-")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from netweight.kernels.gpu import TorchKernels

    return TorchKernels(device)
