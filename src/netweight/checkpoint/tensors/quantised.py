"""What all weights have in common that are decoded from what is stored: codes, with scales and more beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["QuantisedTensor", "RoundedTensor", "UnitTensor", "floats_of", "read_floats", "values_of"]

_WIDE = 1 << 18  # that are computed at a time and then rounded: as float32 they stay in a core's cache

_NARROW = 1 << 16  # that are read as they are stored, and then widened

_ELEMENTS = 1 << 19  # elements that are decoded at a time


@dataclass(frozen=True)
class QuantisedTensor(Tensor):
    """A weight that is decoded from stored tensors."""

    @property
    @abstractmethod
    def sources(self) -> tuple[Tensor, ...]:
        """The stored tensors that it is decoded from, its codes first."""

    @property
    def quantised(self) -> bool:
        """See Tensor."""
        return True

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.sources[0].where

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return tuple(part for source in self.sources for part in source.stored_parts)

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return sum(source.file_bytes for source in self.sources)


@dataclass(frozen=True)
class UnitTensor(QuantisedTensor):
    """A weight that is decoded in units of neighbouring elements: a block, a group, a row. The last may be cut."""

    @property
    @abstractmethod
    def unit(self) -> int:
        """Elements of a unit."""

    @property
    @abstractmethod
    def unit_scratch(self) -> int:
        """Bytes that decoding a unit takes, beside the elements that come out."""

    @abstractmethod
    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Fill `out` [count * unit] with units `first` to `first + count`: elements of `dtype`, bfloat16 as uint16."""

    @abstractmethod
    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """What units `first` to `first + count` are read from."""

    @property
    def scratch(self) -> int:
        """See Tensor; sources are read one after the other."""
        units = max(1, _ELEMENTS // self.unit)
        inner = max(source.scratch for source in self.sources)
        return units * (self.unit_scratch + self.unit * self.dtype.bits // 8) + inner

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            first, stop = start // self.unit, -(-(start + count) // self.unit)
            yield from self.bytes_of_units(first, stop - first)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        count, unit = self.count_in(start, out), self.unit
        cell = np.dtype(np.uint16) if self.dtype.name == "BF16" else self.dtype.to_numpy()
        target = np.frombuffer(out, cell)
        most = max(1, _ELEMENTS // unit)
        done = 0
        while done < count:
            first, skip = divmod(start + done, unit)
            units = min(most, -(-(skip + count - done) // unit))
            some = min(units * unit - skip, count - done)
            straight = some == units * unit
            wide = target[done : done + some] if straight else np.empty(units * unit, cell)
            self.decode(first, units, wide)
            if not straight:
                target[done : done + some] = wide[skip : skip + some]
            done += some


@dataclass(frozen=True)
class RoundedTensor(QuantisedTensor):
    """A weight that is computed in float32, and rounded once to `dtype`: F32, F16 or BF16."""

    @property
    def wide(self) -> int:
        """Elements that are computed at a time: more where they are not rounded, and go straight to their place."""
        return _WIDE if self.dtype.name != "F32" else 4 * _WIDE

    @property
    @abstractmethod
    def wide_scratch(self) -> int:
        """Bytes that computing `wide` elements takes, beside them."""

    @abstractmethod
    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Fill `out` [n] float32, of at most `wide` elements, with those from `start`."""

    @property
    def scratch(self) -> int:
        """See Tensor."""
        wide = 4 * _WIDE if self.dtype.name != "F32" else 0
        return wide + self.wide_scratch + sum(source.scratch for source in self.sources)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu import rounding  # noqa: PLC0415 - loops are compiled where they are needed

        count = self.count_in(start, out)
        narrow = {"BF16": rounding.narrow_to_bfloat16, "F16": rounding.narrow_to_half}.get(self.dtype.name)
        target = np.frombuffer(out, np.uint16 if narrow else "<f4")
        step = self.wide
        wide = np.empty(min(count, step) if narrow else 0, np.float32)
        for done in range(0, count, step):
            piece = target[done : done + step]
            if narrow is None:
                self.widen(start + done, piece)
                continue
            self.widen(start + done, wide[: len(piece)])
            narrow(wide[: len(piece)], piece)


def floats_of(tensor: Tensor, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """`count` elements of a tensor of floats from `start`, as float32. Bytes (U8) are exponents, as in E8M0: each is
    2^(byte - 127), 255 too, which is infinite.
    """
    import numpy as np  # noqa: PLC0415

    out = np.empty(count, "<f4")
    read_floats(tensor, start, out)
    return out


def read_floats(tensor: Tensor, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Fill `out` [n] float32 with the elements from `start`, as `floats_of` has them."""
    import numpy as np  # noqa: PLC0415

    dtype = tensor.dtype
    if dtype.name == "F32":
        tensor.read_into(start, out.view(np.uint8).data)
        return
    raw = np.empty(min(len(out), _NARROW), "u1" if dtype.bits == 8 else dtype.to_numpy())
    table = values_of(dtype.name, exponents=True) if dtype.bits == 8 else None
    for done in range(0, len(out), _NARROW):
        part = out[done : done + _NARROW]
        some = raw[: len(part)]
        tensor.read_into(start + done, some.view(np.uint8).data)
        part[:] = some if table is None else table.take(some, mode="clip")


@cache
def values_of(dtype: str, *, exponents: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
    """What the 256 codes of a dtype of 8 bits stand for, float32; with `exponents`, U8 as `floats_of` has it."""
    import numpy as np  # noqa: PLC0415

    from netweight.dtypes import DTYPES  # noqa: PLC0415

    codes = np.arange(256, dtype=np.uint8)
    if dtype == "U8" and exponents:
        with np.errstate(over="ignore"):
            return np.ldexp(np.float32(1), codes.astype(np.int32) - 127)
    return codes.view(DTYPES[dtype].to_numpy()).astype(np.float32)
