"""Buffers of several tensors side by side: what is filled, and where it is widened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, U8Array
from netweight.kernels.cpu.elements import ABSENT, KINDS, eighth_tables, half_table
from netweight.kernels.protocol import CHUNK, Window

__all__ = ["BUFFER", "Lanes", "width_of"]

BUFFER = 1 << 19
"""Bytes read of each tensor at a time: every read and every loop is a wait for the interpreter's lock."""


def width_of(dtypes: Sequence[DType | None]) -> int:
    """Bits of the differences: float64 anywhere makes them float64 (the rule of the specification)."""
    return 64 if any(d is not None and d.name == "F64" for d in dtypes) else 32


class Lanes:
    """Byte buffers of a base and its models, float scratch of one width, and the element types at hand."""

    def __init__(self, models: int) -> None:
        self.block = BUFFER // 8
        self._raw = np.empty((1 + models, BUFFER), np.uint8)
        self.buffers: Sequence[U8Array] = list(self._raw)
        self._kinds = np.zeros(1 + models, np.int64)
        self._scratch: dict[int, tuple[Array, Array]] = {}

    def _open(self, dtypes: Sequence[DType | None]) -> Window:
        """Set the element types."""
        self._kinds[:] = ABSENT
        self._kinds[: len(dtypes)] = [ABSENT if d is None else KINDS[d.name] for d in dtypes]
        self._rows = len(dtypes)
        self.block = 8 * BUFFER // max((d.bits for d in dtypes if d is not None), default=8)
        width = width_of(dtypes)
        self._window = Window(width)
        self._uint = np.uint64 if width == 64 else np.uint32
        if width not in self._scratch:
            kind = np.float64 if width == 64 else np.float32
            self._scratch[width] = np.zeros((len(self._raw), CHUNK), kind), np.zeros(CHUNK + 1, kind)
        self._values, self._spare = self._scratch[width]
        return self._window

    def _common(self, count: int) -> tuple[Any, ...]:
        """The arguments that both loops begin with."""
        values = self._values[: self._rows]
        return (
            self._raw[: self._rows],
            self._kinds[: self._rows],
            count,
            half_table(),
            eighth_tables(),
            values,
            values.view(self._uint),
        )
