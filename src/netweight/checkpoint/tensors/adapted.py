"""Weights with an adapter, computed where they are read: with an update added, scaled by rows, with rows replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import RoundedTensor, floats_of, read_floats
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AdaptedTensor", "NormalisedTensor", "ReplacedRows"]


class _ChangedTensor(RoundedTensor):
    """The first of its `sources`, changed by the others: written in that one's type, and as quantised as that."""

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return self.sources[0].quantised

    @property
    def written(self) -> DType:
        """See Tensor."""
        return self.sources[0].written


@dataclass(frozen=True)
class AdaptedTensor(_ChangedTensor):
    """`weight`, floats of 8 to 32 bits, plus `update`, in float32."""

    weight: Tensor
    update: UpdateTensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.weight, self.update

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.weight.stored} + {self.update.label}"

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 12 * self.wide + self.update.wide_scratch

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.weight.bytes_of(start, count)
        yield from self.update.bytes_of(start, count)

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        self.update.add_to(start, _last.part(self.weight, start, len(out)), out)


@dataclass(frozen=True)
class NormalisedTensor(_ChangedTensor):
    """Every row of `adapted` [rows, ...] scaled to the norm that `magnitudes` [rows] has for it (DoRA), in float32."""

    adapted: AdaptedTensor
    magnitudes: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.adapted, self.magnitudes

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.adapted.weight.stored} + DoRA {self.adapted.update.label.partition(' ')[2]}"

    @property
    def _cols(self) -> int:
        return self.size // self.shape[0]

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor; whole rows are read."""
        return 4 * (self.wide + 2 * self._cols) + self.adapted.wide_scratch

    def _rows(self, start: int, count: int) -> range:
        return range(start // self._cols, -(-(start + count) // self._cols))

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            rows = self._rows(start, count)
            yield from self.adapted.bytes_of(rows.start * self._cols, len(rows) * self._cols)
            yield from self.magnitudes.bytes_of(rows.start, len(rows))

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        from netweight.kernels.cpu.adapted import scale_rows  # noqa: PLC0415 - loops are compiled where they are needed

        rows = self._rows(start, len(out))
        values = floats_of(self.adapted, rows.start * self._cols, len(rows) * self._cols)
        scale_rows(values.reshape(len(rows), self._cols), floats_of(self.magnitudes, rows.start, len(rows)))
        first = start - rows.start * self._cols
        out[:] = values[first : first + len(out)]


@dataclass(frozen=True)
class ReplacedRows(_ChangedTensor):
    """`weight` [rows, cols] in float32, where row `rows[i]` is row i of `values` (trained tokens). `rows` rise."""

    weight: Tensor
    rows: tuple[int, ...]
    values: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.weight, self.values

    @property
    def stored(self) -> str:
        """See Tensor."""
        return f"{self.weight.stored} + {len(self.rows)} rows"

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        return 8 * self.wide + 8 * self.shape[1]

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        yield from self.weight.bytes_of(start, count)
        if count > 0:
            yield from self.values.bytes_of(0, self.values.size)

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        out[:] = floats_of(self.weight, start, len(out))
        cols, stop = self.shape[1], start + len(out)
        for at, row in enumerate(self.rows):
            first, last = max(row * cols, start), min((row + 1) * cols, stop)
            if first < last:
                out[first - start : last - start] = floats_of(self.values, (at - row) * cols + first, last - first)


class _Last(threading.local):
    """The part of a weight that a thread has read last: adapters of one base want the same one after another."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, int, np.ndarray[Any, np.dtype[Any]]] | None = None

    def part(self, weight: Tensor, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Elements `start` to `start + count`, float32, not to be written to."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        held, self._held = self._held, None  # not this one while it is filled: the weight may be an adapted one too
        if held is None or held[0] != weight or held[1] != start or len(held[2]) != count:
            values = np.empty(count, np.float32) if held is None or len(held[2]) != count else held[2]
            read_floats(weight, start, values)
            held = weight, start, values
        self._held = held
        return held[2]


_last = _Last()
