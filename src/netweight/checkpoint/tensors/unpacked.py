"""Codes of few bits that files have packed into words: one tensor of bytes, a code each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import UnitTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["UnpackedAcrossTensor", "UnpackedTensor"]

_WORD = 32  # bits, and the codes that fill whole words in any case


@dataclass(frozen=True)
class UnpackedTensor(UnitTensor):
    """Codes that lie one after the other in the bits of `words`, whatever type these have: the low bits of every byte
    first, or the high half of it (`high_first`, codes of 4 bits). Bits at the end may be unused.
    """

    words: Tensor
    bits: int
    high_first: bool = False

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return (self.words,)

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return _WORD

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return 4 * self.bits

    def _words_of(self, first: int, count: int) -> tuple[int, int]:
        """(The first element of `words` that units are in, how many are there)."""
        item = self.words.dtype.bits // 8
        start = first * 4 * self.bits // item
        return start, min(count * 4 * self.bits // item, self.words.size - start)

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        yield from self.words.bytes_of(*self._words_of(first, count))

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu import unpacked  # noqa: PLC0415 - loops are compiled where they are needed

        start, some = self._words_of(first, count)
        held = np.zeros(count * 4 * self.bits, np.uint8) if self.bits < 8 else out
        self.words.read_into(start, held[: some * self.words.dtype.bits // 8].data)
        if self.high_first:
            unpacked.unpack_high_first(held, out)
        elif self.bits < 8:
            unpacked.unpack(held.view("<u4"), self.bits, out)


@dataclass(frozen=True)
class UnpackedAcrossTensor(UnitTensor):
    """Codes [rows, cols] of which each column lies in the bits of a column of `words` [w, cols], 32 bits each, the low
    bits first.

    `order`: the places of neighbouring rows, as many as it has numbers, where they are not in their order.
    `less_one`: they are stored less one (GPTQ's first version); one is added as GPTQModel does it: to all codes of a
    word at a time, where its codes are whole (2, 4, 8 bits), so that a carry from a code whose bits are all set goes to
    the next; code by code where they are not.
    """

    words: Tensor
    bits: int
    order: tuple[int, ...] = ()
    less_one: bool = False

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return (self.words,)

    @property
    def unit(self) -> int:
        """See UnitTensor: a row."""
        return self.shape[1]

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return 4 * self.shape[1] + 8

    def _lines(self, first: int, count: int) -> range:
        """The rows of `words` that rows `first` to `first + count` are in."""
        many = len(self.order) or 1
        low, high = first // many * many, -(-(first + count) // many) * many
        return range(low * self.bits // _WORD, min(self.words.shape[0], -(-high * self.bits // _WORD)))

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        lines, cols = self._lines(first, count), self.shape[1]
        yield from self.words.bytes_of(lines.start * cols, len(lines) * cols)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu.unpacked import unpack_across  # noqa: PLC0415

        lines, cols = self._lines(first, count), self.shape[1]
        words = np.empty((len(lines), cols), "<u4")
        self.words.read_into(lines.start * cols, words.reshape(-1).view(np.uint8).data)
        whole = _WORD % self.bits == 0
        if self.less_one and whole:
            words += np.uint32(sum(1 << at for at in range(0, _WORD, self.bits)))
        rows, order = np.arange(first, first + count), np.array(self.order or (0,))
        places = rows // len(order) * len(order) + order[rows % len(order)]
        starts = places * self.bits - lines.start * _WORD
        codes = out.reshape(count, cols)
        unpack_across(words, self.bits, starts, codes)
        if self.less_one and not whole:
            codes += 1
            codes &= (1 << self.bits) - 1
