"""Folder names for models: short, distinct, stable, and safe on every file system."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath

__all__ = ["model_names"]

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".tar")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}
_LONGEST = 120


def _parts(path: str) -> list[str]:
    """The safe parts of an absolute path, the last without a checkpoint's suffix."""
    parts = [part for part in PurePath(path).parts if part not in ("/", "\\", ".", "..")]
    if parts and parts[-1].lower().endswith(_SUFFIXES):
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
    return [_UNSAFE.sub("_", part) for part in parts] or ["model"]


def _safe(name: str) -> str:
    name = name.strip(". ")[-_LONGEST:].strip(". ") or "model"
    return f"{name}_" if name.split(".")[0].lower() in _DEVICES else name


def model_names(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """One folder name for each of the absolute `paths`, distinct from each other and from `taken` in any case.

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
            groups.setdefault(name(i).casefold(), []).append(i)
        unclear = [i for group in groups.values() if len(group) > 1 for i in group if depth[i] < len(split[i])]
        if not unclear:
            break
        for i in unclear:
            depth[i] += 1
    used = {t.casefold() for t in taken}
    found = []
    for i in range(len(paths)):
        candidate, count = name(i), 1
        while candidate.casefold() in used:
            count += 1
            candidate = f"{name(i)}-{count}"
        used.add(candidate.casefold())
        found.append(candidate)
    return found
