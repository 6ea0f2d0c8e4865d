"""What identifies the checkpoints that a job reads: for its results, and for a later run that wants to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Checkpoint

__all__ = ["identity", "stamps"]


def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """JSON-safe: the reference, its absolute path, the format, and every file with its size and header digest."""
    return {
        "ref": checkpoint.ref,
        "path": str(Path(checkpoint.ref).absolute()),
        "format": checkpoint.format,
        "files": [{"name": Path(f.path).name, "size": f.size, "header_digest": f.digest} for f in checkpoint.files],
    }


def stamps(checkpoint: Checkpoint) -> list[list[Any]]:
    """What tells in a later run that the files are still the same."""
    return [[f.path, f.size, f.digest, Path(f.path).stat().st_mtime_ns] for f in checkpoint.files]
