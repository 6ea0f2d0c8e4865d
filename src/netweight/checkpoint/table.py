"""Tensors in columns: a million of them in about 150 MB, each made into a Tensor when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.source.protocol import Source

__all__ = ["JoinedTables", "Kinds", "TensorTable"]

_DTYPES = list(DTYPES.values())
_CODES = {name: code for code, name in enumerate(DTYPES)}
_INTERNED = 1 << 16  # distinct shapes worth finding again; hostile headers have more


class Kinds:
    """Pairs of shape and dtype, by number."""

    def __init__(self) -> None:
        self._sizes = array("Q")
        self._ends = array("Q")
        self._dtypes = array("B")
        self._known: dict[tuple[str, tuple[int, ...]], int] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def number(self, dtype: str, shape: tuple[int, ...]) -> int:
        """The number of this pair, given now if need be."""
        number = self._known.get((dtype, shape))
        if number is not None:
            return number
        number = len(self._ends)
        self._sizes.extend(shape)
        self._ends.append(len(self._sizes))
        self._dtypes.append(_CODES[dtype])
        if number < _INTERNED:
            self._known[dtype, shape] = number
        return number

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of kind `number`."""
        return tuple(self._sizes[self._ends[number - 1] if number else 0 : self._ends[number]])

    def dtype(self, number: int) -> str:
        """The dtype's name of kind `number`."""
        return _DTYPES[self._dtypes[number]].name


class TensorTable(Mapping[str, Tensor]):
    """An ordered mapping of names to the contiguous tensors of one source.

    `rows` gives each name's row in the columns `offsets` (bytes) and `kinds` (numbers in `of`).
    """

    def __init__(
        self, rows: dict[str, int], offsets: Sequence[int], kinds: Sequence[int], of: Kinds, source: Source
    ) -> None:
        self._rows = rows
        self._offsets = offsets
        self._kinds = kinds
        self._of = of
        self._source = source

    def __getitem__(self, name: str) -> Tensor:
        row = self._rows[name]
        kind = self._kinds[row]
        dtype = DTYPES[self._of.dtype(kind)]
        return StoredTensor(name, self._of.shape(kind), dtype, self._source, self._offsets[row])

    def count_of(self, shape: tuple[int, ...]) -> int:
        """How many tensors have this shape."""
        kinds = {kind for kind in range(len(self._of)) if self._of.shape(kind) == shape}
        return sum(self._kinds[row] in kinds for row in self._rows.values()) if kinds else 0

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class JoinedTables(Mapping[str, Tensor]):
    """Several mappings one after the other, whose names are all different; `owner` gives each name's mapping."""

    def __init__(self, parts: Sequence[Mapping[str, Tensor]], owner: dict[str, int]) -> None:
        self._parts = parts
        self._owner = owner

    def __getitem__(self, name: str) -> Tensor:
        return self._parts[self._owner[name]][name]

    def __contains__(self, name: object) -> bool:
        return name in self._owner

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)
