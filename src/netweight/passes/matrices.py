"""The statistics of one matrix: one reading feeds everything that can be fed at once.

8- and 16-bit floats need no other reading, but for rows that are too long to be held, whose pieces are read twice. 32-
and 64-bit floats are read again where quantiles are open, and for counts and sums whose thresholds come out of the
first reading; a small matrix of them is sorted instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from netweight.statistics.channels import CHANNELS, Channels
from netweight.statistics.patterns import FewPatterns, PatternHistogram
from netweight.statistics.readings import Readings
from netweight.statistics.values import COUNTS, INT8, NEEDS, Values, of_distinct, of_histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netweight.checkpoint.matrix import Matrix
    from netweight.kernels.arrays import U8Array
    from netweight.kernels.protocol import Kernels
    from netweight.measures.registry import Measure

__all__ = ["BUFFER", "FEW", "LONGEST_ROW", "BlockSink", "Gathered", "Scratch", "gather", "scratch_bytes"]

BUFFER = 1 << 22
"""Bytes that are read at a time."""

LONGEST_ROW = 1 << 26
"""Bytes of the longest row that is ever held whole: sinks take whole rows."""

FEW = 1 << 16
"""Elements up to which 32- and 64-bit floats are held and sorted."""

_FEW_PATTERNS = 1 << 15  # and 16-bit floats
_STRETCH = 1 << 24  # elements whose sums are formed together: fixed, so that the order of sums is


class BlockSink(Protocol):
    """Takes every block of whole rows of the first reading, in order."""

    def add(self, block: U8Array, rows: int) -> None:
        """Native bytes of `rows` whole rows."""
        ...


@dataclass(frozen=True)
class Gathered:
    """The statistics of a matrix; None where nothing of the kind was asked for."""

    values: Values | None
    channels: Channels | None


class Scratch:
    """The buffers and accumulators of one thread, made when first needed and used again for every matrix."""

    def __init__(self, kernels: Kernels, buffer: int = BUFFER) -> None:
        """`buffer` bytes are read at a time, a multiple of 64 KiB; results do not depend on it."""
        self.kernels = kernels
        self.nbytes = buffer
        self._made: dict[str, Any] = {}

    def of(self, kind: str, make: Callable[[], Any]) -> Any:
        """The accumulator or buffer of this kind, from `make` where there is none yet."""
        if kind not in self._made:
            self._made[kind] = make()
        return self._made[kind]

    def room(self, nbytes: int) -> U8Array:
        """A byte buffer; only the usual size is kept for the next matrix."""
        if nbytes > self.nbytes:
            return np.empty(nbytes, np.uint8)
        buffer: U8Array = self.of("buffer", lambda: np.empty(self.nbytes, np.uint8))
        return buffer


def scratch_bytes(kernels: Kernels, measures: Iterable[Measure], longest_row: int = 0) -> int:
    """Memory that a `Scratch` and what is gathered with it take at most, in bytes, for the needs of these measures.

    `longest_row`: bytes of the longest row, where it is known to be longer than the buffer.
    """
    needs = frozenset().union(*(m.needs for m in measures))
    total = BUFFER + min(longest_row, LONGEST_ROW)
    if needs & NEEDS:
        total += kernels.working_bytes(1) + (3 << 24)  # tables of patterns, residual values, counts under open prefixes
    if CHANNELS in needs:
        total += (1 << 20) + 4 * longest_row  # at most four bytes of magnitude by column for a byte of the row
    return total


class _Pieces:
    """Feeds bytes of any length to an accumulator through its buffer, and flushes it after each stretch."""

    def __init__(self, accumulator: Any, buffer: U8Array, itemsize: int, flush: Callable[[], None] | None) -> None:
        self._accumulator = accumulator
        self._itemsize = itemsize
        self._room = buffer[: accumulator.block * itemsize]
        self._flush = flush
        self._filled = 0
        self._in_stretch = 0

    def add(self, block: U8Array) -> None:
        first = 0
        while first < len(block):
            taken = min(len(block) - first, len(self._room) - self._filled)
            self._room[self._filled : self._filled + taken] = block[first : first + taken]
            first += taken
            self._filled += taken
            if self._filled == len(self._room):
                self._pass_on()

    def _pass_on(self) -> None:
        count = self._filled // self._itemsize
        self._accumulator.add(count)
        self._filled = 0
        self._in_stretch += count
        if self._flush is not None and self._in_stretch >= _STRETCH:
            self._flush()
            self._in_stretch = 0

    def close(self) -> None:
        if self._filled:
            self._pass_on()
        if self._flush is not None and self._in_stretch:
            self._flush()


def gather(matrix: Matrix, scratch: Scratch, needs: frozenset[str], sinks: Sequence[BlockSink] = ()) -> Gathered:
    """Gather what `needs` names ("values...." of statistics/values.py, "channels"); give every block of rows to
    `sinks`.

    Raises ReadError where bytes cannot be read, ValueError for unknown needs, or for sinks where a row is longer than
    LONGEST_ROW.
    """
    if unknown := needs - NEEDS - {CHANNELS}:
        raise ValueError(f"needs {sorted(unknown)} are not known; there are {sorted(NEEDS | {CHANNELS})}")
    row_bytes = matrix.dtype.nbytes(matrix.cols)
    if sinks and row_bytes > LONGEST_ROW:
        raise ValueError(f"{matrix.name}: rows of {row_bytes} bytes for sinks; expected at most {LONGEST_ROW}")
    value_needs = needs & NEEDS
    vector = matrix.rows == 1
    if CHANNELS in needs and vector:
        value_needs |= {COUNTS, INT8}  # a vector's columns are its elements, and its row the whole of it
    channels = scratch.of("channels", scratch.kernels.channels) if CHANNELS in needs else None
    if channels is not None:
        channels.start(matrix.dtype, matrix.rows, matrix.cols)
    values = None
    if value_needs:
        values = _source_of_values(matrix)(matrix, scratch, value_needs)
    if matrix.rows and matrix.cols and (values or channels or sinks):
        _first_reading(matrix, scratch, values, channels, sinks)
    statistics = values.finish() if values else None
    return Gathered(
        statistics,
        None if channels is None else Channels.of(matrix.rows, matrix.cols, channels.partial(), statistics),
    )


def _source_of_values(matrix: Matrix) -> type[_FromPatterns | _FromFew | _FromReadings]:
    if matrix.dtype.bits == 8 or (matrix.dtype.bits == 16 and matrix.size > _FEW_PATTERNS):
        return _FromPatterns
    return _FromFew if matrix.size <= FEW else _FromReadings


class _FromFew:
    """Values of a small matrix of 16-, 32- or 64-bit floats, held and sorted: quicker than tables of 65,536 bins."""

    def __init__(self, matrix: Matrix, scratch: Scratch, needs: frozenset[str]) -> None:  # noqa: ARG002 - as the others
        self._dtype = matrix.dtype
        self._needs = needs
        self._blocks: list[U8Array] = []

    def add(self, block: U8Array) -> None:
        self._blocks.append(block.copy())

    def finish(self) -> Values:
        held = np.concatenate([np.zeros(0, np.uint8), *self._blocks])
        if self._dtype.bits == 16:
            return of_histogram(FewPatterns.of(self._dtype, held.view(np.uint16)), self._needs)
        with np.errstate(invalid="ignore"):  # signalling NaN
            elements = held.view(self._dtype.to_numpy()).astype(np.float64)
        n_nan, n_inf = int(np.isnan(elements).sum()), int(np.isinf(elements).sum())
        values, counts = np.unique(elements[np.isfinite(elements)], return_counts=True)
        return of_distinct(values, counts.astype(np.uint64), (len(elements), n_nan, n_inf), self._needs)


class _FromPatterns:
    """Values of 8- and 16-bit floats, from one count."""

    def __init__(self, matrix: Matrix, scratch: Scratch, needs: frozenset[str]) -> None:
        self._dtype = matrix.dtype
        self._needs = needs
        self._patterns = scratch.of("patterns", scratch.kernels.patterns)
        self._patterns.start(matrix.dtype)
        self.add: Callable[[U8Array], None] = self._patterns.add

    def finish(self) -> Values:
        return of_histogram(PatternHistogram(self._dtype, self._patterns.counts()), self._needs)


class _FromReadings:
    """Values of 32- and 64-bit floats: the first reading is fed, further ones read the matrix themselves."""

    def __init__(self, matrix: Matrix, scratch: Scratch, needs: frozenset[str]) -> None:
        self._matrix = matrix
        self._scratch = scratch
        self._readings = Readings(needs)
        self._first = scratch.of("differences", lambda: scratch.kernels.differences(1))
        self._start()
        self._pieces: _Pieces | None = _Pieces(
            self._first, self._first.buffers[1], matrix.dtype.bits // 8, self._stretch
        )

    def add(self, block: U8Array) -> None:
        assert self._pieces is not None  # noqa: S101 - nothing comes after `finish`
        self._pieces.add(block)

    def _start(self) -> None:
        self._first.start([None, self._matrix.dtype], self._readings.kept())

    def _stretch(self) -> None:
        self._readings.add(self._first.partial())
        self._start()

    def _feed(self, accumulator: Any, buffer: U8Array) -> None:
        pieces = _Pieces(accumulator, buffer, self._matrix.dtype.bits // 8, None)
        for block, _, _ in _blocks(self._matrix, self._scratch, self._scratch.nbytes):
            pieces.add(block)
        pieces.close()

    def finish(self) -> Values:
        pieces, self._pieces = self._pieces, None  # they hold each other, and the matrix would outlive its measuring
        assert pieces is not None  # noqa: S101 - it is called once
        pieces.close()
        if not self._matrix.size:
            self._readings.add(self._first.partial())
        while (wanted := self._readings.open_prefixes()) is not None:
            level, prefixes = wanted
            refine = self._scratch.of("refine", lambda: self._scratch.kernels.refine(1))
            refine.start([None, self._matrix.dtype], [prefixes], level)
            self._feed(refine, refine.buffers[1])
            self._readings.refine(refine.counts()[0])
        request, partial = self._readings.last_reading(), None
        if request is not None:
            last = self._scratch.of("values", self._scratch.kernels.values)
            last.start(self._matrix.dtype, request.scale, request.ranges, request.thresholds)
            self._feed(last, last.buffer)
            partial = last.partial()
        return self._readings.finish(request, partial)


def _first_reading(matrix: Matrix, scratch: Scratch, values: Any, channels: Any, sinks: Sequence[BlockSink]) -> None:
    """Give every byte once to all that take it, and the pieces of long rows once more to the channels."""
    by_rows = bool(sinks) or (channels is not None and matrix.rows > 1)
    held = LONGEST_ROW if sinks else 8 * scratch.nbytes if by_rows else scratch.nbytes
    twice = channels is not None and matrix.rows > 1
    for block, rows, row in _blocks(matrix, scratch, held):
        if values is not None:
            values.add(block)
        if channels is not None:
            if rows:
                channels.add(block, rows)
            else:
                channels.add_piece(block)
        for sink in sinks:
            sink.add(block, rows)
        if twice and row is not None:
            for piece in _cells(matrix, row, scratch):
                channels.add_piece_again(piece)


def _blocks(matrix: Matrix, scratch: Scratch, held: int) -> Iterator[tuple[U8Array, int, int | None]]:
    """Blocks in order: of whole rows, and how many; or of pieces of rows that are longer than `held` bytes, 0, and the
    number of the row behind its last piece.
    """
    row_bytes = matrix.dtype.nbytes(matrix.cols)
    if not row_bytes:
        return
    if row_bytes <= held:
        at_once = max(1, scratch.nbytes // row_bytes)
        room = scratch.room(max(scratch.nbytes, row_bytes))
        for first in range(0, matrix.rows, at_once):
            rows = min(at_once, matrix.rows - first)
            block = room[: rows * row_bytes]
            matrix.read_rows(first, rows, block.data)
            yield block, rows, None
        return
    for row in range(matrix.rows):
        left = row_bytes
        for block in _cells(matrix, row, scratch):
            left -= len(block)
            yield block, 0, None if left else row


def _cells(matrix: Matrix, row: int, scratch: Scratch) -> Iterator[U8Array]:
    """One row in pieces."""
    room = scratch.room(scratch.nbytes)
    at_once = 8 * scratch.nbytes // matrix.dtype.bits
    for first in range(0, matrix.cols, at_once):
        count = min(at_once, matrix.cols - first)
        block = room[: matrix.dtype.nbytes(count)]
        matrix.read_cells(row, first, count, block.data)
        yield block
