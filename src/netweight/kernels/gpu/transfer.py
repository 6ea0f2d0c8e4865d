"""Bytes on their way to a device: a job fills the buffers of the host, the device looks at a copy.

While the device looks at one block, the next is copied. On the CPU nothing is copied at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from netweight.kernels.arrays import U8Array
from netweight.kernels.gpu.memory import guarded, largest
from netweight.kernels.protocol import CHUNK

__all__ = ["Copies", "CudaCopies", "Staging"]

Look = Callable[[torch.Tensor], None]

SLOTS = 2  # copies on the device: one that is looked at, one that is coming


class Copies(Protocol):
    """Copying beside computing: what must wait for what. `turn` is 0 or 1, the number of a slot."""

    def copy(self, host: torch.Tensor, slot: torch.Tensor, used: Sequence[int], turn: int) -> None:
        """Begin to copy used[i] bytes of every lane; only when what is computed from the slot's old bytes is done."""
        ...

    def arrived(self, turn: int) -> None:
        """Return when the copy is complete, so that the host's bytes may change."""
        ...

    def before(self, turn: int) -> None:
        """What is computed from here on waits for the copy."""
        ...

    def after(self, turn: int) -> None:
        """All that is computed from the slot has been asked for."""
        ...


class CudaCopies:
    """Copies in a stream of their own; made after the slots, whose memory may still be in use by what came before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda: Any = torch.cuda  # its streams and events carry no types
        self._stream = cuda.Stream(device)
        self._arrived = [cuda.Event() for _ in range(SLOTS)]
        self._seen = [cuda.Event() for _ in range(SLOTS)]
        for turn in range(SLOTS):
            self.after(turn)

    def copy(self, host: torch.Tensor, slot: torch.Tensor, used: Sequence[int], turn: int) -> None:
        """See Copies."""
        self._stream.wait_event(self._seen[turn])
        with torch.cuda.stream(self._stream):
            _copy(host, slot, used, non_blocking=True)
        self._arrived[turn].record(self._stream)

    def arrived(self, turn: int) -> None:
        """See Copies."""
        self._arrived[turn].synchronize()

    def before(self, turn: int) -> None:
        """See Copies."""
        torch.cuda.current_stream(self._device).wait_event(self._arrived[turn])

    def after(self, turn: int) -> None:
        """See Copies."""
        self._seen[turn].record(torch.cuda.current_stream(self._device))


def _copy(host: torch.Tensor, slot: torch.Tensor, used: Sequence[int], *, non_blocking: bool) -> None:
    for lane, nbytes in enumerate(used):
        if nbytes:
            slot[lane, :nbytes].copy_(host[lane, :nbytes], non_blocking=non_blocking)


class Staging:
    """`lanes` byte buffers of the host, and their copies on the device; for one thread at a time.

    The lanes hold `wanted` bytes each, or, where that does not fit, its half, ... down to `least`: see `nbytes`, a
    multiple of CHUNK. Raises DeviceOutOfMemory and DeviceLost, as all its methods do.
    """

    def __init__(self, device: torch.device, lanes: int, wanted: int, least: int) -> None:
        self._device = device
        self._host, self._slots = largest(device, wanted, least, lambda size: _room(device, lanes, size))
        self.buffers: Sequence[U8Array] = list(self._host.numpy())
        self.nbytes = self._host.shape[1]
        self._copies: Copies | None = None
        if device.type == "cuda":
            with guarded(device):
                self._copies = CudaCopies(device)
        self._turn = 0
        self._waiting: tuple[int, Look] | None = None

    def drop(self) -> None:
        """Forget what was not looked at: another beginning."""
        self._waiting = None

    def add(self, used: Sequence[int], look: Look) -> None:
        """Have `look` called with the lanes uint8 [lanes, nbytes] on the device, used[i] bytes of the buffers copied.

        The buffers may be filled anew when this returns. A device that copies beside computing calls `look` only at the
        next `add`, or at `finish`.
        """
        if self._copies is None:
            lanes = self._slots[0]
            if lanes is not self._host:
                with guarded(self._device):
                    _copy(self._host, lanes, used, non_blocking=False)
            look(lanes)
            return
        turn, self._turn = self._turn, (self._turn + 1) % SLOTS
        with guarded(self._device):
            self._copies.copy(self._host, self._slots[turn], used, turn)
            try:
                self.finish()
            finally:
                self._copies.arrived(turn)
        self._waiting = turn, look

    def finish(self) -> None:
        """Look at what is waiting."""
        if self._copies is None or self._waiting is None:
            return
        (turn, look), self._waiting = self._waiting, None
        with guarded(self._device):
            self._copies.before(turn)
            look(self._slots[turn])
            self._copies.after(turn)


def _room(device: torch.device, lanes: int, nbytes: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """uint8 [lanes, nbytes] of the host, and of the device: the same on the CPU, as many as are in use at once else."""
    shape = lanes, -(-nbytes // CHUNK) * CHUNK
    aside = device.type == "cuda"
    host = torch.empty(shape, dtype=torch.uint8, pin_memory=aside)
    if device.type == "cpu":
        return host, [host]
    return host, [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(SLOTS if aside else 1)]
