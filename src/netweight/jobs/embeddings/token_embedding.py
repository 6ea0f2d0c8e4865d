"""Finds the token embedding of a model and its output head: by role, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, printable
from netweight.jobs.embeddings.heads import Agreement
from netweight.params.model import Model
from netweight.params.role import Parameter
from netweight.params.selection import unwanted_reason

__all__ = ["TokenEmbedding", "find_embedding"]


@dataclass(frozen=True)
class TokenEmbedding:
    """The embedding [rows, cols], its parameter, and the output head: a tensor to compare, or why there is none.

    `others`: further token embeddings, which were not taken.
    """

    tensor: Tensor
    parameter: Parameter
    head: Tensor | None
    output: Agreement
    others: tuple[str, ...] = ()


def find_embedding(checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> TokenEmbedding:
    """The largest token embedding of the main stack, of the tensors that the globs leave; a position embedding is
    none. Where the globs leave a single matrix of another role, that is taken.

    Raises InputError where there is none, or where its elements are no floats.
    """
    model = Model(checkpoint)
    parameters = model.parameters
    matrices = [
        parameters[name]
        for name, tensor in model.tensors.items()
        if len(tensor.shape) == 2 and unwanted_reason(name, include, exclude) is None
    ]
    candidates = [p for p in matrices if _is_token_embedding(p)]
    if not candidates and include:
        candidates = [p for p in matrices if p.slot != "position_embedding" and p.kind == "weight"]
        if len(candidates) > 1:
            raise InputError(
                f"{printable(checkpoint.ref)}: --include leaves {len(candidates)} matrices and none is a token"
                f" embedding by its name ({', '.join(printable(p.name, 60) for p in candidates[:3])} ...); name one of"
                " them"
            )
    if not candidates:
        raise InputError(
            f"{printable(checkpoint.ref)}: no token embedding among {len(checkpoint)} tensors: expected a matrix such"
            " as model.embed_tokens.weight or transformer.wte.weight; name it with --include"
        )
    chosen = max(
        candidates,
        # Gemma's second table, with a part for every layer in each row, is the larger one
        key=lambda p: (not p.stack and p.layer is None, "per_layer" not in p.name, checkpoint[p.name].size),
    )
    tensor = checkpoint[chosen.name]
    if tensor.dtype.kind is not Kind.FLOAT:
        raise InputError(
            f"{printable(checkpoint.ref)}: {printable(chosen.name)} holds {tensor.dtype}, expected floats: a quantized"
            " embedding has no rows to compare; use the model that it was made of"
        )
    head, output = _head(model, chosen)
    others = tuple(p.name for p in candidates if p is not chosen)
    return TokenEmbedding(tensor, chosen, head, output, others)


def _is_token_embedding(p: Parameter) -> bool:
    return p.role == "embedding" and p.slot == "token_embedding" and p.kind == "weight"


def _head(model: Model, embedding: Parameter) -> tuple[Tensor | None, Agreement]:
    ties = model.ties
    heads = [p for p in model.parameters.values() if p.slot == "lm_head" and p.role == "output" and p.layer is None]
    for head in heads:
        if head.kind != "weight":
            continue
        name = head.name
        if ties.aliases.get(name, name) == ties.aliases.get(embedding.name, embedding.name):
            return None, Agreement("tied", name, f"{name} and {embedding.name} are one storage")
        tensor = model.tensors[name]
        if tensor.dtype.kind is not Kind.FLOAT or len(tensor.shape) != 2:
            return None, Agreement("none", name, f"{name} is no matrix of floats")
        if tensor.shape[1] != model.tensors[embedding.name].shape[1]:
            return None, Agreement("none", name, f"{name} has {tensor.shape[1]} columns, the embedding has others")
        return tensor, Agreement("compared", name, "")
    if ties.absent is not None:
        return None, Agreement("tied", None, "the file holds no output: the embedding is it")
    return None, Agreement("none", None, "the file holds no output matrix")
