"""`ChannelAccumulator` in torch: rows in chunks of PIECE columns, everything in float64.

The CPU's loops compute quotients of all but 64-bit floats in float32, so that their errors differ from these by some
1e-5. Sums do not depend on how rows are divided into blocks and pieces.
"""

from __future__ import annotations

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import F64Array, U8Array
from netweight.kernels.channels import DEAD, PIECE, ChannelPartial, elements_of_piece
from netweight.kernels.gpu.elements import floats, upload
from netweight.kernels.gpu.groups import Precision, int4_errors, int8_errors
from netweight.kernels.gpu.memory import guarded, has_float64, in_pieces
from netweight.kernels.gpu.sums import RunningSum

__all__ = ["TorchChannels"]


def _settled(errors: torch.Tensor, largest: torch.Tensor, length: int, precision: Precision) -> torch.Tensor:
    """int8 errors in units of scales as errors of rows of `length`; none where they are rounding of quotients."""
    epsilon = torch.where(precision.holds(largest), torch.full_like(largest, precision.epsilon), 2.0**-52)
    resolution = 4.0 * 127.0 * epsilon
    scale = largest / torch.full_like(largest, 127.0)
    counts = (largest > 0) & (errors > length * resolution * resolution)
    return torch.where(counts, errors * scale * scale, 0.0)


class TorchChannels:
    """protocol `ChannelAccumulator` in torch."""

    def __init__(self, device: torch.device | str) -> None:
        """Raises TypeError for a device without float64."""
        self._device = torch.device(device)
        if not has_float64(self._device):
            raise TypeError(f"channels on {self._device}: expected a device with float64; use the CPU's")
        self._int4 = RunningSum(4, self._device)
        self._int8 = RunningSum(1, self._device)

    def start(self, dtype: DType, rows: int, cols: int) -> None:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        self._dtype, self._cols, self._vector = dtype, cols, rows == 1
        self._first = self._second = 0  # elements of the row at hand that were given, and given again
        self._fours = 0
        self._precision = Precision.of(dtype)
        self._int4.clear()
        self._int8.clear()
        with guarded(self._device):
            self._columns = torch.zeros(0 if self._vector else cols, dtype=torch.float64, device=self._device)
            self._counts = torch.zeros(2, dtype=torch.int64, device=self._device)  # dead rows, sparse fours
            self._largest = torch.zeros(1, dtype=torch.float64, device=self._device)  # of the row at hand
        self._units: list[torch.Tensor] = []  # int8 errors of the chunks of the row at hand

    def _rows(self, block: U8Array, rows: int) -> torch.Tensor:
        """float64 [rows, n], zeros for what is not finite."""
        x = floats(upload(block, self._device), self._dtype, torch.float64).view(rows, -1)
        return torch.where(torch.isfinite(x), x, 0.0)

    def add(self, block: U8Array, rows: int) -> None:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        nbytes = self._dtype.nbytes(self._cols)

        def run(start: int, stop: int) -> None:
            x = self._rows(block[nbytes * start : nbytes * stop], stop - start)
            magnitudes = x.abs()
            largest = magnitudes.amax(1)
            counts = self._counts + torch.stack([(largest <= DEAD).sum(), _sparse_fours(x)])
            columns = self._columns
            errors = None
            if not self._vector:
                columns = torch.maximum(columns, magnitudes.amax(0))
                errors = _settled(int8_errors(x, largest).sum(1), largest, self._cols, self._precision)
            del magnitudes
            self._int4.add(int4_errors(x, self._precision).flatten(1))
            if errors is not None:
                self._int8.add(errors[None])
            self._counts, self._columns = counts, columns
            self._fours += (stop - start) * (self._cols // 4)

        if rows and self._cols:
            with guarded(self._device):
                in_pieces(self._device, rows, run, 1)

    def _part(self, block: U8Array, start: int, stop: int) -> torch.Tensor:
        """float64 [1, n]: chunks `start` to `stop` of a piece."""
        size = PIECE * self._dtype.bits // 8
        return self._rows(block[size * start : size * stop], 1)

    def add_piece(self, block: U8Array) -> None:
        """See the protocol; raises ValueError for a piece that is not a multiple of PIECE and not the row's last,
        DeviceOutOfMemory, DeviceLost.
        """
        before = self._first
        count = elements_of_piece(block, self._dtype, before, self._cols)

        def run(start: int, stop: int) -> None:
            x = self._part(block, start, stop)
            magnitudes = x.abs()
            first = before + PIECE * start
            begun = torch.zeros_like(self._largest) if first == 0 else self._largest
            largest = torch.maximum(begun, magnitudes.amax(1))
            ends = first + x.shape[1] == self._cols
            dead = (largest <= DEAD).sum() if ends else torch.zeros_like(self._counts[0])
            counts = self._counts + torch.stack([dead, _sparse_fours(x)])
            self._int4.add(int4_errors(x, self._precision).flatten(1))
            if not self._vector:
                columns = self._columns[first : first + x.shape[1]]
                torch.maximum(columns, magnitudes[0], out=columns)
            self._counts, self._largest = counts, largest
            self._fours += x.shape[1] // 4

        with guarded(self._device):
            in_pieces(self._device, -(-count // PIECE), run, 1)
        self._first = before + count
        if self._vector and self._first == self._cols:
            self._first = 0

    def add_piece_again(self, block: U8Array) -> None:
        """See the protocol; raises ValueError as `add_piece`, RuntimeError before the row was given whole,
        DeviceOutOfMemory, DeviceLost.
        """
        if self._first != self._cols:
            raise RuntimeError(f"{self._first} of {self._cols} columns were given: the row is not complete")
        count = elements_of_piece(block, self._dtype, self._second, self._cols)

        def run(start: int, stop: int) -> None:
            x = self._part(block, start, stop)
            self._units.append(int8_errors(x, self._largest))

        with guarded(self._device):
            in_pieces(self._device, -(-count // PIECE), run, 1)
            self._second += count
            if self._second == self._cols:
                errors = torch.cat(self._units, 1).sum(1)
                self._int8.add(_settled(errors, self._largest, self._cols, self._precision)[None])
                self._units = []
                self._first = self._second = 0

    def partial(self) -> ChannelPartial:
        """See the protocol; raises DeviceOutOfMemory, DeviceLost."""
        if self._first:
            raise RuntimeError(f"{self._second} of {self._cols} columns were given again: the row is not complete")
        with guarded(self._device):
            int4: list[float] = self._int4.total().tolist()
            int8 = float(self._int8.total()[0])
            dead_rows, sparse_fours = (int(c) for c in self._counts.tolist())
            columns: F64Array = self._columns.cpu().numpy().astype(np.float64)
        return ChannelPartial(
            int8_error=None if self._vector else int8,
            int4_128_symmetric_error=int4[0],
            int4_128_asymmetric_error=int4[1],
            int4_32_symmetric_error=int4[2],
            int4_32_asymmetric_error=int4[3],
            column_maxabs=None if self._vector else columns,
            dead_rows=dead_rows,
            fours=self._fours,
            sparse_fours=sparse_fours,
        )


def _sparse_fours(x: torch.Tensor) -> torch.Tensor:
    whole = x.shape[1] // 4 * 4
    return ((torch.unflatten(x[:, :whole], 1, (-1, 4)) == 0).sum(2) >= 2).sum()
