"""Weights whose codes are the numbers of entries in a table, with a scale for every block of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.grouped import floats
from netweight.checkpoint.tensors.quantised import UnitTensor
from netweight.kernels.quantiles import NF4

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LookedUpTensor"]

_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)  # bitsandbytes, over 12; then with the other sign
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # OCP Microscaling Formats; then with the other sign


@dataclass(frozen=True)
class LookedUpTensor(UnitTensor):
    """values[code] * scale, as float32, then rounded to this tensor's type; if that is float32, `+ offset` and
    `* factor` where they are given, each rounded.

    `codes`: a byte each; `values`: a tensor of float32 [256], or the name of a table: nf4, fp4 (bitsandbytes), e2m1,
    e4m3, int8. `scales` has one for every `block` elements, counted flat: floats, or bytes of the table
    `scale_values`: e4m3, or 2^(byte - 127), e8m0, of which 255 is infinite as in MLX.
    """

    label: str
    codes: Tensor
    values: Tensor | str
    scales: Tensor
    block: int
    scale_values: str = ""
    offset: float | None = None
    factor: float | None = None

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return self.codes, self.scales, *([] if isinstance(self.values, str) else [self.values])

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.label

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return self.block

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return 5 * self.block + 8

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        yield from self.codes.bytes_of(first * self.block, min(count * self.block, self.size - first * self.block))
        yield from self.scales.bytes_of(first, count)
        if not isinstance(self.values, str):
            yield from self.values.bytes_of(0, self.values.size)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu import unpacked  # noqa: PLC0415 - loops are compiled where they are needed

        start = first * self.block
        codes = np.zeros(count * self.block, np.uint8)
        self.codes.read_into(start, codes[: min(len(codes), self.size - start)].data)
        if self.scale_values:
            held = np.empty(count, np.uint8)
            self.scales.read_into(first, held.data)
            scales = _table(self.scale_values)[held]
        else:
            scales = floats(self.scales, first, count)
        table = _table(self.values) if isinstance(self.values, str) else floats(self.values, 0, self.values.size)
        if self.dtype.name != "F32":
            half = self.dtype.name == "F16"
            unpacked.narrow_looked_up(codes, table, scales, self.block, half, out.view(np.uint16))
            return
        unpacked.scale_looked_up(codes, 0, table, scales, self.block, out)
        if self.offset is not None:
            out += np.float32(self.offset)
        if self.factor is not None:
            out *= np.float32(self.factor)


@cache
def _table(name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """What 256 codes stand for, float32; a code of 4 bits has 16."""
    import numpy as np  # noqa: PLC0415

    codes = np.arange(256, dtype=np.uint8)
    if name == "int8":
        return codes.view(np.int8).astype(np.float32)
    if name == "e4m3":
        import ml_dtypes  # noqa: PLC0415

        eighths: np.ndarray[Any, np.dtype[Any]] = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        return eighths
    if name == "e8m0":
        with np.errstate(over="ignore"):
            powers: np.ndarray[Any, np.dtype[Any]] = np.ldexp(np.float32(1), codes.astype(np.int32) - 127)
            return powers
    if name == "nf4":
        sixteen = np.array(NF4, np.float32)
    else:
        half = np.array(_FP4, np.float32) / np.float32(12) if name == "fp4" else np.array(_E2M1, np.float32)
        sixteen = np.concatenate([half, -half])
    return np.resize(sixteen, 256)
