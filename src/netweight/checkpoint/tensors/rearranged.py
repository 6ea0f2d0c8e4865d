"""A tensor whose elements lie elsewhere: slices, stacks and transposes of others, put together block by block.

A stack of experts is such a tensor where a file has them one by one, and one expert where the file has the stack; so
are q, k and v of a fused projection, and the fused one of the three.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Placed", "RearrangedTensor", "turned"]

_ROWS = 1 << 20  # bytes of rows that are put together at a time
_SLAB = 8 << 20  # bytes of a transposed piece that a thread keeps: its neighbouring rows are read together
_SLABS = 4  # such slabs that a thread keeps, or as many bytes of smaller ones
_MOST = 32  # slabs of any size that it keeps
_LINES = 64  # columns of a transposed piece that are turned together
_GAP = 32 << 10  # bytes between lines that are read and thrown away rather than passed over: a read costs about as much


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a rectangle of a tensor comes from: element (i, j) of `rows` x `cols` is element `start + i * row_step +
    j * col_step` of `tensor`, counted flat. Steps are positive; one of them is 1 as a rule.
    """

    rows: range
    cols: range
    tensor: Tensor
    start: int
    row_step: int
    col_step: int

    @property
    def turned(self) -> bool:
        """Whether neighbours lie nearer to each other down a column than along a row."""
        return self.col_step > self.row_step

    @property
    def row_span(self) -> int:
        """Elements of `tensor` from the first of a row to the last."""
        return (len(self.cols) - 1) * self.col_step + 1


class _Band(NamedTuple):
    """Neighbouring rows, `first` to `stop`, and the pieces that fill them."""

    first: int
    stop: int
    pieces: tuple[Placed, ...]


