"""`PairAccumulator` on the CPU: buffers and tables around the loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array
from netweight.kernels.cpu.elements import KINDS, eighth_tables, half_table
from netweight.kernels.cpu.lanes import BUFFER
from netweight.kernels.cpu.pair_loops import (
    ABSOLUTE,
    CO,
    LENGTH,
    M2_A,
    M2_B,
    M2_D,
    MEAN_A,
    MEAN_B,
    MEAN_D,
    N,
    add_pairs,
)
from netweight.kernels.pairs import PairPartial

__all__ = ["CpuPairs"]


class CpuPairs:
    """kernels.pairs.PairAccumulator in numba."""

    def __init__(self) -> None:
        self._raw = np.empty((2, BUFFER), np.uint8)
        self.buffers: Sequence[U8Array] = list(self._raw)
        self.block = BUFFER // 8
        self.nbytes = 2 * BUFFER + 3 * LENGTH * (4 + 8)
        self._values = {kind: np.zeros((3, LENGTH), kind) for kind in (np.float32, np.float64)}
        self._keys = {kind: np.zeros(2, kind) for kind in (np.int32, np.int64)}
        self._sums = np.zeros(9)
        self._counts = np.zeros(4, np.int64)

    def start(self, a: DType, b: DType) -> None:
        """See the protocol."""
        wide = "F64" in (a.name, b.name)
        self._wide: Any = np.float64 if wide else np.float32
        self._signed: Any = np.int64 if wide else np.int32
        self._kinds = np.array([KINDS[a.name], KINDS[b.name]], np.int64)
        self._widths = np.array([a.bits // 8, b.bits // 8], np.int64)
        self.block = BUFFER // int(self._widths.max())
        limits = np.iinfo(self._signed)
        self._keys[self._signed][:] = limits.max, limits.min
        self._sums[:] = 0.0
        self._counts[:] = 0

    def add(self, count: int) -> None:
        """See the protocol."""
        values = self._values[self._wide]
        add_pairs(
            self._raw,
            self._kinds,
            self._widths,
            count,
            half_table(),
            eighth_tables(),
            values,
            values.view(self._signed),
            self._wide(1),
            self._signed(8 * values.itemsize - 1),
            self._signed(np.iinfo(self._signed).max),
            self._signed(np.array(np.inf, self._wide).view(self._signed)),
            self._sums,
            self._counts,
            self._keys[self._signed],
        )

    def partial(self) -> PairPartial:
        """See the protocol."""
        nonfinite, identical, significant, flipped = (int(v) for v in self._counts)
        sums = [float(v) for v in self._sums]
        return PairPartial(
            n=int(sums[N]),
            n_nonfinite=nonfinite,
            n_identical=identical,
            n_significant=significant,
            n_flipped=flipped,
            mean_a=sums[MEAN_A],
            mean_b=sums[MEAN_B],
            mean_d=sums[MEAN_D],
            m2_a=sums[M2_A],
            m2_b=sums[M2_B],
            m2_d=sums[M2_D],
            comoment=sums[CO],
            absolute=sums[ABSOLUTE],
            minimum=self._value(0) if sums[N] else np.inf,
            maximum=self._value(1) if sums[N] else -np.inf,
        )

    def _value(self, end: int) -> float:
        """The value of a key of `_extremes`."""
        key: Any = self._keys[self._signed][end]
        bits = key ^ np.iinfo(self._signed).max if key < 0 else key
        return float(bits.view(self._wide))
