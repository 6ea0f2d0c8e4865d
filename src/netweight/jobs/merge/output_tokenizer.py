"""The tokenizer of the output: that of one model, with the tokens of others where a recipe asks for their union."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from netweight.checkpoint.config import MAX_CONFIG, read_json_in, read_json_object
from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.vocabulary import MAX_TOKENIZER
from netweight.errors import FormatError, printable
from netweight.jobs.merge.template_files import write_object

__all__ = ["NOTHING_ADDED", "Added", "extend_tokenizer", "renumber_generation", "take_special_tokens"]

_OTHER_FORMS = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.model", "spiece.model")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class Added(NamedTuple):
    """Tokens that a tokenizer gets: their numbers, and what their own tokenizers say of them (`extend_tokenizer`)."""

    numbers: Mapping[str, int]
    flags: Mapping[str, Mapping[str, Any] | None]


NOTHING_ADDED = Added({}, {})


def extend_tokenizer(stage: Path, added: Mapping[str, int], flags: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Give the tokenizer in `stage` the tokens `added` with their numbers, which follow its own; returns notes.

    `flags` are the entries of `added_tokens` that the tokens have in their own models, None for those of a tokenizer's
    model. Files of other forms of the same tokenizer, which would lack the tokens, are removed. Raises FormatError for
    a tokenizer.json that cannot take them.
    """
    path = stage / "tokenizer.json"
    data = read_json_object(path, MAX_TOKENIZER)
    beside = {token: flags.get(token) for token in added if flags.get(token) is not None or token not in flags}
    entries = [
        {"id": added[token], "content": token} | {flag: bool((own or {}).get(flag, False)) for flag in _FLAGS}
        for token, own in beside.items()
    ]
    data["added_tokens"] = [*(data.get("added_tokens") or []), *entries]
    _into_model(path, data["model"], {e["content"]: e["id"] for e in data["added_tokens"]} | dict(added))
    write_object(path, data, compact=True)
    config_path = stage / "tokenizer_config.json"
    if config_path.exists():
        config = read_json_object(config_path, MAX_CONFIG)
        decoder = config.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            more = {str(e["id"]): {key: value for key, value in e.items() if key != "id"} for e in entries}
            write_object(config_path, config | {"added_tokens_decoder": decoder | more})
    removed = [name for name in _OTHER_FORMS if (stage / name).exists()]
    for name in removed:
        (stage / name).unlink()
    first = printable(next(iter(added)), 40)
    notes = [f"tokenizer.json: {len(added)} tokens of other models were added, '{first}' first"]
    if removed:
        notes.append(f"not written, since they lack the tokens that were added: {', '.join(removed)}")
    return notes


def take_special_tokens(config: dict[str, Any], other: Mapping[str, Any]) -> None:
    """The numbers of special tokens in `config` become those of `other`, whose tokenizer the output has."""
    for key in sorted({*config, *other}):
        if key.endswith("_token_id"):
            config[key] = other.get(key)


def renumber_generation(stage: Path, owner: Checkpoint) -> list[str]:
    """Special tokens in the stage's generation_config.json as the model has them whose tokenizer is in the stage;
    returns notes.
    """
    path = stage / "generation_config.json"
    if not path.exists():
        return []
    place, config = owner.place, dict(owner.config or {})
    if place is not None and place.has(path.name):
        config |= read_json_in(place, path.name, MAX_CONFIG)
    own = read_json_object(path, MAX_CONFIG)
    before = dict(own)
    take_special_tokens(own, {key: value for key, value in config.items() if key in own or key in _SPECIAL})
    write_object(path, own)
    return [f"{path.name}: special tokens are those of {printable(owner.ref)}"] if own != before else []


def _into_model(path: Path, model: dict[str, Any], tokens: Mapping[str, int]) -> None:
    """The tokens into the vocabulary of the tokenizer's model, where their numbers are looked up when it is loaded:
    those of added tokens would otherwise be counted anew.
    """
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = vocab | {token: number for token, number in tokens.items() if token not in vocab}
        return
    lowest = min((score for _, score in vocab), default=0.0)
    known = {entry[0] for entry in vocab}
    for token, number in sorted(tokens.items(), key=lambda item: item[1]):
        if token in known:
            continue
        if number != len(vocab):  # the plan has seen to gaps, not to a piece that an added token numbers anew
            raise FormatError(f"{printable(str(path))}: its pieces are a list, and none has the number {len(vocab)}")
        vocab.append([token, lowest - 10])
