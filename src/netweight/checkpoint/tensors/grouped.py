"""Weights whose codes have a scale and a zero point, or a scale and a bias, for every group of neighbours in a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import UnitTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AffineTensor", "GroupedTensor"]

_STEP = 32  # elements of a row that are decoded together


@dataclass(frozen=True)
class GroupedTensor(UnitTensor):
    """(code - zero) * scale [out, in], rounded once to the scales' type.

    `codes` uint8 [out, in or more], `zeros` uint8 and `scales` [out, groups or more]: `group` neighbours share one;
    where there is an `index` [in], of integers, it has the group of every column (a negative one counts from the end).
    """

    label: str
    codes: Tensor
    zeros: Tensor
    scales: Tensor
    group: int
    index: Tensor | None = None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.codes, self.zeros, self.scales, *([self.index] if self.index is not None else [])

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.label

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        cols = self.shape[1]
        return cols if cols % _STEP or self.codes.shape[1] != cols else _STEP

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        per_row = self._row_scratch + self.codes.shape[1]
        return self.unit + -(-per_row * self.unit // self.shape[1])

    @property
    def scratch(self) -> int:
        """See Tensor; the index is held whole, and scales and zeros of the rows at both ends."""
        return super().scratch + 2 * self._row_scratch + (24 * self.shape[1] if self.index is not None else 0)

    @property
    def _row_scratch(self) -> int:
        """Bytes that the scales and zeros of a row take, as they are stored and as float32."""
        return 12 * self.scales.shape[1] + 12 * self.zeros.shape[1]

    def _rows_of(self, first: int, count: int) -> range:
        start, stop = first * self.unit, min((first + count) * self.unit, self.size)
        return range(start // self.shape[1], -(-stop // self.shape[1]))

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        rows, wide = self._rows_of(first, count), self.codes.shape[1]
        if wide == self.shape[1]:
            yield from self.codes.bytes_of(first * self.unit, count * self.unit)
        else:
            yield from self.codes.bytes_of(rows.start * wide, len(rows) * wide)
        for part in (self.zeros, self.scales):
            yield from part.bytes_of(rows.start * part.shape[1], len(rows) * part.shape[1])
        if self.index is not None:
            yield from self.index.bytes_of(0, self.index.size)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor; raises ValueError where the index names a group that there is not."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu import unpacked  # noqa: PLC0415 - loops are compiled where they are needed

        cols, rows, wide = self.shape[1], self._rows_of(first, count), self.codes.shape[1]
        if wide == cols:
            codes = np.empty(min(count * self.unit, self.size - first * self.unit), np.uint8)
            self.codes.read_into(first * self.unit, codes.data)
        else:
            held = np.empty((len(rows), wide), np.uint8)
            self.codes.read_into(rows.start * wide, held.reshape(-1).data)
            codes = np.ascontiguousarray(held[:, :cols]).reshape(-1)
        zeros, scales = _rows(self.zeros, rows), _rows(self.scales, rows)
        groups = self._groups()
        col = first * self.unit - rows.start * cols
        half = self.dtype.name == "F16"
        if self.dtype.name == "F32":
            if groups is None:
                unpacked.scale_by_group(codes, zeros, scales, col, cols, self.group, out)
            else:
                unpacked.scale_by_column(codes, zeros, scales, col, groups, out)
        elif groups is None:
            unpacked.narrow_by_group(codes, zeros, scales, col, cols, self.group, half, out.view(np.uint16))
        else:
            unpacked.narrow_by_column(codes, zeros, scales, col, groups, half, out.view(np.uint16))

    def _groups(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The group of every column, uint32 [in]; None where they are neighbours."""
        import numpy as np  # noqa: PLC0415

        if self.index is None:
            return None
        held = np.empty(self.shape[1], self.index.dtype.to_numpy())
        self.index.read_into(0, held.view(np.uint8).data)
        if np.array_equal(held, np.arange(len(held)) // self.group):
            return None
        groups = held.astype(np.int64)
        most = min(self.zeros.shape[1], self.scales.shape[1])
        groups[groups < 0] += most
        if groups.min() < 0 or groups.max() >= most:
            wrong = held[(groups < 0) | (groups >= most)][0]
            msg = f"its index of groups, {self.index.name}, names group {wrong}, of {most}"
            raise ValueError(msg)
        return groups.astype(np.uint32)


@dataclass(frozen=True)
class AffineTensor(UnitTensor):
    """code * scale + bias, as MLX's dequantize on the CPU: the product is rounded to the type of scales and biases,
    then the sum. `codes` uint8 of this shape; `scales` and `biases` have one for every `group` elements.
    """

    label: str
    codes: Tensor
    scales: Tensor
    biases: Tensor
    group: int

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.codes, self.scales, self.biases

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.label

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return self.group

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return 5 * self.group + 16

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        yield from self.codes.bytes_of(first * self.group, count * self.group)
        yield from self.scales.bytes_of(first, count)
        yield from self.biases.bytes_of(first, count)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415

        from netweight.kernels.cpu import unpacked  # noqa: PLC0415

        codes = np.empty((count, self.group), np.uint8)
        self.codes.read_into(first * self.group, codes.reshape(-1).data)
        scales, biases = floats(self.scales, first, count).reshape(-1, 1), floats(self.biases, first, count)
        zeros = np.zeros_like(scales)
        if self.dtype.name == "F32":
            unpacked.scale_by_group(codes.reshape(-1), zeros, scales, 0, self.group, self.group, out)
            unpacked.add_by_group(out, 0, biases, self.group)
        else:
            patterns = out.view(np.uint16).reshape(codes.shape)
            unpacked.narrow_affine(codes, zeros, scales, biases, self.dtype.name == "F16", patterns)


def floats(tensor: Tensor, first: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """`count` numbers of `tensor` from `first`, float32."""
    import numpy as np  # noqa: PLC0415

    held = np.empty(count, tensor.dtype.to_numpy())
    tensor.read_into(first, held.view(np.uint8).data)
    return held.astype(np.float32, copy=False)


def _rows(tensor: Tensor, rows: range) -> np.ndarray[Any, np.dtype[Any]]:
    """Some rows of a matrix, float32 [rows, cols]."""
    cols = tensor.shape[1]
    return floats(tensor, rows.start * cols, len(rows) * cols).reshape(len(rows), cols)
