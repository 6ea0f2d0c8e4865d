"""What sentence-transformers reads beside a model: modules.json, and the small files of the modules that it names.

Without them it would take the mean of all tokens for every model. A module's weights (a Dense layer's) are not merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_array_in
from netweight.checkpoint.index import listed
from netweight.errors import FormatError, InputError, printable
from netweight.jobs.merge.copying import copy_file, shown
from netweight.output.model_target import SENTENCE_FILES, WEIGHTS

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place

__all__ = ["copy_sentence_files"]

_MODULES = "modules.json"
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""Names of modules' folders. Without a dot none is the name of a file of the output."""

_MOST = 100  # modules, and files of one
_OWN = "sentence_transformers."
_USUAL = ("config.json", "model.safetensors", "pytorch_model.bin")
"""Files of a module that are looked for where a folder cannot be listed."""

_EMPTY = ("Normalize",)
"""Modules without files."""


def copy_sentence_files(folder: Place, stage: Path) -> Iterator[str]:
    """Copy them from the model in `folder`, and yield notes on what is left out. Links are followed only inside of
    `folder`. Raises OSError where the disk refuses, ReadError where a file cannot be read.
    """
    names = folder.names() if folder.can_list else list(filter(folder.has, SENTENCE_FILES))
    for name in sorted(SENTENCE_FILES & set(names)):
        try:
            modules = _modules(folder) if name == _MODULES else []
            copy_file(folder, name, stage / name, MAX_CONFIG)
        except InputError as problem:
            yield f"not copied: {problem}"
        else:
            yield from _copy_modules(folder, modules, stage)


def _modules(folder: Place) -> list[tuple[str, str]]:
    """(folder, type) of each module. Raises FormatError for a folder that is no plain name: it might lead outside."""
    where = printable(folder.path(_MODULES), 300)
    entries = read_json_array_in(folder, _MODULES, MAX_CONFIG)
    if len(entries) > _MOST:
        raise FormatError(f"{where}: names {len(entries)} modules, expected at most {_MOST}")
    return [_module(entry, f"{where}, module {n}") for n, entry in enumerate(entries)]


def _module(entry: Any, where: str) -> tuple[str, str]:
    path, kind = (entry.get("path"), entry.get("type")) if isinstance(entry, dict) else (None, None)
    if not isinstance(path, str) or not isinstance(kind, str):
        raise FormatError(f"{where}: expected an object with path and type, both text")
    if path and not _FOLDER.fullmatch(path):
        raise FormatError(
            f"{where}: names the folder {printable(path, 60)!r}, expected one of letters, digits, - and _ beside"
            f" {_MODULES}"
        )
    return path, kind


def _copy_modules(folder: Place, modules: list[tuple[str, str]], stage: Path) -> Iterator[str]:
    code = sorted({kind.rpartition(".")[0] + ".py" for _, kind in modules if not kind.startswith(_OWN)})
    if own := [name for name in code if "--" not in name]:  # others lie on the hub
        where = shown(folder)
        yield f"{_MODULES}: needs the model's own code, which is not copied: {listed(own)}; copy it from {where}"
    for path, kind in dict(modules).items():
        if path:
            yield from _copy_module(folder, path, kind, stage)


def _copy_module(folder: Place, path: str, kind: str, stage: Path) -> Iterator[str]:
    try:
        names = folder.names(path) if folder.can_list else [n for n in _USUAL if folder.has(f"{path}/{n}")]
    except InputError as problem:
        yield f"not copied: {problem}"
        return
    weights = [name for name in names if name.endswith(WEIGHTS) and not name.endswith(".json")]
    small = [name for name in names if name.endswith(".json") and not name.endswith(WEIGHTS)]
    if not names and kind.rpartition(".")[2] not in _EMPTY:
        yield f"{_MODULES}: names {path}, and {shown(folder)} has no such files: the output gets none"
    if len(small) > _MOST:
        yield f"not copied: {printable(folder.path(path), 300)}: holds {len(small)} files, expected at most {_MOST}"
        return
    for name in small:
        try:
            copy_file(folder, f"{path}/{name}", stage / path / name, MAX_CONFIG)
        except InputError as problem:
            yield f"not copied: {problem}"
    if weights:
        yield (
            f"{path}: its weights are not merged, and not written: {listed(weights)}; sentence-transformers needs them:"
            f" copy them from {printable(folder.path(path), 300)}"
        )
