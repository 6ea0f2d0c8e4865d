"""What all weights have in common that are decoded from what is stored: codes, with scales and more beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["QuantisedTensor", "UnitTensor"]

_ELEMENTS = 1 << 18  # that are decoded at a time


@dataclass(frozen=True)
class QuantisedTensor(Tensor):
    """A weight that is decoded from stored tensors."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Tensor, ...]:
        """The stored tensors that it is decoded from, its codes first."""

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.sources[0].where

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return tuple(part for source in self.sources for part in source.parts)

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return sum(source.file_bytes for source in self.sources)


@dataclass(frozen=True)
class UnitTensor(QuantisedTensor):
    """A weight that is decoded in units of neighbouring elements: a block, a group, a row. The last may be cut."""

    @property
    @abstractmethod
    def unit(self) -> int:
        """Elements of a unit."""

    @property
    @abstractmethod
    def unit_scratch(self) -> int:
        """Bytes that decoding a unit takes, beside the elements that come out."""

    @abstractmethod
    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Fill `out` [count * unit] with units `first` to `first + count`: elements of `dtype`, bfloat16 as uint16."""

    @abstractmethod
    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """What units `first` to `first + count` are read from."""

    @property
    def scratch(self) -> int:
        """See Tensor; sources are read one after the other."""
        units = max(1, _ELEMENTS // self.unit)
        inner = max(source.scratch for source in self.sources)
        return units * (self.unit_scratch + self.unit * self.dtype.bits // 8) + inner

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            first, stop = start // self.unit, -(-(start + count) // self.unit)
            yield from self.bytes_of_units(first, stop - first)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        count, unit = self.count_in(start, out), self.unit
        cell = np.dtype(np.uint16) if self.dtype.name == "BF16" else self.dtype.to_numpy()
        target = np.frombuffer(out, cell)
        most = max(1, _ELEMENTS // unit)
        done = 0
        while done < count:
            first, skip = divmod(start + done, unit)
            units = min(most, -(-(skip + count - done) // unit))
            some = min(units * unit - skip, count - done)
            straight = some == units * unit
            wide = target[done : done + some] if straight else np.empty(units * unit, cell)
            self.decode(first, units, wide)
            if not straight:
                target[done : done + some] = wide[skip : skip + some]
            done += some
