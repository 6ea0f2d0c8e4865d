"""What a decoder finds among the tensors of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from netweight.checkpoint.tensor import Skipped, Tensor

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """`instead`: decoded weights, each by the name of the stored tensor whose place it takes; `parts`: names of the
    stored tensors that belong to them; `skipped`: what is no weight beside them; `note` says what was found.
    """

    instead: dict[str, Tensor] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    skipped: tuple[Skipped, ...] = ()
    note: str = ""
