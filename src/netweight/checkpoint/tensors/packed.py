"""A weight that is stored as codes of few bits, packed, with scales and perhaps zero points for groups of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import floats_of, values_of
from netweight.checkpoint.tensors.scaled import ScaledTensor
from netweight.errors import ReadError, printable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PackedTensor", "whole_numbers"]


@dataclass(frozen=True)
class PackedTensor(ScaledTensor):
    """(value of the code - zero point) * scale in float32, rounded to `dtype`; see ScaledTensor for `block`, `grid`.

    `codes` has rows of codes of `bits` bits, the lowest bits first, in words of any size; what is left of a row's last
    word belongs to nothing. `values`: what a code stands for, the name of a dtype ("F4+0": without minus zero), or
    "int" for code - 2^(bits - 1).
    `zeros` is of type I8 and of the scales' shape, or I32: packed like codes, down the rows of every matrix. `index`
    gives a column's group where those are not neighbours; one that has -1 says nothing. `overall`, one for all or for
    every matrix, multiplies scales, or divides them. `declared` holds the shape once more.
    """

    bits: int
    values: str
    label: str
    zeros: Tensor | None = None
    index: Tensor | None = None
    overall: Tensor | None = None
    divides: bool = False
    declared: Tensor | None = None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        others = (self.zeros, self.index, self.overall, self.declared)
        return (self.codes, self.scales, *(part for part in others if part is not None))

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.label

    @property
    def wide_scratch(self) -> int:
        """See RoundedTensor."""
        cols = max(1, self.shape[-1])
        rows = self.wide // cols + 2
        columns = 16 * cols if self.index is not None else 0
        return self.wide + self._row_bits // 8 * rows + (16 + 36 * self.grid[-1]) * rows + columns

    @property
    def _row_bits(self) -> int:
        return self.codes.nbytes * 8 // max(1, prod(self.shape[:-1]))

    def _words(self, start: int, count: int) -> tuple[int, int, int]:
        """(First word, behind the last, bit of the first code in the first) of elements from `start`."""
        cols, word = self.shape[-1], self.codes.dtype.bits
        row, col = divmod(start, cols)
        last_row, last_col = divmod(start + count - 1, cols)
        bit = row * self._row_bits + col * self.bits
        end = last_row * self._row_bits + (last_col + 1) * self.bits
        return bit // word, -(-end // word), bit % word

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count <= 0:
            return
        first, stop, _ = self._words(start, count)
        yield from self.codes.bytes_of(first, stop - first)
        rows = self._rows(start, count)
        low, some = int(rows.min()), int(rows.max() - rows.min()) + self.grid[-1]
        yield from self.scales.bytes_of(low, some)
        if self.zeros is not None and self.zeros.dtype.name == "I8":
            yield from self.zeros.bytes_of(low, some)
        elif self.zeros is not None:
            for word, words, *_ in self._zero_words(low // self.grid[-1], some // self.grid[-1]):
                yield from self.zeros.bytes_of(word * self.grid[-1], words * self.grid[-1])
        for part in (self.index, self.overall, self.declared if start == 0 else None):
            if part is not None:
                yield from part.bytes_of(0, part.size)

    def widen(self, start: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See RoundedTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu import packed, scaled  # noqa: PLC0415 - loops are compiled where they are needed

        if start == 0:
            self._check_shape()
        word, stop, bit = self._words(start, len(out))
        stream = np.zeros((stop - word) * self.codes.dtype.bits // 8 + 1, np.uint8)
        self.codes.read_into(word, stream[:-1].data)
        codes, cols = np.empty(len(out), np.uint8), self.shape[-1]
        packed.unpack_bits(stream, bit, self.bits, self._row_bits, start % cols, cols, codes)
        first = self._rows(start, len(out))
        low, some = int(first.min()), int(first.max() - first.min()) + self.grid[-1]
        first -= low
        values, scales, groups = _values(self.values, self.bits), self._factors(low, some), self._groups()
        zeros = (
            np.zeros(some if groups is not None else 0, np.float32)
            if self.zeros is None
            else self._shifts(self.zeros, low, some)
        )
        if groups is not None:
            packed.scale_columns(codes, values, scales, zeros, first, start % cols, groups, out)
        elif self.zeros is not None:
            packed.scale_shifted(codes, values, scales, zeros, first, start % cols, cols, self.block[-1], out)
        else:
            scaled.scale_codes(codes, values, scales, first, start % cols, cols, self.block[-1], out)

    def _factors(self, low: int, some: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Scales `low` to `low + some`, by or through the overall one: float32, rounded once."""
        import numpy as np  # noqa: PLC0415

        scales = floats_of(self.scales, low, some)
        if self.overall is None:
            return scales
        overall = floats_of(self.overall, 0, self.overall.size)
        if len(overall) > 1:  # one for every matrix
            overall = overall[np.arange(low, low + some) // (self.scales.size // len(overall))]
        with np.errstate(all="ignore"):
            (np.divide if self.divides else np.multiply)(scales, overall, out=scales)
        # torch: what is divided by a number without axes keeps its type, and the scales are bfloat16 by then
        return _through_bfloat16(scales) if self.divides and not self.overall.shape else scales

    def _zero_words(self, row: int, rows: int) -> Iterator[tuple[int, int, int, int, int]]:
        """(First row of words, how many, bit of the first zero point in them, its row of `rows`, how many rows) of the
        packed zero points of rows from `row`: of one matrix after the other.
        """
        per = self.shape[-2]
        words = -(-per * self.bits // 32)
        done = 0
        while done < rows:
            matrix, at = divmod(row + done, per)
            count = min(per - at, rows - done)
            first = at * self.bits // 32
            stop = -(-(at + count) * self.bits // 32)
            yield matrix * words + first, stop - first, at * self.bits - 32 * first, done, count
            done += count

    def _shifts(self, zeros: Tensor, low: int, some: int) -> np.ndarray[Any, np.dtype[Any]]:
        """The zero points that lie as scales `low` to `low + some` do, float32."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu.packed import unpack_down  # noqa: PLC0415

        if zeros.dtype.name == "I8":
            return floats_of(zeros, low, some)
        groups = self.grid[-1]
        out = np.empty((some // groups, groups), np.float32)
        for word, words, bit, done, count in self._zero_words(low // groups, len(out)):
            raw = np.empty((words, groups), np.uint32)
            zeros.read_into(word * groups, raw.view(np.uint8).reshape(-1).data)
            unpack_down(raw, bit, self.bits, _values("int", self.bits), out[done : done + count])
        return out.reshape(-1)

    def _groups(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The group of every column, int64; None where they are neighbours."""
        import numpy as np  # noqa: PLC0415

        if self.index is None or self.grid[-1] == 1:
            return None
        raw = np.empty(self.index.size, self.index.dtype.to_numpy())
        self.index.read_into(0, raw.view(np.uint8).data)
        if (raw == -1).any():
            return None
        groups, columns = self.grid[-1], self.shape[-1] // self.grid[-1]
        inside = bool((raw >= 0).all() and (raw < groups).all())
        if not inside or (np.bincount(raw, minlength=groups) != columns).any():
            name = printable(self.index.name)
            raise self._damaged(f"{name!r} does not say {groups} groups of {columns} columns each")
        return raw.astype(np.int64)

    def _check_shape(self) -> None:
        """Raises ReadError where the file declares another shape than the one that the tensors have."""
        if self.declared is not None and (numbers := whole_numbers(self.declared)) != self.shape:
            name = printable(self.declared.name)
            raise self._damaged(f"{name!r} says {list(numbers)}, expected {list(self.shape)} by its codes and scales")

    def _damaged(self, what: str) -> ReadError:
        return ReadError(f"{self.where}: tensor {printable(self.name)!r}: {what}; the file is damaged")


def whole_numbers(tensor: Tensor) -> tuple[int, ...]:
    """The elements of a small tensor of type I32 or I64."""
    size = tensor.dtype.bits // 8
    data = bytearray(tensor.nbytes)
    tensor.read_into(0, memoryview(data))
    return tuple(int.from_bytes(data[at : at + size], "little", signed=True) for at in range(0, len(data), size))


@cache
def _values(name: str, bits: int) -> np.ndarray[Any, np.dtype[Any]]:
    """What the codes of a PackedTensor stand for, float32."""
    import ml_dtypes  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    codes = np.arange(1 << bits, dtype=np.uint8)
    if name == "int":
        return codes.astype(np.float32) - np.float32(1 << (bits - 1))
    small = {"F4": ml_dtypes.float4_e2m1fn, "F4+0": ml_dtypes.float4_e2m1fn, "F6_E2M3": ml_dtypes.float6_e2m3fn}
    if name in small:
        wide: np.ndarray[Any, np.dtype[Any]] = codes.view(small[name]).astype(np.float32)
        return np.abs(wide, where=wide == 0, out=wide) if name == "F4+0" else wide
    return values_of(name)


def _through_bfloat16(values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """float32 rounded to bfloat16, as float32."""
    import numpy as np  # noqa: PLC0415

    from netweight.kernels.cpu.rounding import narrow_to_bfloat16  # noqa: PLC0415

    narrow = np.empty(len(values), np.uint16)
    narrow_to_bfloat16(values, narrow)
    wide: np.ndarray[Any, np.dtype[Any]] = (narrow.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide
