"""A weight with a LoRA adapter: W + scale * left right, computed where it is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import RoundedTensor, floats_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AdaptedTensor"]


@dataclass(frozen=True)
class AdaptedTensor(RoundedTensor):
    """`weight` [rows, cols] + `scale` * `left` [rows, r] @ `right` [r, cols], all floats of 8 to 32 bits, in float32.
    `label` says what was added.
    """

    weight: Tensor
    left: Tensor
    right: Tensor
    scale: float
    label: str

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.weight, self.left, self.right

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.weight.stored} + {self.label}"

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor; the right factor is held."""
        rows, rank = self.wide // max(1, self.shape[1]) + 2, self.right.shape[0]
        return 8 * self.wide + 8 * rows * rank + 8 * self.right.size

    def _rows(self, start: int, count: int) -> range:
        return range(start // self.shape[1], -(-(start + count) // self.shape[1]))

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            rows, rank = self._rows(start, count), self.right.shape[0]
            yield from self.weight.bytes_of(start, count)
            yield from self.left.bytes_of(rows.start * rank, len(rows) * rank)
            yield from self.right.bytes_of(0, self.right.size)

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        from netweight.kernels.cpu.adapted import add_product  # noqa: PLC0415 - loops are compiled where they are needed

        out[:] = floats_of(self.weight, start, len(out))
        rows, rank = self._rows(start, len(out)), self.right.shape[0]
        left = floats_of(self.left, rows.start * rank, len(rows) * rank).reshape(len(rows), rank)
        add_product(left, _kept.right(self.right), self.scale, start % self.shape[1], out)


class _Kept(threading.local):
    """The right factor that a thread has read last: neighbouring rows share it."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, np.ndarray[Any, np.dtype[Any]]] | None = None

    def right(self, tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        """All of `tensor`, float32."""
        if self._held is None or self._held[0] is not tensor:
            self._held = None
            self._held = tensor, floats_of(tensor, 0, tensor.size).reshape(tensor.shape)
        return self._held[1]


_kept = _Kept()
