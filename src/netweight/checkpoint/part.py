"""What a reader makes of one file; a checkpoint is one of these, or several shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netweight.checkpoint.tensor import CheckpointFile, Skipped, Tensor
from netweight.source.protocol import Source

__all__ = ["Part"]


@dataclass(frozen=True)
class Part:
    """One file read: `format` as in Checkpoint, `tensors` in file order, `shared` alias -> first name.
    `chunks`: of tensors that are one rank's share, where they begin in the whole, and its shape (None where the file
    does not say). `instead`: what the file holds, where that is known and no model. `outside`: what its pickles name
    beside what is harmless. `fields`: what a GGUF file says of its model, by key.
    """

    format: str
    source: Source
    file: CheckpointFile
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    chunks: Mapping[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = field(default_factory=dict)
    instead: str = ""
    outside: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
