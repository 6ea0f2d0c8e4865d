"""The CPU backend: numba loops that release the interpreter's lock."""

from netweight.kernels.cpu.backend import CpuKernels

__all__ = ["CpuKernels"]
