"""An embedding put together by tokens: each row is a row of some model, the mean of rows of several, or zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import floats_of
from netweight.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["MEAN", "ZERO", "TokenRows"]

ZERO, MEAN = -1, -2
_APART = 16  # rows that a stretch has on average, below which they lie apart


@dataclass(frozen=True, eq=False)
class TokenRows(Tensor):
    """Row i is row `rows[i]` of `sources[origins[i]]`; zeros where `origins[i]` is ZERO; where it is MEAN, the mean of
    the rows (source, row) that `means[i]` lists, in float64. `rows` and `origins` are int64. Sources have the same
    width and types of floats, the first is the model's own. `dtype` is theirs where it is one and nothing is averaged,
    else F32, or F64 where one of them is.
    """

    sources: tuple[Tensor, ...]
    origins: Numbers
    rows: Numbers
    means: Mapping[int, tuple[tuple[int, int], ...]]

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.sources[0].where

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return tuple({(part.where, part.name): part for s in self.sources for part in s.parts}.values())

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return tuple({(part.where, part.name): part for s in self.sources for part in s.stored_parts}.values())

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.sources[0].stored

    @property
    def written(self) -> DType:
        """See Tensor."""
        return self.sources[0].written

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return any(source.quantised for source in self.sources)

    @cached_property
    def file_bytes(self) -> int:
        """See Tensor: of each source, its share by rows."""
        taken = [int((self.origins == number).sum()) for number in range(len(self.sources))]
        for group in self.means.values():
            for source, _ in group:
                taken[source] += 1
        return sum(s.file_bytes * count // max(s.shape[0], 1) for s, count in zip(self.sources, taken, strict=True))

    @property
    def scratch(self) -> int:
        """See Tensor: a row of float64 and what is read for it; floats of another type are read row by row."""
        return 16 * self._cols + max(source.scratch for source in self.sources) + 24 * self.shape[0]

    @property
    def _cols(self) -> int:
        return prod(self.shape[1:])

    @cached_property
    def _begins(self) -> Numbers:
        """The rows at which another stretch begins: neighbours of one source, zeros, or one mean."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        origins, rows = self.origins, self.rows
        apart = (
            (origins[1:] != origins[:-1])
            | ((rows[1:] != rows[:-1] + 1) & (origins[1:] != ZERO))
            | (origins[1:] == MEAN)
        )
        return np.concatenate([[0], np.flatnonzero(apart) + 1]).astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Without what follows from the rest."""
        return {key: value for key, value in self.__dict__.items() if key not in {"_begins", "file_bytes"}}

    def _stretches(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(row, elements before these in it, elements) of each stretch that has elements `start` to `start + count`."""
        import numpy as np  # noqa: PLC0415

        cols, stop = self._cols, start + count
        at = int(np.searchsorted(self._begins, start // cols, side="right")) - 1
        while start < stop:
            row, into = divmod(start, cols)
            behind = int(self._begins[at + 1]) if at + 1 < len(self._begins) else self.shape[0]
            take = min(stop, behind * cols) - start
            yield row, into, take
            start, at = start + take, at + 1

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count <= 0:
            return
        cols = self._cols
        for row, into, take in self._stretches(start, count):
            origin = int(self.origins[row])
            if origin >= 0:
                yield from self.sources[origin].bytes_of(int(self.rows[row]) * cols + into, take)
            for source, own in self.means.get(row, ()):
                yield from self.sources[source].bytes_of(own * cols + into, take)

    def prefetch(self, start: int, count: int) -> None:
        """See Tensor. Where rows lie apart, a hint for each would cost more than reading it: the same part of every
        source is then asked for.
        """
        if len(self._begins) * _APART < self.shape[0]:
            super().prefetch(start, count)
            return
        for source in self.sources:
            if start < source.size:
                source.prefetch(start, min(count, source.size - start))

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415

        count = self.count_in(start, out)
        cols, item, done = self._cols, self.dtype.bits // 8, 0
        for row, into, take in self._stretches(start, count):
            view = out[done * item : (done + take) * item]
            origin = int(self.origins[row])
            if origin >= 0:
                self._copy(self.sources[origin], int(self.rows[row]) * cols + into, view)
            elif origin == ZERO:
                view[:] = bytes(len(view))
            else:
                total = np.zeros(take)
                for source, own in self.means[row]:
                    total += self._floats(self.sources[source], own * cols + into, take)
                np.frombuffer(view, self.dtype.to_numpy())[:] = total / len(self.means[row])
            done += take

    def _copy(self, source: Tensor, start: int, view: memoryview) -> None:
        if source.dtype == self.dtype:
            source.read_into(start, view)
            return
        import numpy as np  # noqa: PLC0415

        out = np.frombuffer(view, self.dtype.to_numpy())
        step = max(self._cols, 1)
        for done in range(0, len(out), step):
            out[done : done + step] = self._floats(source, start + done, min(step, len(out) - done))

    @staticmethod
    def _floats(source: Tensor, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        import numpy as np  # noqa: PLC0415

        if source.dtype.name != "F64":
            return floats_of(source, start, count)
        values = np.empty(count)
        source.read_into(start, values.view(np.uint8).data)
        return values
