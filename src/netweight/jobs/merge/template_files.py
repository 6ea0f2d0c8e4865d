"""A chat template written where models keep it, so that all versions of transformers find the same one.

transformers takes `chat_template.jinja` before what tokenizer_config.json says; its older versions look into
tokenizer_config.json alone. Its processors take chat_template.json, or a processor_config.json that has a template,
before either. All of them get the text, where they are there.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_object
from netweight.checkpoint.index import listed
from netweight.errors import FormatError, InputError, printable

__all__ = ["ADDITIONAL", "missing_tokens", "write_object", "write_template"]

ADDITIONAL = "additional_chat_templates"
"""The folder of further templates, each with a name."""

_KEY = "chat_template"
_TOKENIZER = "tokenizer_config.json"
_WORDS = (
    "tokenizer.json", "added_tokens.json", "special_tokens_map.json", "vocab.json", "vocab.txt", "tokenizer.model",
    "spiece.model",
)  # fmt: skip
"""Files in which a tokenizer's special tokens stand as they are."""


def write_template(stage: Path, text: str) -> Iterator[str]:
    """Write `text` into `stage`, over what the tokenizer's files there say; notes on what is beside it."""
    (stage / "chat_template.jinja").write_bytes(text.encode())
    yield from _into_tokenizer_config(stage, text)
    for name in ("chat_template.json", "processor_config.json"):
        if (stage / name).exists():
            try:
                config = read_json_object(stage / name, MAX_CONFIG)
                if _KEY in config or name == "chat_template.json":
                    write_object(stage / name, config | {_KEY: text})
            except InputError as problem:
                yield f"chat_template: {name} keeps what it says, and processors may look there first: {problem}"
    if further := sorted(path.stem for path in (stage / ADDITIONAL).glob("*.jinja")):
        yield f"chat_template: the default is replaced; those in {ADDITIONAL} stay as they are: {listed(further)}"


def _into_tokenizer_config(stage: Path, text: str) -> Iterator[str]:
    path = stage / _TOKENIZER
    alone = "chat_template: stands in chat_template.jinja alone"
    if not path.exists():
        yield f"{alone}: there is no {_TOKENIZER}, where older versions of transformers look"
        return
    try:
        config = read_json_object(path, MAX_CONFIG)
        write_object(path, config | {_KEY: text})
    except InputError as problem:
        yield f"{alone}: {problem}"
        return
    if further := _further(config.get(_KEY)):
        yield f"chat_template: those with other names in {_TOKENIZER} are left out: {listed(further)}"


def _further(held: Any) -> list[str]:
    entries = [entry for entry in held if isinstance(entry, Mapping)] if isinstance(held, list) else []
    return [str(name) for entry in entries if (name := entry.get("name")) is not None and name != "default"]


def missing_tokens(stage: Path, tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that no file of the tokenizer in `stage` has; none where it has no such file."""
    files = [path for name in _WORDS if (path := stage / name).exists() and path.stat().st_size]
    if not files:
        return []
    missing = set(tokens) - _added(stage)
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            missing = {token for token in missing if data.find(token.encode()) < 0}
    return [token for token in tokens if token in missing]


def _added(stage: Path) -> set[str]:
    """Tokens that tokenizer_config.json adds."""
    try:
        added = read_json_object(stage / _TOKENIZER, MAX_CONFIG).get("added_tokens_decoder")
    except InputError:
        return set()
    entries = [entry for entry in added.values() if isinstance(entry, Mapping)] if isinstance(added, Mapping) else []
    return {token for entry in entries if isinstance(token := entry.get("content"), str)}


def write_object(path: Path, value: Mapping[str, Any], *, compact: bool = False) -> None:
    """JSON in ASCII, in one line where it is `compact`: large files are written ten times as fast. NaN and Infinity
    stay what they are: models' configs hold them (a limit of infinity), and their loader takes them. Raises FormatError
    for what is nested too deeply, and OSError.
    """
    try:
        text = json.dumps(value, indent=None if compact else 2)
    except RecursionError:
        raise FormatError(f"{printable(path.name)}: is nested too deeply") from None
    path.write_text(text + "\n", encoding="ascii", newline="\n")
