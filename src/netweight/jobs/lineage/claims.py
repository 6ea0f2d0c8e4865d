"""What a model's own files say of its descent: the card, config.json, an adapter's settings, a merge's recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.adapters.settings import ADAPTER_CONFIG
from netweight.checkpoint.byte_stream import read_whole
from netweight.checkpoint.config import read_json_in
from netweight.checkpoint.place import Place
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, NetweightError
from netweight.merging.recipe.yaml import read_documents

__all__ = ["Claim", "adapter_base", "claims_of"]

_CARD = "README.md"
_RECIPES = ("mergekit_config.yml", "mergekit_config.yaml", "merge_recipe.yml")  # the last is netweight's own
_LONGEST = 1 << 20
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Claim:
    """One claim: `named` is the model that this one is said to descend from, `where` it is said."""

    named: str
    where: str
    kind: str = ""


def claims_of(checkpoint: Checkpoint) -> tuple[list[dict[str, str]], list[str]]:
    """(all claims of a model's files, each once, as dicts of a `Claim`'s fields; a note on each file that cannot be
    read). Of a file that was named itself, and not its folder, the files beside it are not its own.
    """
    found: dict[tuple[str, str], Claim] = {}
    notes: list[str] = []
    for claim in _all(checkpoint, notes):
        found.setdefault((claim.named, claim.where), claim)
    return [vars(claim) for claim in found.values()], notes


def _all(checkpoint: Checkpoint, notes: list[str]) -> Iterator[Claim]:
    config = checkpoint.config or {}
    name = config.get("_name_or_path")
    if isinstance(name, str) and name.strip() and name != checkpoint.ref:
        yield Claim(name.strip(), "config.json: _name_or_path")
    place = checkpoint.made_of[-1].place if checkpoint.made_of else checkpoint.place
    if place is None or (checkpoint.location is not None and not checkpoint.location.is_dir()):
        return
    if base := adapter_base(place):
        yield Claim(base, f"{ADAPTER_CONFIG}: base_model_name_or_path", "adapter")
    if front := _FRONT.match(_text(place, _CARD, notes)):
        for said in _yaml(front[1], _CARD, notes):
            yield from _of_card(said)
    for name in _RECIPES:
        yield from _of_recipe(_yaml(_text(place, name, notes), name, notes), name)


def adapter_base(place: Place | None) -> str:
    """The base that adapter_config.json in this folder names; "" without one."""
    if place is None or not place.has(ADAPTER_CONFIG):
        return ""
    try:
        base = read_json_in(place, ADAPTER_CONFIG, _LONGEST).get("base_model_name_or_path")
    except FormatError:
        return ""  # opening the adapter has said so
    return base.strip() if isinstance(base, str) else ""


def _text(place: Place, name: str, notes: list[str]) -> str:
    try:
        if not place.has(name):
            return ""
        with closing(place.open(name)) as source:
            if source.size > _LONGEST:
                notes.append(f"{name}: {source.size} bytes, more than a card has: what it claims is not read")
                return ""
            return read_whole(source).decode(errors="replace")
    except NetweightError as problem:
        notes.append(f"{name}: cannot be read, so what it claims is not known: {problem}")
        return ""


def _of_card(said: Any) -> Iterator[Claim]:
    if isinstance(said, dict):
        relation = said.get("base_model_relation")
        for named in _names(said.get("base_model")):
            yield Claim(named, f"{_CARD}: base_model", relation if isinstance(relation, str) else "")


def _of_recipe(said: Any, where: str) -> Iterator[Claim]:
    def models(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, held in value.items():
                if key in ("model", "base_model"):
                    yield from _names(held)
                else:
                    yield from models(held)
        elif isinstance(value, list):
            for held in value:
                yield from models(held)

    for named in models(said):
        yield Claim(named, where, "merge")


def _names(value: Any) -> list[str]:
    held = value if isinstance(value, list) else [value]
    return [name.strip() for name in held if isinstance(name, str) and name.strip()]


def _yaml(text: str, where: str, notes: list[str]) -> list[Any]:
    """The documents of a file, by the reader of recipes, which bounds depth and size."""
    if not text.strip():
        return []
    try:
        return [document for document, _ in read_documents(text, where)]
    except FormatError as problem:
        notes.append(f"{problem}; what it claims is not known")
        return []
