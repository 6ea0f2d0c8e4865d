"""Buffers of several tensors side by side, of the host and as a device sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array
from netweight.kernels.gpu.elements import widened
from netweight.kernels.gpu.memory import LEAST, fitting_block, in_pieces
from netweight.kernels.gpu.transfer import Staging
from netweight.kernels.protocol import CHUNK

__all__ = ["LaneAccumulator", "Lanes", "is_wide", "lane_bytes"]


def is_wide(dtypes: Sequence[DType | None]) -> bool:
    """Whether differences of these types are float64: float64 anywhere makes them so."""
    return any(d is not None and d.name == "F64" for d in dtypes)


def lane_bytes(device: torch.device) -> int:
    """Bytes of each tensor that are taken at once, at most: what a device computes on for longer than its start takes;
    on the CPU what fits a cache.
    """
    return 1 << 20 if device.type == "cpu" else 1 << 24


class Lanes:
    """Byte buffers of `lanes` tensors, the first of them the base, and what each looks like on a device.

    `device_bytes`: what an element needs on the device besides its lanes; `most`: elements taken at once, at most.
    The buffers are made when they are first wanted.
    """

    def __init__(self, device: torch.device, lanes: int, device_bytes: int, most: int | None = None) -> None:
        self.device = device
        self._lanes = lanes
        self._device_bytes = device_bytes
        self._limit = most or 1 << 24
        self._staging: Staging | None = None
        self.block = LEAST
        self.dtypes: Sequence[DType | None] = ()
        self.wide = False

    def _room(self) -> Staging:
        if self._staging is None:
            needed = self._device_bytes + 2 * 8 * self._lanes
            self._most = fitting_block(self.device, needed, self._limit)
            wanted = min(lane_bytes(self.device), 8 * self._most)
            self._staging = Staging(self.device, self._lanes, wanted, 8 * LEAST)
        return self._staging

    @property
    def buffers(self) -> Sequence[U8Array]:
        """The bytes of the host."""
        return self._room().buffers

    @property
    def nbytes(self) -> int:
        """Memory of the host that the buffers take, at most; on the CPU with all that is computed from them."""
        held = self._lanes * lane_bytes(self.device)
        return held + (self._device_bytes * lane_bytes(self.device) if self.device.type == "cpu" else 0)

    def open(self, dtypes: Sequence[DType | None]) -> None:
        """Begin with these element types (None: absent)."""
        staging = self._room()
        staging.drop()
        self.dtypes = tuple(dtypes)
        self.wide = is_wide(dtypes)
        bits = max((d.bits for d in dtypes if d is not None), default=8)
        self.block = min(8 * staging.nbytes // bits, self._most) // CHUNK * CHUNK

    def add(self, count: int, look: Callable[[torch.Tensor, int, int], None]) -> None:
        """Have look(lanes, start, stop) called for the first `count` elements, see Staging and `in_pieces`."""
        if count:
            used = [0 if d is None else d.nbytes(count) for d in self.dtypes]
            self._room().add(used, partial(self._in_pieces, count, look))

    def _in_pieces(self, count: int, look: Callable[[torch.Tensor, int, int], None], lanes: torch.Tensor) -> None:
        in_pieces(self.device, count, partial(look, lanes))

    def finish(self) -> None:
        """Look at what is still waiting."""
        self._room().finish()

    def values(self, lanes: torch.Tensor, lane: int, start: int, stop: int) -> torch.Tensor | None:
        """The elements of one tensor, float32 or float64 [stop - start]; None where it is absent."""
        dtype = self.dtypes[lane]
        if dtype is None:
            return None
        size = dtype.bits // 8
        return widened(lanes[lane, start * size : stop * size], dtype, wide=self.wide)

    def differences(
        self, lanes: torch.Tensor, start: int, stop: int
    ) -> tuple[torch.Tensor | None, Iterator[tuple[int, torch.Tensor]]]:
        """The base's values, None where it is absent; and (model, its values less the base's) of all that are there."""
        base = self.values(lanes, 0, start, stop)

        def of_models() -> Iterator[tuple[int, torch.Tensor]]:
            for lane in range(1, len(self.dtypes)):
                values = self.values(lanes, lane, start, stop)
                if values is not None:
                    yield lane - 1, values if base is None else values - base

        return base, of_models()


class LaneAccumulator:
    """What looks at lanes: its buffers, and each piece of them once it is on the device."""

    def __init__(self, device: torch.device, lanes: int, device_bytes: int, most: int | None = None) -> None:
        """See Lanes."""
        self._device = device
        self._lanes = Lanes(device, lanes, device_bytes, most)

    @property
    def buffers(self) -> Sequence[U8Array]:
        """See the protocol."""
        return self._lanes.buffers

    @property
    def block(self) -> int:
        """See the protocol."""
        return self._lanes.block

    def add(self, count: int) -> None:
        """See the protocol."""
        self._lanes.add(count, self._look)

    def _look(self, lanes: torch.Tensor, start: int, stop: int) -> None:
        """Take in one piece: first all that may fail, then what changes the totals."""
        raise NotImplementedError
