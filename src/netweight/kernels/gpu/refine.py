"""`RefineAccumulator` on a device: the counts of the CPU, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import U32Array, U64Array
from netweight.kernels.gpu.elements import leading_bits
from netweight.kernels.gpu.lanes import LaneAccumulator
from netweight.kernels.gpu.memory import guarded

__all__ = ["DEVICE_BYTES", "TorchRefine"]

DEVICE_BYTES = 64
"""What an element needs on the device while it is looked at, besides its own bytes."""


class TorchRefine(LaneAccumulator):
    """protocol.RefineAccumulator for up to `models` models; `most`: elements taken at once, at most."""

    def __init__(self, device: torch.device, models: int, most: int | None = None) -> None:
        super().__init__(device, 1 + models, DEVICE_BYTES, most)

    def start(self, dtypes: Sequence[DType | None], prefixes: Sequence[U64Array], level: int) -> None:
        """See the protocol; raises DeviceOutOfMemory and DeviceLost, as `add` and `counts` do."""
        self._lanes.open(dtypes)
        self._level = level
        self._ends = [0, *(int(end) for end in np.cumsum([len(p) for p in prefixes]))]
        with guarded(self._device):
            # below 2^48: there is always a level left; in the type of `leading_bits`, for the search
            kind = torch.int32 if level == 1 else torch.int64
            self._prefixes = [torch.from_numpy(p.astype(np.int64)).to(self._device, kind) for p in prefixes]
            self._counts = torch.zeros(self._ends[-1] * 65536, dtype=torch.int64, device=self._device)

    def _look(self, lanes: torch.Tensor, start: int, stop: int) -> None:
        """Count one piece: first all that may fail, then what changes the totals."""
        _, differences = self._lanes.differences(lanes, start, stop)
        kind = torch.int64 if self._lanes.wide else torch.int32
        pieces = [(m, self._count(m, values.view(kind))) for m, values in differences if len(self._prefixes[m])]
        for model, counts in pieces:
            self._counts[65536 * self._ends[model] : 65536 * self._ends[model + 1]] += counts

    def _count(self, model: int, bits: torch.Tensor) -> torch.Tensor:
        """int64 [prefixes * 65536]."""
        prefixes = self._prefixes[model]
        leading = leading_bits(bits, 16 * self._level)
        slots = torch.searchsorted(prefixes, leading, out_int32=True).clamp_(max=len(prefixes) - 1)
        wanted = torch.index_select(prefixes, 0, slots) == leading
        below = 8 * bits.element_size() - 16 * (self._level + 1)
        following = (bits[wanted] >> below) & 0xFFFF
        return torch.bincount(slots[wanted].to(torch.int64) * 65536 + following, minlength=65536 * len(prefixes))

    def counts(self) -> tuple[U32Array, ...]:
        """See the protocol."""
        self._lanes.finish()
        with guarded(self._device):
            counts = self._counts.cpu().numpy().astype(np.uint32).reshape(-1, 65536)
        return tuple(counts[a:b] for a, b in pairwise(self._ends))
