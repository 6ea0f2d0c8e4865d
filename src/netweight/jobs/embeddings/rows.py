"""The rows of an embedding, read in blocks as float32, centred; what is not finite is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.errors import OptionError
from netweight.run.threads import in_order
from netweight.source.held import HeldBytes

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


__all__ = ["MeasuredRows", "Rows", "Stretch", "distances_to", "held_in_memory", "measure_rows", "run_in_order"]

R = TypeVar("R")

_ELEMENTS = 1 << 22  # of a block: 16 MiB as float32
_STRETCH = 8  # blocks; sums are formed by stretch and merged in order
_SPAN = 64  # powers of two around 1 in which float32 sums of squares keep their range


@dataclass(frozen=True)
class Stretch:
    """Neighbouring rows: one task."""

    first: int
    count: int


@dataclass(frozen=True)
class Rows:
    """A matrix [rows, cols] as float32: the stored elements times `scale`, a power of two, minus `mean` float32 [cols].

    `kept` bool [rows]: rows that are read at all.
    """

    tensor: Tensor
    scale: float = 1.0
    mean: Array | None = None
    kept: Array | None = None

    @property
    def count(self) -> int:
        """Rows, those that are left out among them."""
        return self.tensor.shape[0]

    @property
    def cols(self) -> int:
        """Columns."""
        return self.tensor.shape[1]

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, _ELEMENTS // max(1, self.cols))

    @property
    def block_bytes(self) -> int:
        """Memory that one block takes, the stored elements with it."""
        return self.block_rows * self.cols * (4 + 8 + self.tensor.dtype.bits // 8)

    def stretches(self) -> list[Stretch]:
        """The tasks of one reading of all rows."""
        step = self.block_rows * _STRETCH
        return [Stretch(first, min(step, self.count - first)) for first in range(0, self.count, step)]

    def blocks(self, stretch: Stretch) -> Iterator[tuple[Array, Array]]:
        """(float32 [n, cols], the rows' numbers int64 [n]) of the kept rows, block by block; raises ReadError."""
        import numpy as np

        end = stretch.first + stretch.count
        for first in range(stretch.first, end, self.block_rows):
            count = min(self.block_rows, end - first)
            numbers = np.arange(first, first + count)
            block = self._read(first, count)
            if self.kept is not None and not self.kept[first : first + count].all():
                chosen = self.kept[first : first + count]
                block, numbers = block[chosen], numbers[chosen]
            if self.mean is not None:
                block -= self.mean
            if len(block):
                yield block, numbers

    def pick(self, numbers: Array) -> Array:
        """Rows of ascending `numbers`, float32 [n, cols]."""
        import numpy as np

        picked = np.empty((len(numbers), self.cols), np.float32)
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1) if len(numbers) else np.empty(0, np.int64)
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            for first in range(start, stop, self.block_rows):
                last = min(stop, first + self.block_rows)
                picked[first:last] = self._read(int(numbers[first]), last - first)
        if self.mean is not None:
            picked -= self.mean
        return picked

    def _read(self, first: int, count: int) -> Array:
        import numpy as np

        from netweight.kernels.cpu.cluster_loops import widen_bfloat16

        dtype = self.tensor.dtype
        raw = np.empty(count * self.cols * dtype.bits // 8, np.uint8)
        read_elements(self.tensor, first * self.cols, raw.data)
        if dtype.name == "BF16":
            wide = np.empty(count * self.cols, np.float32)
            widen_bfloat16(raw.view(np.uint16), np.float32(self.scale), wide)
            return wide.reshape(count, self.cols)
        native = raw.view(dtype.to_numpy())
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32, and signalling NaN: they are left out
            if dtype.bits > 32:
                native = native * self.scale
            wide = native.astype(np.float32)
            if dtype.bits <= 32 and self.scale != 1.0:
                wide *= np.float32(self.scale)
        return wide.reshape(count, self.cols)


@dataclass(frozen=True)
class MeasuredRows:
    """The result of `measure_rows`: `norms` float64 [rows], as stored, NaN for those that hold NaN or infinities, which
    the centred `rows` leave out.
    """

    norms: Array
    rows: Rows


def held_in_memory(tensor: Tensor) -> Tensor:
    """The tensor with its bytes in memory, for one that is read many times and is far away; raises ReadError."""
    held = bytearray(tensor.nbytes)
    step = _ELEMENTS * 2
    with memoryview(held) as view:
        for first in range(0, tensor.size, step):
            tensor.prefetch(first + step, step)
            width = tensor.dtype.bits // 8
            read_elements(tensor, first, view[first * width : min(first + step, tensor.size) * width])
    origins = tuple({id(s.source): s.source for s in tensor.bytes_of(0, tensor.size)}.values())
    return StoredTensor(tensor.name, tensor.shape, tensor.dtype, HeldBytes(memoryview(held), tensor.where, origins), 0)


def run_in_order(rows: Rows, work: Callable[[Stretch], R], executor: Executor) -> Iterator[R]:
    """work(stretch) for all stretches of `rows`, in their order, whatever the number of workers.

    Raises OptionError for an executor whose workers do not share memory, which `work` may fill.
    """
    if not getattr(executor, "shares_memory", True):
        raise OptionError("embeddings: expected an executor whose workers share memory, such as threads; leave it out")
    return in_order(rows.stretches(), work, executor)


def measure_rows(tensor: Tensor, executor: Executor) -> MeasuredRows:
    """Norms, mean and finiteness of the rows of a matrix; the rows are scaled where float32 would leave its range."""
    import numpy as np

    from netweight.kernels.cpu.cluster_loops import row_facts

    rows = Rows(tensor)
    for _ in range(2):  # once more where elements are so large or small that they need a scale
        squares = np.full(rows.count, np.nan)
        total = np.zeros(rows.cols)
        most = 0.0

        def measure_stretch(stretch: Stretch, rows: Rows = rows, squares: Array = squares) -> tuple[Array, float]:
            added, largest = np.zeros(rows.cols), 0.0
            for block, numbers in rows.blocks(stretch):
                row_facts(block, squares[numbers[0] : numbers[-1] + 1], added)
                largest = max(largest, _largest(block))
            return added, largest

        for added, largest in run_in_order(rows, measure_stretch, executor):
            total += added
            most = max(most, largest)
        exponent = math.frexp(_largest_stored(tensor, executor))[1] if tensor.dtype.bits > 32 else math.frexp(most)[1]
        if rows.scale != 1.0 or abs(exponent) <= _SPAN:
            break
        rows = replace(rows, scale=math.ldexp(1.0, -exponent))
    kept = np.isfinite(squares)
    mean = (total / max(1, int(kept.sum()))).astype(np.float32)
    norms = np.where(kept, np.sqrt(np.where(kept, squares, 0.0)) / rows.scale, np.nan)
    return MeasuredRows(norms, replace(rows, mean=mean, kept=None if kept.all() else kept))


def distances_to(rows: Rows, labels: Array, centres: Array, executor: Executor) -> Array:
    """float64 [rows]: the distance of each row to `centres` [k, cols] number `labels` int64 [rows], as stored.

    `centres` are centred and scaled as the rows are; NaN where a row is left out.
    """
    import numpy as np

    from netweight.kernels.cpu.cluster_loops import distances

    out = np.full(rows.count, np.nan)

    def measure_stretch(stretch: Stretch) -> None:
        for block, numbers in rows.blocks(stretch):
            apart = np.empty(len(block))
            distances(block, labels[numbers], centres, apart)
            out[numbers] = apart / rows.scale

    for _ in run_in_order(rows, measure_stretch, executor):
        pass
    return out


def _largest(values: Array) -> float:
    """The largest finite absolute value."""
    import numpy as np

    most = float(np.abs(values).max(initial=0.0))
    if math.isfinite(most):
        return most
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _largest_stored(tensor: Tensor, executor: Executor) -> float:
    """The largest finite absolute value of 64-bit elements, which float32 may not hold."""
    import numpy as np

    rows = Rows(tensor)

    def largest_of(stretch: Stretch) -> float:
        most = 0.0
        for first in range(stretch.first, stretch.first + stretch.count, rows.block_rows):
            count = min(rows.block_rows, stretch.first + stretch.count - first)
            raw = np.empty(count * rows.cols * tensor.dtype.bits // 8, np.uint8)
            read_elements(tensor, first * rows.cols, raw.data)
            most = max(most, _largest(raw.view(tensor.dtype.to_numpy())))
        return most

    return max(run_in_order(rows, largest_of, executor), default=0.0)
