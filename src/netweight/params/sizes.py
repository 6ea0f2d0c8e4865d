"""The widths by which shapes are read: hidden size and vocabulary from the embedding, and how matrices are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.params.role import Parameter

__all__ = ["Sizes", "find_sizes"]


@dataclass(frozen=True)
class Sizes:
    """`hidden` and `vocabulary` are the embedding's columns and rows, 0 where it is unknown. `transposed`: matrices
    are stored [in, out], as GPT-2 and TransformerLens have them, and not [out, in].
    """

    hidden: int = 0
    vocabulary: int = 0
    transposed: bool = False

    def out_in(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(outputs, inputs) of a matrix."""
        rows, columns = shape[-2:]
        return (columns, rows) if self.transposed else (rows, columns)

    def inner(self, shape: tuple[int, ...], *, first: bool) -> int:
        """The width of a fused expert's matrix [experts, ., .] that is not the hidden size; `first` picks where both
        or neither are.
        """
        rows, columns = shape[-2:]
        if (rows == self.hidden) != (columns == self.hidden):
            return columns if rows == self.hidden else rows
        return rows if first else columns


def find_sizes(tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> Sizes:
    """The sizes that the embedding, a fused attention and an up projection of the main stack show."""
    embedding: Tensor | None = None
    shown: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parameter = parameters[name]
        if parameter.stack not in {"", "encoder", "decoder"} or len(tensor.shape) != 2 or parameter.kind != "weight":
            continue
        if tensor.dtype.kind is not Kind.FLOAT:
            continue
        if parameter.slot == "token_embedding" and parameter.layer is None and parameter.role == "embedding":
            embedding = tensor if embedding is None or tensor.size > embedding.size else embedding
        elif (parameter.slot == "qkv" and ".c_attn." in name) or parameter.slot == "up_proj":
            shown.setdefault(parameter.slot, tensor)
    if embedding is None:
        return Sizes()
    vocabulary, hidden = embedding.shape
    transposed = any(tensor.shape[0] == hidden != tensor.shape[1] for tensor in shown.values())
    return Sizes(hidden, vocabulary, transposed)
