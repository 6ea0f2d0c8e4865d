"""Makes sketches: opens a model, reads a part of every tensor, and notes what its card and config claim."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import InputError, JobError
from netweight.jobs.inputs import SUFFIXES, Reference, identity, notes_of, path_of
from netweight.jobs.lineage.claims import adapter_base, claims_of
from netweight.jobs.lineage.sketch import About, Sketch
from netweight.params.model import Model
from netweight.params.opening import open_model, open_whole
from netweight.passes.corners import Corner, corners

__all__ = ["last_part", "name_of", "opened", "sketch_from", "sketch_of"]

_WORKERS = 4  # reading many small parts is waiting, near and far
_CONFIG = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "vocab_size", "tie_word_embeddings", "num_local_experts", "num_experts",
)  # fmt: skip


def name_of(ref: Reference) -> str:
    """What a model is called in results: the last parts of its reference, without an ending of files."""
    parts = [part for part in os.fspath(ref).rstrip("/\\").replace("\\", "/").split("/") if part not in ("", ".")]
    name = parts[-1] if parts else os.fspath(ref)
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    if name in ("model", "pytorch_model", "adapter_model") and len(parts) > 1:
        name = parts[-2]
    return name


def sketch_of(
    ref: Reference, *, name: str | None = None, workers: int = _WORKERS, known: Mapping[str, str] | None = None
) -> Sketch:
    """The sketch of the model at `ref`, read by ranges where it is far away.

    An adapter is read with its base, where that is found; else it is a model of its own tensors, and a note says so.
    Raises what opening raises, ReadError, and JobError for a model without a weight of a float type.
    """
    checkpoint, notes = opened(ref, known)
    with checkpoint:
        return sketch_from(checkpoint, notes, name or name_of(ref), workers)


def opened(ref: Reference, known: Mapping[str, str] | None = None) -> tuple[Checkpoint, list[str]]:
    """The model, to be closed, and notes on how it was opened; no tensor data read. `known`: {the last part of a name:
    where that model is}, for an adapter whose base is not where it says.
    """
    if known:
        with open_model(ref) as alone:
            named = "" if alone.made_of else adapter_base(alone.place)
            beside = alone.location is not None and (alone.location / named).exists()
        base = known.get(last_part(named)) if named and not beside and not Path(named).exists() else None
        if base is not None and base != os.fspath(ref):
            said = f"is read on {base}, which has the name of the base that it says it has"
            return open_whole(ref, base=base), [f"{os.fspath(ref)}: {said}"]
    try:
        return open_whole(ref), []
    except InputError as problem:
        alone = open_model(ref)  # raises again what is no matter of an adapter
        return alone, [f"{os.fspath(ref)}: is read without its base: {problem}"]


def last_part(name: str) -> str:
    """What a copy of a model keeps of its name, as a rule."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0].casefold()


def sketch_from(checkpoint: Checkpoint, notes: Sequence[str], name: str, workers: int = _WORKERS) -> Sketch:
    """The sketch of an open model."""
    model = Model(checkpoint)
    tensors: dict[str, Corner] = {}
    read = 0
    for corner in corners(model, workers):
        read += corner.read_bytes
        tensors[corner.key] = corner
    if not tensors:
        raise JobError(f"{checkpoint.ref}: no weight of a float type was found, so nothing can be compared")
    checkpoint.check_unchanged()
    stored: Counter[str] = Counter()
    for tensor in model.tensors.values():
        stored[tensor.stored] += tensor.size
    claims, unread = claims_of(checkpoint)
    layers = {(held.parameter.stack, held.parameter.layer) for held in tensors.values()}
    about = About(
        name,
        identity(checkpoint),
        sum(tensor.size for tensor in model.tensors.values()),
        sum(layer is not None for _, layer in layers),
        dict(stored),
        _config(checkpoint.config),
        claims,
        [part.ref for part in checkpoint.made_of[1:]],
        path_of(checkpoint.made_of[0]) if checkpoint.made_of else "",
        [*notes, *unread, *notes_of((checkpoint,))],
        read,
        sum(file.size for file in checkpoint.files),
    )
    return Sketch(about, tensors)


def _config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: config[key] for key in _CONFIG if key in config} if config else {}
