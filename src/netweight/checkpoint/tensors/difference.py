"""What one tensor has and another has not: their difference, computed where it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import RoundedTensor, read_floats

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DifferenceTensor"]


@dataclass(frozen=True)
class DifferenceTensor(RoundedTensor):
    """`tuned` - `base`, floats of one shape, in float32: rounded once where both have 32 bits at most."""

    tuned: Tensor
    base: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.tuned, self.base

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return self.tuned.quantised or self.base.quantised

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.tuned.stored} - {self.base.stored}"

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 24 * self.wide  # of 64-bit floats: both, and their difference

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.tuned.bytes_of(start, count)
        yield from self.base.bytes_of(start, count)

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        if 64 in (self.tuned.dtype.bits, self.base.dtype.bits):
            wide = [np.empty(len(out), one.dtype.to_numpy()) for one in self.sources]
            for one, room in zip(self.sources, wide, strict=True):
                one.read_into(start, room.view(np.uint8).data)
            with np.errstate(invalid="ignore", over="ignore"):
                out[:] = np.subtract(*wide, dtype=np.float64)
            return
        less = np.empty(len(out), "<f4")
        read_floats(self.tuned, start, out)
        read_floats(self.base, start, less)
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(out, less, out=out)
