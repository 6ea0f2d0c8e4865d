"""A weight of which only the numbers that are kept are stored, and a bit for every place that says whether it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.packed import whole_numbers
from netweight.checkpoint.tensors.quantised import UnitTensor
from netweight.errors import ReadError, printable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SparseTensor"]


@dataclass(frozen=True)
class SparseTensor(UnitTensor):
    """`kept` numbers, row after row, where `mask` (U8, rows of bits, the lowest first) has a bit; 0 elsewhere. A vector
    is one row.

    `offsets` (I64) says where in `kept` those of each row begin; None where every row has half of its columns.
    `declared` holds the shape once more.
    """

    kept: Tensor
    mask: Tensor
    offsets: Tensor | None
    declared: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        others = (self.offsets, self.declared)
        return (self.kept, self.mask, *(part for part in others if part is not None))

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.dtype} {'2:4' if self.offsets is None else 'sparse'}"

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return self.shape[-1]

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return self.mask.shape[-1] + self.unit * self.dtype.bits // 8 + 16

    def _starts(self, first: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Where in `kept` rows `first` to `first + count` begin, and where the last ends; int64."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        if self.offsets is None:
            return np.arange(first, first + count + 1, dtype=np.int64) * (self.unit // 2)
        starts = np.full(count + 1, self.kept.size, np.int64)
        some = min(count + 1, self.offsets.size - first)
        self.offsets.read_into(first, starts[:some].view(np.uint8).data)
        if starts[0] < 0 or (np.diff(starts) < 0).any() or starts[-1] > self.kept.size:
            raise self._damaged(f"{printable(self.offsets.name)!r} does not rise to {self.kept.size}")
        return starts

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor; of numbers whose places are stored too, those alone that places say."""
        yield from self.mask.bytes_of(first * self.mask.shape[-1], count * self.mask.shape[-1])
        if self.offsets is not None:
            yield from self.offsets.bytes_of(first, min(count + 1, self.offsets.size - first))
        else:
            half = self.unit // 2
            yield from self.kept.bytes_of(first * half, count * half)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu.packed import place_kept  # noqa: PLC0415 - loops are compiled where they are needed

        if first == 0 and (numbers := whole_numbers(self.declared)) != self.shape:
            name = printable(self.declared.name)
            raise self._damaged(f"{name!r} says {list(numbers)}, expected {list(self.shape)} by its bits")
        starts = self._starts(first, count)
        cell = f"u{out.dtype.itemsize}"
        mask = np.empty((count, self.mask.shape[-1]), np.uint8)
        self.mask.read_into(first * mask.shape[1], mask.reshape(-1).data)
        kept = np.empty(int(starts[-1] - starts[0]), cell)
        self.kept.read_into(int(starts[0]), kept.view(np.uint8).data)
        row = place_kept(mask, kept, starts - starts[0], out.view(cell).reshape(count, self.unit))
        if row >= 0:
            there = int(starts[row + 1] - starts[row])
            raise self._damaged(f"row {first + row} has {there} numbers, and another number of bits for them")

    def _damaged(self, what: str) -> ReadError:
        return ReadError(f"{self.where}: tensor {printable(self.name)!r}: {what}; the file is damaged")
