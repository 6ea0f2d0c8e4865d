"""A tensor whose elements follow one by one from those of another, in float32."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import floats_of
from netweight.dtypes import DTYPES, DType

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AS_FLOAT", "LOG_OF_MINUS", "MINUS_ONE", "ComputedTensor", "TimesTensor", "as_float"]

AS_FLOAT, MINUS_ONE, LOG_OF_MINUS = "as it is", "minus one", "log of minus"
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
    def quantised(self) -> bool:
        """See Tensor."""
        return self.inner.quantised

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
    """x - 1, log(-x), or x itself, by `how`."""

    how: str

    @property
    def written(self) -> DType:
        """See Tensor."""
        return self.inner.written if self.how == AS_FLOAT else self.dtype

    def compute(self, start: int, values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:  # noqa: ARG002
        """See _ElementwiseTensor; logarithms are those of float64, rounded once."""
        import numpy as np  # noqa: PLC0415

        if self.how == AS_FLOAT:
            out[:] = values
            return
        if self.how == MINUS_ONE:
            np.subtract(values, np.float32(1), out=out, dtype=np.float32)
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:] = np.log(-values.astype(np.float64))


def as_float(tensor: Tensor) -> Tensor:
    """The same elements, floats of 8 to 32 bits, as float32; itself where it has them so."""
    if tensor.dtype.name == "F32":
        return tensor
    return ComputedTensor(tensor.name, tensor.shape, DTYPES["F32"], tensor, AS_FLOAT)


@dataclass(frozen=True)
class TimesTensor(_ElementwiseTensor):
    """x times a number: the one of `factors` (floats of 8 to 32 bits), or one for each index of an axis: the first, or
    the one whose neighbours lie `step` elements apart.
    """

    factors: Tensor
    step: int = 0
    label: str = ""

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.inner.stored} * {self.label}" if self.label else self.inner.stored

    @property
    def written(self) -> DType:
        """See Tensor."""
        return self.inner.written if self.label else self.dtype

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

        factors = floats_of(self.factors, 0, self.factors.size)
        each = self.step or self.size // len(factors)
        at = np.arange(start, start + len(values)) // each % len(factors)
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(values, factors[at], out=out, dtype=np.float32)
