"""`DifferenceAccumulator` on the CPU: buffers and tables around the loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, F64Array, U8Array
from netweight.kernels.cpu.difference_loops import add_block
from netweight.kernels.cpu.lanes import Lanes
from netweight.kernels.cpu.patterns import PADDING
from netweight.kernels.protocol import DifferencePartial

__all__ = ["STORE", "CpuDifferences"]

STORE = 1 << 20
"""Residual values handed over for each model and stretch, at most."""


class CpuDifferences(Lanes):
    """protocol.DifferenceAccumulator in numba."""

    def __init__(self, models: int) -> None:
        super().__init__(models)
        self._counts = np.zeros((models, 4, 65536 + PADDING), np.uint32)
        self._residual_counts = np.zeros((models, 65536), np.uint32)
        self._residual_sums = np.zeros((models, 8), np.float64)
        self._stores: dict[int, Array] = {}
        self._stored = np.zeros(models, np.int64)
        self._gram = np.zeros((models, models), np.float64)
        self._base_square = np.zeros(1, np.float64)

    def start(self, dtypes: Sequence[DType | None], kept: U8Array) -> None:
        """See the protocol."""
        width = self._open(dtypes).width
        if width not in self._stores:
            self._stores[width] = np.empty((len(self._stored), STORE), self._uint)
        self._kept = kept
        self._counts[:] = 0
        self._residual_counts[:] = 0
        self._residual_sums[:] = 0.0
        self._residual_sums[:, 6] = np.inf
        self._residual_sums[:, 7] = -np.inf
        self._stored[:] = 0
        self._gram[:] = 0.0
        self._base_square[:] = 0.0

    def add(self, count: int) -> None:
        """See the protocol."""
        exponent = 0x7FF << 52 if self._window.width == 64 else 0xFF << 23
        arguments = (
            *self._common(count),
            self._uint(exponent),
            self._spare,
            self._spare.view(self._uint),
            self._spare.view(np.int64 if self._window.width == 64 else np.int32),
            self._kept,
            self._counts,
            self._residual_counts,
            self._residual_sums,
            self._stores[self._window.width],
            self._stored,
            self._gram,
            self._base_square,
        )
        add_block(*arguments)

    def partial(self) -> DifferencePartial:
        """See the protocol."""
        models = self._rows - 1
        store = self._stores[self._window.width]
        return DifferencePartial(
            window=self._window,
            counts=self._counts[:models, :, :65536].sum(axis=1, dtype=np.uint32),
            residual_counts=self._residual_counts[:models].copy(),
            residual_sums=self._residual_sums[:models].copy(),
            residuals=tuple(None if n < 0 else store[m, :n].copy() for m, n in enumerate(self._stored[:models])),
            gram=self._mirrored(models),
            base_square=float(self._base_square[0]),
        )

    def _mirrored(self, models: int) -> F64Array:
        lower = self._gram[:models, :models]
        return lower + lower.T
