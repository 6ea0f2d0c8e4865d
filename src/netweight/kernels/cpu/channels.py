"""`ChannelAccumulator` on the CPU: buffers and totals around the sweep."""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, U8Array
from netweight.kernels.channels import ChannelPartial, elements_of_piece
from netweight.kernels.cpu.channel_loops import ROOM, sweep
from netweight.kernels.cpu.elements import KINDS, eighth_tables
from netweight.kernels.cpu.groups import INT4_32, INT4_128, INT8

__all__ = ["CpuChannels"]

# Magnitudes between which scales, reciprocals and spreads of groups stay in the range of the type, with room to spare.
_BOUNDS = {32: (1e-29, 1e38), 64: (1e-280, 1e300)}


class CpuChannels:
    """protocol `ChannelAccumulator` in numba."""

    def __init__(self) -> None:
        self._room: dict[int, Array] = {}
        self._row = np.zeros(2)
        self._totals = np.zeros(5)
        self._counts = np.zeros(3, np.int64)

    def start(self, dtype: DType, rows: int, cols: int) -> None:
        """See the protocol."""
        width = 64 if dtype.name == "F64" else 32
        kind, unsigned = (np.float64, np.uint64) if width == 64 else (np.float32, np.uint32)
        if width not in self._room:
            self._room[width] = _aligned(ROOM, kind)
        self._dtype, self._cols, self._vector = dtype, cols, rows == 1
        largest = {32: 0xFF << 23, 64: 0x7FF << 52}[width]
        self._fixed = (
            eighth_tables(),
            self._room[width],
            self._room[width].view(unsigned),
            np.array([(1 << (width - 1)) - 1], unsigned),
            np.array([largest], unsigned),
            np.array(_BOUNDS[width]),
            2.0**-24 if width == 32 else 2.0**-53,
        )
        self._columns = np.zeros(0 if self._vector else cols, kind)
        self._first = self._second = 0  # elements of the row at hand that were given, and given again
        for state in (self._row, self._totals, self._counts):
            state[:] = 0

    def _sweep(self, block: U8Array, rows: int, cols: int, columns: Array, *flags: bool) -> None:
        arguments: tuple[Any, ...] = (
            block,
            KINDS[self._dtype.name],
            rows,
            cols,
            *flags,
            self._cols,
            *self._fixed,
            columns,
            self._row,
            self._totals,
            self._counts,
        )
        sweep(*arguments)

    def add(self, block: U8Array, rows: int) -> None:
        """See the protocol."""
        nbytes = self._dtype.nbytes(rows * self._cols)
        self._sweep(block[:nbytes], rows, self._cols, self._columns, True, not self._vector, True, False)

    def add_piece(self, block: U8Array) -> None:
        """See the protocol; raises ValueError for a piece that is not a multiple of PIECE and not the row's last."""
        before = self._first
        count = elements_of_piece(block, self._dtype, before, self._cols)
        if not before:
            self._row[:] = 0.0
        columns = self._columns[before : before + count]
        self._first = before + count
        self._sweep(block, 1, count, columns, True, False, False, self._first == self._cols)
        if self._vector and self._first == self._cols:
            self._first = 0

    def add_piece_again(self, block: U8Array) -> None:
        """See the protocol; raises ValueError as `add_piece`, RuntimeError before the row was given whole."""
        if self._first != self._cols:
            raise RuntimeError(f"{self._first} of {self._cols} columns were given: the row is not complete")
        count = elements_of_piece(block, self._dtype, self._second, self._cols)
        self._second += count
        self._sweep(block, 1, count, self._columns, False, True, False, self._second == self._cols)
        if self._second == self._cols:
            self._first = self._second = 0

    def partial(self) -> ChannelPartial:
        """See the protocol."""
        if self._first:
            raise RuntimeError(f"{self._second} of {self._cols} columns were given again: the row is not complete")
        totals = [float(t) for t in self._totals]
        dead_rows, fours, sparse_fours = (int(c) for c in self._counts)
        return ChannelPartial(
            int8_error=None if self._vector else totals[INT8],
            int4_128_symmetric_error=totals[INT4_128],
            int4_128_asymmetric_error=totals[INT4_128 + 1],
            int4_32_symmetric_error=totals[INT4_32],
            int4_32_asymmetric_error=totals[INT4_32 + 1],
            column_maxabs=None if self._vector else self._columns.astype(np.float64),
            dead_rows=dead_rows,
            fours=fours,
            sparse_fours=sparse_fours,
        )


def _aligned(count: int, kind: type) -> Array:
    """Zeros that begin with a cache line: the widest vectors then never lie across two."""
    raw = np.zeros(count * np.dtype(kind).itemsize + 64, np.uint8)
    skipped = -raw.ctypes.data % 64
    return raw[skipped : skipped + count * np.dtype(kind).itemsize].view(kind)
