"""Work by pieces that fit the device's memory, and torch's exceptions as kernels.faults names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory

__all__ = ["guarded", "in_pieces"]


@contextmanager
def guarded(device: torch.device) -> Iterator[None]:
    """torch.OutOfMemoryError as DeviceOutOfMemory, errors of CUDA as DeviceLost."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(f"{device}: {error}") from error
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        raise DeviceLost(f"{device}: {error}") from error


def in_pieces(device: torch.device, count: int, run: Callable[[int, int], None], least: int) -> None:  # noqa: ARG001
    """run(start, stop) over 0..count; a piece that does not fit is halved and run again, down to `least`."""
    start, size = 0, count
    while start < count:
        stop = min(start + size, count)
        try:
            run(start, stop)
        except torch.OutOfMemoryError:
            if size <= least:
                raise
            size = max(size // 2, least)
            continue
        start = stop
