"""A device's memory and its failures: how much to take at once, and what to do where it is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory
from netweight.kernels.protocol import CHUNK

__all__ = ["LEAST", "fitting_block", "guarded", "has_float64", "in_pieces", "largest", "release"]

LEAST = 16 * CHUNK
"""Elements that a device must be able to take at once: with less it is of no use."""

_SHARE = 8  # of the free memory one accumulator takes a part: there are several, and other tensors beside them
_FULL = re.compile(r"out of memory|_ALLOC_FAILED|OUT_OF_(?:DEVICE|HOST)_MEMORY|OUT_OF_RESOURCES")
_BROKEN = re.compile(r"\b(?:CUDA|CUBLAS|CUSOLVER|HIP|XPU|UR|MPS)[_ ]|cuBLAS|cuSOLVER|level_zero")

T = TypeVar("T")


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64, in which all sums are taken."""
    return device.type != "mps"


@contextmanager
def guarded(device: torch.device) -> Iterator[None]:
    """What torch raises inside, as kernels.faults says it: DeviceOutOfMemory, or DeviceLost for other device errors.

    All else passes through: it is a fault of the program or of the data.
    """
    lost = getattr(torch, "AcceleratorError", ())  # not in older releases
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split("\n", 1)[0].split())
        if isinstance(error, torch.OutOfMemoryError) or _FULL.search(said):
            raise DeviceOutOfMemory(f"{device}: the device's memory is full: {said}") from error
        if isinstance(error, lost) or _BROKEN.search(said):
            raise DeviceLost(f"{device}: the device failed: {said}") from error
        raise


def release(device: torch.device) -> None:
    """Give memory that torch keeps for later use back to the device."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def in_pieces(device: torch.device, count: int, run: Callable[[int, int], None], least: int = LEAST) -> None:
    """run(start, stop) over 0 to count, in one piece where it fits; where it does not, in halves, of multiples of
    `least` elements.

    `run` is called again for a piece that failed: it must change nothing before all of it is computed. Raises
    DeviceOutOfMemory where `least` elements do not fit, DeviceLost where the device fails otherwise.
    """
    start, piece = 0, count
    while start < count:
        stop = min(start + piece, count)
        try:
            with guarded(device):
                run(start, stop)
        except DeviceOutOfMemory:
            if stop - start <= least:
                raise
        else:
            start = stop
            continue
        # here, not in the handler: the exception held on to the tensors of the piece that failed
        piece = least * -(-(stop - start) // (2 * least))
        release(device)


def largest(device: torch.device, wanted: int, least: int, make: Callable[[int], T]) -> T:
    """make(size) of the largest size that fits: `wanted`, its half, ..., `least`; raises DeviceOutOfMemory."""
    size = wanted
    while True:
        try:
            with guarded(device):
                return make(size)
        except DeviceOutOfMemory:
            if size <= least:
                raise
        size = max(size // 2, least)
        release(device)


def fitting_block(device: torch.device, bytes_per_element: int, most: int = 1 << 24) -> int:
    """Elements to take at once where each needs so many bytes of the device: by the memory that is free now.

    A multiple of CHUNK from LEAST to `most`; `most` on the CPU, whose memory is planned elsewhere.
    """
    module = torch.get_device_module(device)
    if device.type == "cpu" or not hasattr(module, "mem_get_info"):
        return most
    with guarded(device):
        free: int = module.mem_get_info(device)[0] + module.memory_reserved(device) - module.memory_allocated(device)
    return max(LEAST, min(most, free // _SHARE // bytes_per_element) // CHUNK * CHUNK)
