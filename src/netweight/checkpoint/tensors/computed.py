"""A tensor whose elements follow one by one from those of another, in float32."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LOG_OF_MINUS", "MINUS_ONE", "ComputedTensor", "TimesTensor"]

MINUS_ONE, LOG_OF_MINUS = "minus one", "log of minus"
_ELEMENTS = 1 << 18  # that are computed at a time


@dataclass(frozen=True)
class _ElementwiseTensor(Tensor):
    """float32 made of the elements of `inner`, floats of the same order."""

    inner: Tensor

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.inner.where

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return self.inner.stored_parts

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.inner.stored

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return self.inner.file_bytes

    @property
    def scratch(self) -> int:
        """See Tensor."""
        return self.inner.scratch + _ELEMENTS * (8 + self.inner.dtype.bits // 8)

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.inner.bytes_of(start, count)

    @abstractmethod
    def compute(self, start: int, values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Fill `out` float32 [n] with what becomes of `values` [n], the elements of `inner` from `start`."""

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        count = self.count_in(start, out)
        target = np.frombuffer(out, "<f4")
        held = np.empty(min(count, _ELEMENTS), self.inner.dtype.to_numpy())
        for done in range(0, count, _ELEMENTS):
            some = held[: min(_ELEMENTS, count - done)]
            self.inner.read_into(start + done, some.view(np.uint8).data)
            self.compute(start + done, some, target[done : done + len(some)])


@dataclass(frozen=True)
class ComputedTensor(_ElementwiseTensor):
    """x - 1 or log(-x), by `how`."""

    how: str

    def compute(self, start: int, values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:  # noqa: ARG002
        """See _ElementwiseTensor; logarithms are those of float64, rounded once."""
        import numpy as np  # noqa: PLC0415

        if self.how == MINUS_ONE:
            np.subtract(values, np.float32(1), out=out, dtype=np.float32)
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:] = np.log(-values.astype(np.float64))


@dataclass(frozen=True)
class TimesTensor(_ElementwiseTensor):
    """x times a number: the one of `factors` (float32), or one for each index of the first axis."""

    factors: Tensor

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return (*self.inner.stored_parts, *self.factors.stored_parts)

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return self.inner.file_bytes + self.factors.file_bytes

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.inner.bytes_of(start, count)
        if count > 0:
            yield from self.factors.bytes_of(0, self.factors.size)

    def compute(self, start: int, values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """See _ElementwiseTensor."""
        import numpy as np  # noqa: PLC0415

        factors = self.factors.read().reshape(-1)
        each = self.size // len(factors)
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(values, factors[np.arange(start, start + len(values)) // each], out=out, dtype=np.float32)
