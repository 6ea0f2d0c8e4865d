"""The list that a results folder keeps of netweight's own files, by the kind of job that wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from netweight.version import __version__

__all__ = ["MANIFEST", "read_manifest", "write_manifest"]

MANIFEST = ".netweight.json"

_LARGEST = 64 << 20


def read_manifest(folder: Path) -> tuple[dict[str, list[str]], str | None]:
    """The files (POSIX paths below `folder`) by kind of job, and a note where the list is there but cannot be used.

    Without a list everything in the folder is somebody else's. Raises OSError where the file cannot be read.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return {}, None
    damaged = f"{path}: not a list of netweight's files (damaged?): everything in the folder is kept"
    if path.stat().st_size > _LARGEST:
        return {}, damaged
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}, damaged
    results = value.get("results") if isinstance(value, dict) else None
    if not isinstance(results, dict) or not all(
        isinstance(files, list) and all(isinstance(file, str) for file in files) for files in results.values()
    ):
        return {}, damaged
    return results, None


def write_manifest(folder: Path, results: Mapping[str, Iterable[str]]) -> None:
    """Write the list into `folder`; raises OSError where it cannot be written."""
    value = {
        "netweight": __version__,
        "schema": 1,
        "results": {kind: sorted(files) for kind, files in sorted(results.items())},
    }
    (folder / MANIFEST).write_text(json.dumps(value, indent=1) + "\n", encoding="ascii", newline="\n")
