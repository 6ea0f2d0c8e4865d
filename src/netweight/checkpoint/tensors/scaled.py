"""A weight that is stored as codes of 8 bits with a scale for every block of them: code times scale, as float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import QuantisedTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ScaledTensor"]

_BLOCK = 1 << 18  # codes that are read at a time


@dataclass(frozen=True)
class ScaledTensor(QuantisedTensor):
    """`codes`, floats or integers of 8 bits of this shape, times `scales`: element i of an axis has scale i // `block`.

    `grid` is the shape of the scales, of as many axes. The product is float32, rounded once.
    """

    codes: Tensor
    scales: Tensor
    block: tuple[int, ...]
    grid: tuple[int, ...]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.codes, self.scales

    @property
    def stored(self) -> str:
        """See Tensor."""
        steps = [min(n, step) for step, n in zip(self.block, self.shape, strict=True)]
        return f"{self.codes.dtype} {'x'.join(map(str, steps[-2:]))}"

    @property
    def scratch(self) -> int:
        """See Tensor."""
        rows = _BLOCK // max(1, self.shape[-1]) + 2
        return _BLOCK + (8 + 8 * self.grid[-1]) * rows + self.codes.scratch + self.scales.scratch

    def _rows(self, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Where in the scales those of each row of elements `start` to `start + count` begin; int64."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        cols = self.shape[-1]
        left = np.arange(start // cols, (start + count - 1) // cols + 1, dtype=np.int64)
        first = np.zeros(len(left), np.int64)
        width = self.grid[-1]
        for axis in range(len(self.shape) - 2, -1, -1):
            left, at = np.divmod(left, self.shape[axis])
            first += at // self.block[axis] * width
            width *= self.grid[axis]
        return first

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            yield from self.codes.bytes_of(start, count)
            first = self._rows(start, count)
            yield from self.scales.bytes_of(int(first.min()), int(first.max() - first.min()) + self.grid[-1])

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu.scaled import scale_codes  # noqa: PLC0415 - loops are compiled where they are needed

        count = self.count_in(start, out)
        target = np.frombuffer(out, "<f4")
        cols = self.shape[-1] if count else 1
        codes = np.empty(min(count, _BLOCK), np.uint8)
        for done in range(0, count, _BLOCK):
            some = codes[: min(_BLOCK, count - done)]
            self.codes.read_into(start + done, some.data)
            first = self._rows(start + done, len(some))
            low = int(first.min())
            scales = np.empty(int(first.max()) - low + self.grid[-1], self.scales.dtype.to_numpy())
            self.scales.read_into(low, scales.view(np.uint8).data)
            values, col = _values(self.codes.dtype.name), (start + done) % cols
            piece = target[done : done + len(some)]
            scale_codes(some, values, scales.astype("<f4"), first - low, col, cols, self.block[-1], piece)


@cache
def _values(dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
    """What the 256 codes of a dtype stand for, float32."""
    import numpy as np  # noqa: PLC0415

    from netweight.dtypes import DTYPES  # noqa: PLC0415

    return np.arange(256, dtype=np.uint8).view(DTYPES[dtype].to_numpy()).astype(np.float32)