@dataclass(frozen=True)
class RearrangedTensor(Tensor):
    """Elements of other tensors of one type, of whole bytes each. `placed` are rectangles of the matrix [size / width,
    width] that this tensor is, row-major; together they cover it once. `own`: it is a tensor of the checkpoint, and
    those are none.
    """

    width: int
    placed: tuple[Placed, ...]
    own: bool = False

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.placed[0].tensor.where

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        if self.own:
            return (self,)
        return tuple({part.name: part for piece in self.placed for part in piece.tensor.parts}.values())

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        held = (part for piece in self.placed for part in piece.tensor.stored_parts)
        return tuple({(part.where, part.name): part for part in held}.values())

    @property
    def stored(self) -> str:
        """See Tensor."""
        return " + ".join(sorted({piece.tensor.stored for piece in self.placed}))

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return any(piece.tensor.quantised for piece in self.placed)

    @property
    def written(self) -> DType:
        """See Tensor."""
        return self.placed[0].tensor.written

    @property
    def file_bytes(self) -> int:
        """See Tensor; the share of those that it is a part of."""
        shares = ((len(p.rows) * len(p.cols), p.tensor) for p in self.placed)
        return sum(size * tensor.file_bytes // tensor.size for size, tensor in shares)

    @property
    def scratch(self) -> int:
        """See Tensor."""
        inner = max(piece.tensor.scratch for piece in self.placed)
        item = self.dtype.bits // 8
        row = max(self.width, *(piece.row_span for piece in self.placed if not piece.turned), 0) * item
        turned = any(piece.turned for piece in self.placed)
        slabs = (_SLABS + 1) * max(_SLAB, self.width * item) if turned else 0  # and the room that they are read through
        return inner + 3 * max(_ROWS, row) + slabs

    @cached_property
    def _bands(self) -> tuple[_Band, ...]:
        bands: list[_Band] = []
        for piece in sorted(self.placed, key=lambda piece: piece.rows.start):
            if bands and piece.rows.start < bands[-1].stop:
                first, stop, pieces = bands[-1]
                bands[-1] = _Band(first, max(stop, piece.rows[-1] + 1), (*pieces, piece))
            else:
                bands.append(_Band(piece.rows.start, piece.rows[-1] + 1, (piece,)))
        return tuple(bands)

    def __getstate__(self) -> dict[str, Any]:
        """Without what follows from the rest."""
        return {key: value for key, value in self.__dict__.items() if key != "_bands"}

    def _overlapping(self, first: int, stop: int) -> Iterator[tuple[int, int, _Band]]:
        """(first row, row behind the last, their band) of rows `first` to `stop`."""
        at = bisect_right(self._bands, first, key=lambda band: band.first) - 1
        while first < stop:
            band = self._bands[at]
            yield first, min(stop, band.stop), band
            first, at = band.stop, at + 1

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor; of what is transposed, all of it."""
        if count <= 0:
            return
        for first, stop, band in self._overlapping(start // self.width, -(-(start + count) // self.width)):
            for piece in band.pieces:
                at = range(len(piece.rows)) if piece.turned else _within(piece.rows, first, stop)
                if len(at):
                    span = (len(at) - 1) * piece.row_step + piece.row_span
                    yield from piece.tensor.bytes_of(piece.start + at.start * piece.row_step, span)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        count = self.count_in(start, out)
        item = self.dtype.bits // 8
        done = 0
        while done < count:
            row, into = divmod(start + done, self.width)
            first, stop, band = next(self._overlapping(row, row + 1 + (into + count - done - 1) // self.width))
            most = (stop - first) * self.width - into
            take = min(count - done, most)
            view = out[done * item : (done + take) * item]
            if not self._read_straight(band, row, into, view):
                take = self._read_rows(band, row, into, view)
            done += take

    def _read_straight(self, band: _Band, row: int, into: int, out: memoryview) -> bool:
        """Fill `out` from one piece that has these elements one after the other; False where none has."""
        if len(band.pieces) != 1:
            return False
        (piece,) = band.pieces
        if piece.rows.step != 1 or piece.cols != range(self.width) or piece.col_step != 1:
            return False
        if piece.row_step != self.width and into + len(out) * 8 // self.dtype.bits > self.width:
            return False
        piece.tensor.read_into(piece.start + (row - piece.rows.start) * piece.row_step + into, out)
        return True

    def _read_rows(self, band: _Band, row: int, into: int, out: memoryview) -> int:
        """Put whole rows together, and copy from element `into` of the first what `out` takes; returns how many."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        item = self.dtype.bits // 8
        wanted = len(out) // item
        rows = max(1, min(-(-(into + wanted) // self.width), _ROWS // (self.width * item)))
        take = min(wanted, rows * self.width - into)
        cell = f"u{item}" if item <= 8 else f"V{item}"
        target = np.frombuffer(out, cell)[:take]
        whole = into == 0 and take == rows * self.width
        matrix = (target if whole else np.empty(rows * self.width, cell)).reshape(rows, self.width)
        for piece in band.pieces:
            at = _within(piece.rows, row, row + rows)
            if len(at):
                lines = slice(piece.rows[at.start] - row, None, piece.rows.step)
                cells = matrix[lines, piece.cols.start : piece.cols.stop : piece.cols.step]
                (_fill_turned if piece.turned else _fill_rows)(piece, at, cells[: len(at)])
        if not whole:
            target[:] = matrix.reshape(-1)[into : into + take]
        return take


def turned(tensor: Tensor) -> Tensor:
    """The transpose of a matrix that has elements, as a tensor of the checkpoint."""
    rows, cols = tensor.shape
    piece = Placed(range(cols), range(rows), tensor, 0, 1, cols)
    return RearrangedTensor(tensor.name, (cols, rows), tensor.dtype, rows, (piece,), own=True)


def _within(rows: range, first: int, stop: int) -> range:
    """The positions in `rows` of those from `first` to `stop`."""
    before = max(0, -(-(first - rows.start) // rows.step))
    return range(before, min(len(rows), max(before, -(-(stop - rows.start) // rows.step))))


def _fill_rows(piece: Placed, at: range, cells: np.ndarray[Any, Any]) -> None:
    """Fill `cells` with the piece's rows `at`."""
    _read_lines(piece.tensor, piece.start + at.start * piece.row_step, piece.row_step, piece.col_step, cells)


def _fill_turned(piece: Placed, at: range, cells: np.ndarray[Any, Any]) -> None:
    """Fill `cells` with the piece's rows `at`, of slabs that are read column by column."""
    per_slab = max(1, _SLAB // (max(len(piece.cols), piece.row_step) * cells.dtype.itemsize))
    for number in range(at.start // per_slab, -(-at.stop // per_slab)):
        slab = _kept.slab(piece, number, per_slab, cells.dtype)
        first, stop = max(at.start, number * per_slab), min(at.stop, (number + 1) * per_slab)
        cells[first - at.start : stop - at.start] = slab[first - number * per_slab : stop - number * per_slab]


def _read_lines(tensor: Tensor, start: int, line_step: int, step: int, cells: np.ndarray[Any, Any]) -> None:
    """Fill `cells`, whose element (i, j) is element `start + i * line_step + j * step`: several lines at a time, with
    what lies between them where that is little.
    """
    import numpy as np  # noqa: PLC0415

    (lines, count), item = cells.shape, cells.dtype.itemsize
    span = (count - 1) * step + 1
    near = span <= line_step and (line_step - span) * item <= _GAP
    group = max(1, min(lines, _ROWS // (line_step * item))) if near else 1
    room = np.empty((group - 1) * line_step + span, cells.dtype)
    for first in range(0, lines, group):
        target = cells[first : first + group]
        straight = step == 1 and (len(target) == 1 or line_step == count) and target.flags.c_contiguous
        flat = target.reshape(-1) if straight else room[: (len(target) - 1) * line_step + span]
        tensor.read_into(start + first * line_step, flat.view(np.uint8).data)
        if not straight:
            strides = (line_step * item, step * item)
            target[:] = np.lib.stride_tricks.as_strided(room, target.shape, strides, writeable=False)


class _Kept(threading.local):
    """The slabs that a thread has read last: neighbouring rows of a transposed piece share every read."""

    def __init__(self) -> None:
        self._slabs: OrderedDict[tuple[int, int], tuple[Placed, np.ndarray[Any, Any]]] = OrderedDict()

    def slab(self, piece: Placed, number: int, rows: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Rows `number * rows` and those that follow, [rows, columns of the piece]."""
        key = (id(piece), number)
        held = self._slabs.pop(key, None)
        if held is None or held[0] is not piece:
            held = None
            at = range(number * rows, min((number + 1) * rows, len(piece.rows)))
            size = len(at) * len(piece.cols) * dtype.itemsize
            self._make_room(size)
            held = piece, _read_slab(piece, at, dtype)
            self._make_room(size)  # what lies below may have slabs too
        self._slabs[key] = held
        return held[1]

    def _make_room(self, size: int) -> None:
        """For a slab of `size` bytes."""
        taken = size + sum(slab.nbytes for _, slab in self._slabs.values())
        while self._slabs and (taken > _SLABS * _SLAB or len(self._slabs) >= _MOST):
            taken -= self._slabs.popitem(last=False)[1][1].nbytes


_kept = _Kept()


def _read_slab(piece: Placed, at: range, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415

    slab = np.empty((len(at), len(piece.cols)), dtype)
    start = piece.start + at.start * piece.row_step
    if piece.row_step == 1 and dtype.kind == "u":
        _read_turned(piece.tensor, start, piece.col_step, slab)
    else:
        _read_lines(piece.tensor, start, piece.col_step, piece.row_step, slab.T)
    return slab


def _read_turned(tensor: Tensor, start: int, line_step: int, slab: np.ndarray[Any, Any]) -> None:
    """Fill `slab`, whose element (i, j) is element `start + i + j * line_step`: some columns at a time, with what lies
    between them where that is little.
    """
    import numpy as np  # noqa: PLC0415

    from netweight.kernels.cpu.turned import APART, turn  # noqa: PLC0415 - loops are compiled where they are needed

    (count, lines), item = slab.shape, slab.dtype.itemsize
    near = (line_step - count) * item <= _GAP
    step = line_step if near else count + APART
    group = max(1, min(lines, _LINES, _ROWS // (step * item)))
    room = np.empty(group * step, slab.dtype)
    for first in range(0, lines, group):
        some = min(group, lines - first)
        whole = [(0, (some - 1) * step + count)] if near else [(line * step, count) for line in range(some)]
        for at, span in whole:
            line = first + at // step
            tensor.read_into(start + line * line_step, room[at : at + span].view(np.uint8).data)
        turn(room, step, some, first, slab)
