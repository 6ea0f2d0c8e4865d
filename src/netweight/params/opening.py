"""Opening a model by its reference, under the file's names or under canonical ones."""

from __future__ import annotations

import os

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint

__all__ = ["open_model"]


def open_model(
    ref: str | os.PathLike[str], *, canonical: bool = False, raw: bool = False, download: bool = False
) -> Checkpoint:
    """Open the model at `ref`: its tensors under the names that its files give them.

    `canonical`: under names that do not depend on who saved it, experts and projections one by one, as `delta` and
    `compare` pair them. `raw`: what is stored, codes and scales of quantised weights as tensors of their own, under the
    names and in the layout of the file. `download` and what is raised: see `open_checkpoint`.
    """
    checkpoint = open_checkpoint(ref, download=download)
    if raw:
        stored = {part.name: part for tensor in checkpoint.stored.values() for part in tensor.stored_parts}
        return checkpoint.with_tensors(stored, {})
    if not canonical:
        return checkpoint
    from netweight.params.model import Model  # noqa: PLC0415 - only where it is needed

    return Model(checkpoint).as_checkpoint()
