"""One parameter of the output: where its inputs lie, and what is to be done with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import DType
from netweight.merging.course import Subject

__all__ = ["Input", "Piece", "Target", "prefetch"]


@dataclass(frozen=True)
class Piece:
    """`count` elements of `tensor` from element `start` (counted flat)."""

    tensor: Tensor
    start: int
    count: int


@dataclass(frozen=True)
class Input:
    """What one model gives for a parameter: one whole tensor as a rule; rows of several where vocabularies differ.

    `model` is the number of the checkpoint (0 is the first one opened). The pieces follow one another and have the
    output's number of elements together.
    """

    model: int
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(piece.tensor.file_bytes_of(piece.start, piece.start + piece.count) for piece in self.pieces)


@dataclass(frozen=True)
class Target:
    """One parameter of the output, named as in the output, of the element type that is written.

    `method` names a row of the registry and `subject` is what it gets; both are None for what is copied from its only
    input as it is (integers, masks, packed types). `layer` is the output's block, None outside of blocks.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    inputs: tuple[Input, ...]
    method: str | None
    subject: Subject | None
    layer: int | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.dtype.nbytes(self.size)


def prefetch(target: Target, used: Collection[int] | None, start: int, stop: int) -> None:
    """Hint that elements `start` to `stop` of these inputs (None: all) are wanted soon; returns at once."""
    for source in (s for i, s in enumerate(target.inputs) if used is None or i in used):
        first = 0
        for piece in source.pieces:
            a, b = max(start, first), min(stop, first + piece.count)
            if a < b:
                piece.tensor.prefetch(piece.start + a - first, b - a)
            first += piece.count
