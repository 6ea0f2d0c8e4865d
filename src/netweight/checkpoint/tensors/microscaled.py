"""A weight that is stored as numbers of 4 bits with a power of two for every 32 of them (MXFP4 of the OCP Microscaling
Formats), as bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import UnitTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GROUP", "MicroscaledTensor", "TurnedMicroscaledTensor"]

GROUP = 32
"""Numbers that share a scale; they take 16 bytes."""

_IN_WORD = 16


@dataclass(frozen=True)
class _FoursTensor(UnitTensor):
    """Numbers of 4 bits and their scales, whichever way they lie."""

    codes: Tensor
    scales: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.codes, self.scales

    @property
    def stored(self) -> str:
        """See Tensor."""
        return "MXFP4"


@dataclass(frozen=True)
class MicroscaledTensor(_FoursTensor):
    """Numbers of `codes` (bytes, two numbers each, E2M1, the low one first) times 2^(scale - 127) of `scales` (bytes,
    E8M0: 255 is NaN), group after group in the tensor's order. Every product is a bfloat16.
    """

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return GROUP

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return GROUP // 2 + 1

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        yield from self.codes.bytes_of(16 * first, 16 * count)
        yield from self.scales.bytes_of(first, count)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu.scaled import widen_fours  # noqa: PLC0415 - loops are compiled where they are needed

        pairs, scales = np.empty(16 * count, np.uint8), np.empty(count, np.uint8)
        self.codes.read_into(16 * first, pairs.data)
        self.scales.read_into(first, scales.data)
        widen_fours(pairs, scales, _patterns(), out)


@dataclass(frozen=True)
class TurnedMicroscaledTensor(_FoursTensor):
    """The same, [..., cols, rows], of matrices [rows, cols]: what is turned are the stored numbers, sixteen at a time.

    `codes`, U64 [..., cols / 16, rows], and `scales`, [..., cols / 32, rows], are turned already.
    """

    @property
    def unit(self) -> int:
        """See UnitTensor: what a row of words has."""
        return _IN_WORD * self.shape[-1]

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return 10 * self.shape[-1]

    def _scales_of(self, first: int, count: int) -> range:
        """The rows of scales that rows `first` to `first + count` of words have."""
        return range(first // 2, -(-(first + count) // 2))

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        rows, which = self.shape[-1], self._scales_of(first, count)
        yield from self.codes.bytes_of(first * rows, count * rows)
        yield from self.scales.bytes_of(which.start * rows, len(which) * rows)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu.scaled import widen_fours_down  # noqa: PLC0415 - loops are compiled where needed

        rows, which = self.shape[-1], self._scales_of(first, count)
        words, scales = np.empty((count, rows), "<u8"), np.empty((len(which), rows), np.uint8)
        self.codes.read_into(first * rows, words.reshape(-1).view(np.uint8).data)
        self.scales.read_into(which.start * rows, scales.reshape(-1).data)
        widen_fours_down(words, first, scales, _patterns(), out.reshape(-1, rows))


@cache
def _patterns() -> np.ndarray[Any, np.dtype[Any]]:
    """bfloat16 of the 16 codes of E2M1 times each of the 256 scales of E8M0, uint16 [4096]; all are exact."""
    import ml_dtypes  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    codes = np.arange(256, dtype=np.uint8)
    fours = codes[:16].view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    with np.errstate(over="ignore"):
        products = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)[:, None] * fours
    made: np.ndarray[Any, np.dtype[Any]] = (products.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return made.reshape(-1)
