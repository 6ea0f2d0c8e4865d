"""Vocabularies of different sizes: which rows the output has, and which tensor each row of an input comes from."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from netweight.checkpoint.tensor import Tensor
from netweight.merging.target import Piece
from netweight.params.role import Parameter

__all__ = ["VOCAB", "output_rows", "pieces_of", "same_but_rows", "spans_vocabulary"]

VOCAB = ("base", "union-rows")
"""What can be done where vocabularies differ: the base's rows, or the rows of the largest."""


def spans_vocabulary(parameter: Parameter) -> bool:
    """Whether the first dimension counts tokens: token embeddings, and the weight and bias of a head that yields
    tokens.
    """
    if parameter.kind not in {"weight", "bias"}:
        return False
    return (parameter.slot == "token_embedding" and parameter.role == "embedding") or (
        parameter.slot == "lm_head" and parameter.role in {"output", "bias"}
    )


def same_but_rows(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two shapes differ in the first dimension alone, or not at all."""
    return len(first) == len(second) > 0 and first[1:] == second[1:]


def output_rows(vocab: str, pool: Sequence[Tensor]) -> int:
    """Rows of the output; `pool` is the parameter in every model, the base first."""
    return pool[0].shape[0] if vocab == "base" else max(tensor.shape[0] for tensor in pool)


def pieces_of(tensor: Tensor, rows: int, pool: Sequence[Tensor]) -> tuple[Piece, ...]:
    """`rows` rows of `tensor`; those that it lacks are from the first of `pool` that has them. A row is what lies under
    one index of the first dimension.
    """
    width = prod(tensor.shape[1:])
    have = min(tensor.shape[0], rows)
    pieces = [Piece(tensor, 0, have * width)] if have else []
    while have < rows:
        donor = next(t for t in pool if t.shape[0] > have)
        stop = min(donor.shape[0], rows)
        pieces.append(Piece(donor, have * width, (stop - have) * width))
        have = stop
    return tuple(pieces) or (Piece(tensor, 0, 0),)
