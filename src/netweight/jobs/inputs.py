"""Identifies the checkpoints that a job reads, for its results and for a run that resumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Checkpoint, CheckpointFile
from netweight.errors import printable
from netweight.run.plan import digest_of
from netweight.source.remote import KEPT, PIECE, READ_AHEAD

__all__ = [
    "SUFFIXES",
    "Reference",
    "far_bytes",
    "globs",
    "identity",
    "locations",
    "notes_of",
    "path_from",
    "path_of",
    "references",
    "stamp_of",
    "stamps",
]


Reference = str | os.PathLike[str]
"""A model as it is named: a path, an id of the hub, a URL."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".th", ".tar", ".npz", ".gguf")
"""Endings of files that are models, which are no part of a model's name."""


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """JSON-safe: the reference, its absolute path (of a hub or URL the reference), the format, every file with its size
    and header digest, and the commit that was read of a model of the hub.
    """
    return {
        "ref": checkpoint.ref,
        "path": path_of(checkpoint),
        "format": checkpoint.format,
        "files": [{"name": Path(f.path).name, "size": f.size, "header_digest": f.digest} for f in checkpoint.files],
        "revision": checkpoint.revision,
    }


def globs(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Globs as a tuple; a plain string is one glob, not its letters."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def references(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str | os.PathLike[str]]:
    """Models as a list; a plain path is one model, not its letters."""
    return [models] if isinstance(models, (str, os.PathLike)) else list(models)


def far_bytes(checkpoints: Iterable[Checkpoint]) -> int:
    """Memory for what is fetched ahead of those that are not on this machine, in bytes."""
    far = sum(1 for checkpoint in checkpoints if checkpoint.location is None)
    return READ_AHEAD + far * KEPT * PIECE if far else 0


def path_of(checkpoint: Checkpoint) -> str:
    """Where the model is: its absolute path, or its reference where that is a hub's or a URL."""
    if checkpoint.location is None or checkpoint.revision is not None:
        return checkpoint.ref
    return str(Path(checkpoint.ref).absolute())


def path_from(output: Path, checkpoint: Checkpoint) -> str:
    """The path of an input relative to the output; of a model of a hub, its reference."""
    if checkpoint.location is None or checkpoint.revision is not None:
        return checkpoint.ref
    return os.path.relpath(checkpoint.location.resolve(), output.resolve())


def locations(checkpoints: Iterable[Checkpoint]) -> list[Path]:
    """The models' own paths on this machine, which no result may replace."""
    return [checkpoint.location.absolute() for checkpoint in checkpoints if checkpoint.location is not None]


def notes_of(checkpoints: Iterable[Checkpoint]) -> tuple[str, ...]:
    """The readers' notes, each with the model's reference in front."""
    return tuple(
        note if note.startswith(checkpoint.ref) else f"{printable(checkpoint.ref)}: {note}"
        for checkpoint in checkpoints
        for note in checkpoint.notes
    )


def stamp_of(file: CheckpointFile) -> int | str:
    """When the file was last changed, in nanoseconds, or what its server gives instead."""
    return Path(file.path).stat().st_mtime_ns if file.stamp is None else file.stamp


def stamps(checkpoint: Checkpoint) -> list[list[Any]]:
    """What a later run compares to see that the files are the same, and the config that says how they are read."""
    files = [[f.path, f.size, f.digest, stamp_of(f)] for f in checkpoint.files]
    beside = [["settings", digest_of(checkpoint.settings)]] if checkpoint.settings else []
    return [*files, ["config.json", digest_of(checkpoint.config)], *beside]
