"""What makes a folder of weights a model: config, generation config, tokenizer, index and card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_in, read_json_object
from netweight.checkpoint.index import listed
from netweight.errors import InputError
from netweight.jobs.merge.card import model_card
from netweight.jobs.merge.chat_template import ChosenTemplate
from netweight.jobs.merge.copying import check_there, copy_file, shown
from netweight.jobs.merge.output_tokenizer import NOTHING_ADDED, Added, extend_tokenizer
from netweight.jobs.merge.sentence_files import copy_sentence_files
from netweight.jobs.merge.template_files import ADDITIONAL, missing_tokens, write_object, write_template
from netweight.output.model_target import TOKENIZER_ENDINGS, TOKENIZER_FILES
from netweight.output.shards import INDEX, index_json

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place
    from netweight.output.shards import Shard

__all__ = ["model_card", "write_model_files"]

_AS_IT_IS = ChosenTemplate()


def write_model_files(
    stage: Path,
    *,
    config: Mapping[str, Any] | None,
    from_place: Place | None,
    tokenizer_place: Place | None,
    shards: Sequence[Shard],
    card: str | None,
    copy_tokenizer: bool = True,
    template: ChosenTemplate = _AS_IT_IS,
    added: Added = NOTHING_ADDED,
) -> tuple[str, ...]:
    """Write into `stage` all files beside the weights, and return notes on those that are missing.

    `config` is the output's config.json, if it has one, and `card` its README.md. generation_config.json and the files
    of sentence-transformers come from `from_place`, the tokenizer (the files of `TOKENIZER_FILES`) from
    `tokenizer_place`, if `copy_tokenizer` says so, with the tokens `added` to it and `template` in the place of its
    own. Links are followed only inside their folder and into a hub cache's blobs. Code is never copied. Raises OSError
    where the disk refuses, ReadError where a file cannot be read, FormatError for a tokenizer that takes no tokens.
    """
    notes: list[str] = []
    if (index := index_json(shards)) is not None:
        (stage / INDEX).write_bytes(index)
    if from_place is not None:
        notes += _generation_config(from_place, stage)
        notes += copy_sentence_files(from_place, stage)
    tokenizer = None
    if tokenizer_place is not None and copy_tokenizer:
        tokenizer = _tokenizer(tokenizer_place, stage, notes)
        if added.numbers:
            notes += extend_tokenizer(stage, *added)
    elif copy_tokenizer:
        notes.append("no tokenizer: no input has a folder of its own; copy its files into the output")
    notes += template.notes
    if template.text is not None:
        notes += write_template(stage, template.text)
        if lacking := missing_tokens(stage, template.tokens):
            notes.append(f"chat_template: the tokenizer has no token for {listed(lacking)}, and cuts it into pieces")
    for name, value, folder in (
        ("config.json", config, from_place),
        ("tokenizer_config.json", tokenizer, tokenizer_place),
    ):
        if code := _own_code(value):
            where = f" from {shown(folder)}" if folder is not None else ""
            notes.append(f"{name}: needs the model's own code, which is not copied: {listed(code)}; copy it{where}")
    if card is not None:
        (stage / "README.md").write_text(card, encoding="utf-8", newline="\n")
    if config is not None:
        write_object(stage / "config.json", config)
    return tuple(notes)


def _generation_config(folder: Place, stage: Path) -> Iterator[str]:
    name = "generation_config.json"
    if name not in folder.names() and (folder.can_list or not folder.has(name)):
        return
    try:
        check_there(folder, name)
        write_object(stage / name, read_json_in(folder, name, MAX_CONFIG))
    except InputError as problem:
        yield f"not copied: {problem}"


def _tokenizer(folder: Place, stage: Path, notes: list[str]) -> dict[str, Any] | None:
    """Copy the tokenizer's files; its configuration, where there is one."""
    copied = []
    for name in _tokenizer_names(folder):
        try:
            copy_file(folder, name, stage / name)
            copied.append(name)
        except InputError as problem:
            notes.append(f"not copied: {problem}")
    if not copied:
        notes.append(f"{shown(folder)}: has no tokenizer; copy one into the output")
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
    for name in folder.names(ADDITIONAL):
        if name.endswith(".jinja"):
            yield f"{ADDITIONAL}/{name}"


def _own_code(config: Mapping[str, Any] | None) -> list[str]:
    """The files that `auto_map` names beside the config; `repository--module` lies on the hub."""
    named = (config or {}).get("auto_map")
    values = list(named.values()) if isinstance(named, dict) else []
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    modules = {text.rpartition(".")[0] for text in texts if isinstance(text, str) and "--" not in text}
    return sorted(f"{module}.py" for module in modules if module)
