"""A tensor as a file stores it: elements behind an offset, in C order or with strides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from netweight.checkpoint.strided import flip_signs, read_strided, span_of, swap_bytes
from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.source.protocol import Source

__all__ = ["StoredTensor"]


@dataclass(frozen=True)
class StoredTensor(Tensor):
    """Elements that one file holds.

    `offset` is where element 0 lies in `source`, in bytes; `strides` are in elements, None for C order.
    `storage` names the storage that several tensors may share (torch), None where nothing can be shared. `negative` and
    `conjugate` are torch's bits of lazy views: the elements are those stored with another sign.
    """

    source: Source = field(repr=False)
    offset: int
    strides: tuple[int, ...] | None = None
    storage: str | None = None
    byteorder: str = "little"
    negative: bool = False
    conjugate: bool = False

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.source.name

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor; of a view with strides, all that it spans."""
        first, last = (start, start + count) if self.strides is None else (0, span_of(self.shape, self.strides))
        if last > first:
            bits = self.dtype.bits
            yield Stretch(self.source, self.offset + first * bits // 8, -(-(last - first) * bits // 8))

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor. Packed types are read whole bytes at a time."""
        bits = self.dtype.bits
        if not self.count_in(start, out):
            return
        if self.strides is None:
            self.source.read_into(self.offset + start * bits // 8, out)
        else:
            read_strided(self.source, self.offset, bits // 8, self.shape, self.strides, start, out)
        if self.byteorder == "big":
            swap_bytes(out, self.dtype)
        if self.negative or self.conjugate:
            flip_signs(out, self.dtype, negative=self.negative, conjugate=self.conjugate)
