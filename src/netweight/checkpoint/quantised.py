"""What a decoder finds among the tensors of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.errors import FormatError, printable

__all__ = ["Found", "several", "shown", "wrong"]


@dataclass(frozen=True)
class Found:
    """`instead`: decoded weights, each by the name of the stored tensor whose place it takes; `parts`: names of the
    stored tensors that belong to them; `skipped`: what is no weight beside them; `note` says what was found.
    """

    instead: dict[str, Tensor] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    skipped: tuple[Skipped, ...] = ()
    note: str = ""


def several(count: int, one: str, more: str) -> str:
    """`1 weight is` or `3 weights are`: the count and the words that agree with it."""
    return f"{count} {one if count == 1 else more}"


def shown(tensor: Tensor | None) -> str:
    """Type and shape of a part, for messages."""
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor is not None else "none"


def wrong(where: str, name: str, what: str) -> FormatError:
    """The error for a tensor of the model `where`, whose parts do not fit each other."""
    return FormatError(f"{where}: tensor {printable(name)!r}: {what}")
