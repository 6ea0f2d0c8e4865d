"""What all weights have in common that are stored as codes with scales beside them."""

from __future__ import annotations

from dataclasses import dataclass

from netweight.checkpoint.tensor import Tensor

__all__ = ["QuantisedTensor"]


@dataclass(frozen=True)
class QuantisedTensor(Tensor):
    """A weight that is decoded from two stored tensors, its `codes` and their `scales`."""

    codes: Tensor
    scales: Tensor

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.codes.where

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        return (*self.codes.parts, *self.scales.parts)

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return self.codes.nbytes + self.scales.nbytes
