"""What makes a folder of weights a model: config, generation config, tokenizer, index and card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_in, read_json_object
from netweight.checkpoint.index import listed
from netweight.errors import InputError, printable
from netweight.jobs.merge.card import model_card
from netweight.output.model_target import TOKENIZER_ENDINGS, TOKENIZER_FILES
from netweight.output.shards import INDEX, index_json

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place
    from netweight.output.shards import Shard

__all__ = ["model_card", "write_model_files"]

_LARGEST = 256 << 20  # bytes of a tokenizer's file: the largest of well-known models are below 40 MB
_BLOCK = 1 << 20
_TEMPLATES = "additional_chat_templates"


def write_model_files(
    stage: Path,
    *,
    config: Mapping[str, Any] | None,
    from_place: Place | None,
    tokenizer_place: Place | None,
    shards: Sequence[Shard],
    card: str | None,
    copy_tokenizer: bool = True,
) -> tuple[str, ...]:
    """Write into `stage` all files beside the weights, and return notes on those that are missing.

    `config` is the output's config.json, if it has one, and `card` its README.md; generation_config.json comes from
    `from_place`, the tokenizer (the files of `TOKENIZER_FILES`) from `tokenizer_place`, if `copy_tokenizer` says so.
    Links are followed only inside their folder and into a hub cache's blobs. Code is never copied. Raises OSError where
    the disk refuses, ReadError where a file cannot be read.
    """
    notes: list[str] = []
    if (index := index_json(shards)) is not None:
        (stage / INDEX).write_bytes(index)
    if from_place is not None:
        notes += _generation_config(from_place, stage)
    tokenizer = None
    if tokenizer_place is not None and copy_tokenizer:
        tokenizer = _tokenizer(tokenizer_place, stage, notes)
    elif copy_tokenizer:
        notes.append("no tokenizer: no input has a folder of its own; copy its files into the output")
    for name, value, folder in (
        ("config.json", config, from_place),
        ("tokenizer_config.json", tokenizer, tokenizer_place),
    ):
        if code := _own_code(value):
            where = f" from {_shown(folder)}" if folder is not None else ""
            notes.append(f"{name}: needs the model's own code, which is not copied: {listed(code)}; copy it{where}")
    if card is not None:
        (stage / "README.md").write_text(card, encoding="utf-8", newline="\n")
    if config is not None:
        _write_object(stage / "config.json", config)
    return tuple(notes)


def _generation_config(folder: Place, stage: Path) -> Iterator[str]:
    name = "generation_config.json"
    if name not in folder.names() and (folder.can_list or not folder.has(name)):
        return
    try:
        _check_there(folder, name)
        _write_object(stage / name, read_json_in(folder, name, MAX_CONFIG))
    except InputError as problem:
        yield f"not copied: {problem}"


def _tokenizer(folder: Place, stage: Path, notes: list[str]) -> dict[str, Any] | None:
    """Copy the tokenizer's files; its configuration, where there is one."""
    copied = []
    for name in _tokenizer_names(folder):
        try:
            _copy(folder, name, stage / name)
            copied.append(name)
        except InputError as problem:
            notes.append(f"not copied: {problem}")
    if not copied:
        notes.append(f"{_shown(folder)}: has no tokenizer; copy one into the output")
    if "tokenizer_config.json" not in copied:
        return None
    try:
        return read_json_object(stage / "tokenizer_config.json", MAX_CONFIG)
    except InputError as problem:
        notes.append(f"copied as it is: {problem}")
        return None


def _tokenizer_names(folder: Place) -> Iterator[str]:
    names = [*folder.names(), *folder.folders()] if folder.can_list else filter(folder.has, TOKENIZER_FILES)
    for name in sorted(names):
        if name in TOKENIZER_FILES or name.endswith(TOKENIZER_ENDINGS):
            yield name
    for name in folder.names(_TEMPLATES):
        if name.endswith(".jinja"):
            yield f"{_TEMPLATES}/{name}"


def _copy(folder: Place, name: str, target: Path) -> None:
    """Raises InputError for what is no regular file inside of `folder`, or is too large."""
    _check_there(folder, name)
    source = folder.open(name)
    if source.size > _LARGEST:
        raise InputError(f"{printable(folder.path(name), 300)}: {source.size} bytes, expected at most {_LARGEST}")
    target.parent.mkdir(exist_ok=True)
    buffer = memoryview(bytearray(min(_BLOCK, source.size)))
    try:
        with target.open("wb") as out:
            for start in range(0, source.size, _BLOCK):
                view = buffer[: source.size - start]
                source.read_into(start, view)
                out.write(view)
        source.check_unchanged()
    finally:
        source.close()


def _check_there(folder: Place, name: str) -> None:
    if not folder.has(name):
        raise InputError(f"{printable(folder.path(name), 300)}: is a link that leads to nothing")


def _own_code(config: Mapping[str, Any] | None) -> list[str]:
    """The files that `auto_map` names beside the config; `repository--module` lies on the hub."""
    named = (config or {}).get("auto_map")
    values = list(named.values()) if isinstance(named, dict) else []
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    modules = {text.rpartition(".")[0] for text in texts if isinstance(text, str) and "--" not in text}
    return sorted(f"{module}.py" for module in modules if module)


def _write_object(path: Path, value: Mapping[str, Any]) -> None:
    # NaN and Infinity stay what they are: models' configs hold them (a limit of infinity), and their loader takes them.
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="ascii", newline="\n")


def _shown(folder: Place) -> str:
    return printable(folder.label, 300)
