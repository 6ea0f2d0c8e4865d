"""`RefineAccumulator` on the CPU: prefixes and their counts around the loop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import U32Array, U64Array
from netweight.kernels.cpu.difference_loops import refine_block
from netweight.kernels.cpu.lanes import Lanes

__all__ = ["CpuRefine"]


class CpuRefine(Lanes):
    """protocol.RefineAccumulator in numba."""

    def start(self, dtypes: Sequence[DType | None], prefixes: Sequence[U64Array], level: int) -> None:
        """See the protocol."""
        models = len(dtypes) - 1
        width = self._open(dtypes).width
        self._ends = np.cumsum([0, *(len(p) for p in prefixes)])
        self._prefixes = np.concatenate(list(prefixes)).astype(self._uint)
        self._first = np.zeros((models, 65536), np.int32)
        self._slots = np.zeros((models, 65536), np.int32)
        self._counts = np.zeros((len(self._prefixes), 65536), np.uint32)
        self._below = self._uint(width - 16 * level)
        for m, wanted in enumerate(prefixes):
            leading = (wanted >> np.uint64(16 * (level - 1))).astype(np.int64)
            np.add.at(self._slots[m], leading, 1)
            for slot, top in reversed(list(enumerate(leading, int(self._ends[m])))):
                self._first[m, top] = slot

    def add(self, count: int) -> None:
        """See the protocol."""
        arguments = (
            *self._common(count),
            self._below,
            self._uint(16),
            self._uint(0xFFFF),
            self._first,
            self._slots,
            self._prefixes,
            self._counts,
        )
        refine_block(*arguments)

    def counts(self) -> tuple[U32Array, ...]:
        """See the protocol."""
        return tuple(self._counts[a:b] for a, b in pairwise(self._ends))
