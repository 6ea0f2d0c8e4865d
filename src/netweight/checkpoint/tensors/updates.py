"""What an adapter adds to a weight, computed where it is read from the small tensors that it is stored as."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import RoundedTensor, floats_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["HadamardTensor", "KroneckerTensor", "ProductTensor", "StackedUpdate", "UpdateTensor", "WholeUpdate"]


_KEPT = 4  # right factors that a thread holds


@dataclass(frozen=True)
class UpdateTensor(RoundedTensor):
    """A change of a weight, float32, of the weight's shape: `scale` times what its kind computes. `label` says what it
    is, as LoRA r16.
    """

    scale: float
    label: str

    @abstractmethod
    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """out = weight + elements `start` to `start + n`: both [n] float32, not one array."""

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        self.add_to(start, np.zeros_like(out), out)

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return False

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.label


@dataclass(frozen=True)
class ProductTensor(UpdateTensor):
    """`left` times `right`: floats of 8 to 32 bits whose elements are, in order, those of [rows, r] and of [r, cols].

    Every sum runs over r in order, in float32, so that a part has the bits that it has in the whole.
    """

    left: Tensor
    right: Tensor
    rank: int

    @property
    def cols(self) -> int:
        """Columns of the matrix that the weight is with its first axis as rows (for a convolution all the others)."""
        return self.right.size // self.rank

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.left, self.right

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor; the right factor is held."""
        rows = self.wide // max(1, self.cols) + 2
        return 4 * self.cols + 8 * rows * self.rank + 4 * (1 + _KEPT) * self.right.size

    def _rows(self, start: int, count: int) -> range:
        return range(start // self.cols, -(-(start + count) // self.cols))

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            rows = self._rows(start, count)
            yield from self.left.bytes_of(rows.start * self.rank, len(rows) * self.rank)
            yield from self.right.bytes_of(0, self.right.size)

    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UpdateTensor."""
        from netweight.kernels.cpu.adapted import add_product  # noqa: PLC0415 - loops are compiled where they are needed

        rows = self._rows(start, len(out))
        left = floats_of(self.left, rows.start * self.rank, len(rows) * self.rank).reshape(len(rows), self.rank)
        right = _kept.whole(self.right).reshape(self.rank, self.cols)
        add_product(weight, left, right, self.scale, start % self.cols, out)


@dataclass(frozen=True)
class HadamardTensor(UpdateTensor):
    """The products `first` and `second` of one shape, multiplied element by element (LoHa)."""

    first: ProductTensor
    second: ProductTensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.first, self.second

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 12 * self.wide + self.first.wide_scratch + self.second.wide_scratch

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        for source in self.sources:
            yield from source.bytes_of(start, count)

    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UpdateTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        first, second = np.empty_like(out), np.empty_like(out)
        self.first.widen(start, first)
        self.second.widen(start, second)
        first *= second
        first *= np.float32(self.scale)
        np.add(weight, first, out=out)


@dataclass(frozen=True)
class KroneckerTensor(UpdateTensor):
    """The Kronecker product of `first` [a, b] and `second` [c, d ...] (LoKr): element (i, j) of the matrix [a c, b d]
    is first[i // c, j // d] * second[i % c, j % d]. Both are held while it is read.
    """

    first: Tensor
    second: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.first, self.second

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 24 * self.wide + 8 * (self.first.size + self.second.size)

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:  # noqa: ARG002 - both are read whole
        """See Tensor; all of both."""
        if count > 0:
            for source in self.sources:
                yield from source.bytes_of(0, source.size)

    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UpdateTensor."""
        import numpy as np  # noqa: PLC0415

        first = floats_of(self.first, 0, self.first.size).reshape(self.first.shape[0], -1)
        second = floats_of(self.second, 0, self.second.size).reshape(self.second.shape[0], -1)
        height, width = second.shape
        rows, cols = np.divmod(np.arange(start, start + len(out), dtype=np.int64), first.shape[1] * width)
        values = first[rows // height, cols // width] * second[rows % height, cols % width]
        values *= np.float32(self.scale)
        np.add(weight, values, out=out)


@dataclass(frozen=True)
class StackedUpdate(UpdateTensor):
    """Updates of one shape, one after the other along the first axis: those of a stack of experts."""

    each: tuple[UpdateTensor, ...]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.each

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor; experts share their tensors."""
        held = (part for update in self.each for part in update.stored_parts)
        return tuple({(part.where, part.name): part for part in held}.values())

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return sum(part.file_bytes for part in self.stored_parts)

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return max(update.wide_scratch for update in self.each)

    def _of(self, start: int, count: int) -> Iterator[tuple[UpdateTensor, int, int, int]]:
        """(update, first element of it, how many, where they lie behind `start`)."""
        size, done = self.each[0].size, 0
        while done < count:
            number, at = divmod(start + done, size)
            some = min(size - at, count - done)
            yield self.each[number], at, some, done
            done += some

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        for update, at, some, _ in self._of(start, count):
            yield from update.bytes_of(at, some)

    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UpdateTensor."""
        for update, at, some, done in self._of(start, len(out)):
            update.add_to(at, weight[done : done + some], out[done : done + some])


@dataclass(frozen=True)
class WholeUpdate(UpdateTensor):
    """What is stored as it is added: the bias of a LoRA."""

    values: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return (self.values,)

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 8 * self.wide

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.values.bytes_of(start, count)

    def add_to(self, start: int, weight: np.ndarray[Any, np.dtype[Any]], out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UpdateTensor."""
        import numpy as np  # noqa: PLC0415

        values = floats_of(self.values, start, len(out))
        values *= np.float32(self.scale)
        np.add(weight, values, out=out)


class _Kept(threading.local):
    """The right factors that a thread has read last: neighbouring rows share them, and a weight may have several."""

    def __init__(self) -> None:
        self._held: deque[tuple[Tensor, np.ndarray[Any, np.dtype[Any]]]] = deque(maxlen=_KEPT)

    def whole(self, tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        """All of `tensor`, float32, flat."""
        values = next((values for held, values in self._held if held is tensor), None)
        if values is None:
            values = floats_of(tensor, 0, tensor.size)
            self._held.append((tensor, values))
        return values


_kept = _Kept()
