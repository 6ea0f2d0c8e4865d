"""Folder names for models: short, distinct, stable, and safe on every file system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import PurePath

from netweight.jobs.inputs import SUFFIXES

__all__ = ["model_names"]

_UNSAFE = re.compile(r'[\x00<>:"/\\|?*]+')
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}
_LONGEST = 200  # bytes: file systems allow 255, and a number may follow


def _parts(path: str) -> list[str]:
    """The safe parts of an absolute path, the last without a checkpoint's suffix."""
    parts = [part for part in PurePath(path).parts if part not in ("/", "\\", ".", "..")]
    if parts and parts[-1].lower().endswith(SUFFIXES):
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
    visible = ["".join(c if c.isprintable() else "\0" for c in part) for part in parts]
    return [_UNSAFE.sub("_", part) for part in visible] or ["model"]


def _safe(name: str) -> str:
    tail = name.strip(". ").encode()[-_LONGEST:].decode(errors="ignore")
    name = tail.strip(". ") or "model"
    return f"{name}_" if name.split(".")[0].lower() in _DEVICES else name


def _folded(name: str) -> str:
    """One text for all names that some file system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def model_names(paths: Sequence[str], reserved: Collection[str] = ()) -> list[str]:
    """One folder name for each of the absolute `paths`, distinct from each other and from `reserved` in any case.

    The last part of the path where that is enough, with as many parents before it as it takes (`runA_checkpoint-100`);
    paths that are the same all the way get a number. A name depends on the set of paths, not on their order.
    """
    split = [_parts(path) for path in paths]
    depth = [1] * len(paths)

    def name(i: int) -> str:
        return _safe("_".join(split[i][-depth[i] :]))

    while True:
        groups: dict[str, list[int]] = {}
        for i in range(len(paths)):
            groups.setdefault(_folded(name(i)), []).append(i)
        shared = [group for group in groups.values() if len({tuple(split[i]) for i in group}) > 1]
        unclear = [i for group in shared for i in group if depth[i] < len(split[i])]
        if not unclear:
            break
        for i in unclear:
            depth[i] += 1
    used = {_folded(t) for t in reserved}
    names = []
    for i in range(len(paths)):
        candidate, count = name(i), 1
        while _folded(candidate) in used:
            count += 1
            candidate = f"{name(i)}-{count}"
        used.add(_folded(candidate))
        names.append(candidate)
    return names
