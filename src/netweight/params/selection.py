"""Which parameters a job takes: the globs of --include and --exclude, and element types that are no weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from netweight.checkpoint.tensor import Checkpoint
from netweight.dtypes import DType, Kind
from netweight.errors import did_you_mean, printable

__all__ = ["dtype_reason", "examples", "nothing_matches", "unwanted_reason"]


def unwanted_reason(name: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    """Why the globs leave a parameter out, None where they let it through."""
    for glob in exclude:
        if fnmatchcase(name, glob):
            return f"excluded by --exclude {printable(glob)}"
    if include and not any(fnmatchcase(name, glob) for glob in include):
        return "not matched by --include"
    return None


def nothing_matches(checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]) -> str:
    """The message where the globs leave nothing."""
    globs = " ".join([*(f"--include {printable(g)}" for g in include), *(f"--exclude {printable(g)}" for g in exclude)])
    hint = did_you_mean(include[0], islice(checkpoint, 2000)) if include else ""
    return (
        f"no parameter of {printable(checkpoint.ref)} is left by {globs}{hint}; its names look like"
        f" {examples(checkpoint)}"
    )


def dtype_reason(dtype: DType) -> str:
    """Why a tensor of this type, which is no float type, is not measured."""
    match dtype.kind:
        case Kind.INTEGER | Kind.BOOLEAN:
            return f"{dtype.kind.value} dtype {dtype}: not a weight"
        case Kind.COMPLEX:
            return f"complex dtype {dtype}: not measured"
        case _:
            return f"packed dtype {dtype}: not measured"


def examples(names: Iterable[str]) -> str:
    """The first names, for messages."""
    shown = [f"'{printable(name, 60)}'" for name in islice(names, 2)]
    return ", ".join(shown) if shown else "no tensors"
