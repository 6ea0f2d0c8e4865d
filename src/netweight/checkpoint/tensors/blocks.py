"""A weight that GGUF stores in blocks of ggml's types, as float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.quantised import UnitTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BlockTensor"]


@dataclass(frozen=True)
class BlockTensor(UnitTensor):
    """Blocks of `numbers` elements, `size` bytes each, of the bytes `codes`; `kind` is ggml's name of the type."""

    codes: Tensor
    kind: str
    numbers: int
    size_of_block: int

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """See QuantisedTensor."""
        return (self.codes,)

    @property
    def stored(self) -> str:
        """See Tensor."""
        return self.kind

    @property
    def unit(self) -> int:
        """See UnitTensor."""
        return self.numbers

    @property
    def unit_scratch(self) -> int:
        """See UnitTensor."""
        return self.size_of_block

    def bytes_of_units(self, first: int, count: int) -> Iterator[Stretch]:
        """See UnitTensor."""
        yield from self.codes.bytes_of(first * self.size_of_block, count * self.size_of_block)

    def decode(self, first: int, count: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """See UnitTensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        raw = np.empty(count * self.size_of_block, np.uint8)
        self.codes.read_into(first * self.size_of_block, raw.data)
        _decoder(self.kind, self.numbers)(raw, out)


@cache
def _decoder(kind: str, numbers: int) -> Callable[[Any, Any], None]:
    """What fills float32 elements from the bytes of blocks of this type."""
    from netweight.kernels.cpu import blocks, grids  # noqa: PLC0415 - loops are compiled where they are needed
    from netweight.kernels.tables import grid_of, half_powers, half_ue4m3, signs_of_seven_bits  # noqa: PLC0415

    name = kind.lower()
    if kind.startswith("IQ4"):
        loop: Callable[..., None] = getattr(grids, name)
        return loop
    if kind.startswith("IQ"):
        grid, signs = grid_of("IQ1_S" if kind == "IQ1_M" else kind), signs_of_seven_bits()
        loop = getattr(grids, name)
        if kind in {"IQ2_XXS", "IQ2_XS", "IQ3_XXS"}:
            return lambda raw, out: loop(raw, grid, signs, out)
        return lambda raw, out: loop(raw, grid, out)
    loop = getattr(blocks, name)
    if kind == "Q2_0":
        return lambda raw, out: loop(raw, numbers, out)
    tables = {"MXFP4": half_powers, "NVFP4": half_ue4m3}
    if kind in tables:
        table = tables[kind]()
        return lambda raw, out: loop(raw, table, out)
    return loop
