"""A weight that is stored as codes of 8 bits with a scale for every block of them: code times scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import RoundedTensor, floats_of, values_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ScaledTensor"]


@dataclass(frozen=True)
class ScaledTensor(RoundedTensor):
    """`codes`, floats or integers of 8 bits of this shape, times `scales`: element i of an axis has scale i // `block`.

    `grid` is the shape of the scales, of as many axes; scales of type U8 are exponents (see floats_of). The product is
    float32, rounded once, and then rounded to `dtype`.
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
        mark = "MXFP8" if self.scales.dtype.name == "U8" else self.codes.stored
        return f"{mark} {'x'.join(map(str, steps[-2:]))}"

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        rows = self.wide // max(1, self.shape[-1]) + 2
        return self.wide + (16 + 12 * self.grid[-1]) * rows

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

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu.scaled import (  # noqa: PLC0415 - loops are compiled where they are needed
            scale_codes,
            scale_e4m3,
        )

        codes = np.empty(len(out), np.uint8)
        self.codes.read_into(start, codes.data)
        first = self._rows(start, len(out))
        low = int(first.min())
        scales = floats_of(self.scales, low, int(first.max()) - low + self.grid[-1])
        cols, kind = self.shape[-1], self.codes.dtype.name
        if kind == "F8_E4M3":
            scale_e4m3(codes, scales, first - low, start % cols, cols, self.block[-1], out)
        else:
            scale_codes(codes, values_of(kind), scales, first - low, start % cols, cols, self.block[-1], out)
