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

__all__ = ["GROUP", "MicroscaledTensor"]

GROUP = 32
"""Numbers that share a scale; they take 16 bytes."""


@dataclass(frozen=True)
class MicroscaledTensor(UnitTensor):
    """Numbers of `codes` (bytes, two numbers each, E2M1, the low one first) times 2^(scale - 127) of `scales` (bytes,
    E8M0: 255 is NaN), group after group in the tensor's order. Every product is a bfloat16.
    """

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

        values, powers = _tables()
        pairs, scales = np.empty(16 * count, np.uint8), np.empty(count, np.uint8)
        self.codes.read_into(16 * first, pairs.data)
        self.scales.read_into(first, scales.data)
        widen_fours(pairs, scales, values, powers, out)


@cache
def _tables() -> tuple[np.ndarray[Any, np.dtype[Any]], np.ndarray[Any, np.dtype[Any]]]:
    """(What the 16 codes of E2M1 stand for, what the 256 of E8M0 do), float32."""
    import ml_dtypes  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    codes = np.arange(256, dtype=np.uint8)
    fours = codes[:16].view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return fours, codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
