"""Which number a model's tokenizer gives to each token, from the files beside the model; nothing in them is run.

The formats: tokenizer.json of Hugging Face's tokenizers (BPE, WordPiece, WordLevel, Unigram); vocab.json of GPT-2;
vocab.txt of BERT, a token a line; tokenizer.model of SentencePiece; added_tokens.json beside the last three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from netweight.checkpoint.byte_stream import read_whole
from netweight.checkpoint.config import read_json_in
from netweight.checkpoint.place import Place
from netweight.errors import FormatError, JobError, printable

__all__ = ["MAX_TOKENIZER", "Vocabulary", "read_vocabulary"]

MAX_TOKENIZER = 256 << 20  # bytes: the largest of well-known models are below 40 MB
_HIGHEST = 1 << 22  # no row of an embedding has a number above this: the largest vocabularies have a million
_SENTENCEPIECE = (
    "tokenizer.model",
    "spiece.model",
)  # not those of XLM-R and its kin, whose rows are numbered otherwise


@dataclass(frozen=True)
class Vocabulary:
    """`ids` maps a token, as the tokenizer spells it, to its number: the row of the embedding. `added` are those that
    stand beside the tokenizer's own model, special ones and those of fine-tunes, with what the file says of each.
    `file` is where all of it is from. `listed`: the tokenizer's model numbers its pieces by their order, without gaps.
    """

    file: str
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    listed: bool = False

    @cached_property
    def tokens(self) -> dict[int, str]:
        """A token of each number: of several, the one that was added last."""
        return {number: token for token, number in self.ids.items()}


def read_vocabulary(place: Place) -> Vocabulary | None:
    """The vocabulary of the model whose files lie in `place`; None where no file of it says one.

    Raises FormatError for a file that is not what its name says, JobError where a library is needed that is not there.
    """
    if place.has("tokenizer.json"):
        return _of_tokenizer_json(place, "tokenizer.json")
    for name in _SENTENCEPIECE:
        if place.has(name):
            return _with_added(place, name, {piece: n for n, piece in enumerate(_pieces(place, name))})
    if place.has("vocab.json"):
        ids = _ids(place.path("vocab.json"), read_json_in(place, "vocab.json", MAX_TOKENIZER).items())
        return _with_added(place, "vocab.json", ids)
    if place.has("vocab.txt"):
        lines = _bytes(place, "vocab.txt").decode("utf-8", "surrogateescape").split("\n")
        lines = lines[:-1] if lines[-1] == "" else lines
        return _with_added(place, "vocab.txt", {line.rstrip("\r"): n for n, line in enumerate(lines)})
    return None


def _of_tokenizer_json(place: Place, name: str) -> Vocabulary:
    where = place.path(name)
    data = read_json_in(place, name, MAX_TOKENIZER)
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        ids = _ids(where, vocab.items())
    elif isinstance(vocab, list):  # Unigram: [[piece, score], ...]
        ids = _ids(where, ((_piece(entry), number) for number, entry in enumerate(vocab)))
    else:
        raise FormatError(f"{printable(where)}: expected model.vocab, an object or a list, as tokenizers write it")
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise FormatError(f"{printable(where)}: expected added_tokens to be a list of objects")
    more = _ids(where, ((entry.get("content"), entry.get("id")) for entry in added))
    return Vocabulary(where, ids | more, {entry["content"]: entry for entry in added}, isinstance(vocab, list))


def _piece(entry: Any) -> Any:
    """The piece of [piece, score]; what is none as it is, to be named."""
    right = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], int | float)
    return entry[0] if right else entry


def _with_added(place: Place, name: str, ids: dict[str, int]) -> Vocabulary:
    added: dict[str, int] = {}
    if place.has("added_tokens.json"):
        entries = read_json_in(place, "added_tokens.json", MAX_TOKENIZER).items()
        added = _ids(place.path("added_tokens.json"), entries)
    return Vocabulary(place.path(name), ids | added, {token: {} for token in added})


def _ids(where: str, pairs: Iterator[tuple[Any, Any]] | Any) -> dict[str, int]:
    """Tokens and their numbers, each checked."""
    ids = {}
    for token, number in pairs:
        if not isinstance(token, str) or type(number) is not int or not 0 <= number < _HIGHEST:
            raise FormatError(
                f"{printable(where)}: expected a token and its number, got {printable(repr(token), 40)}:"
                f" {printable(repr(number), 40)}"
            )
        ids[token] = number
    return ids


def _bytes(place: Place, name: str) -> bytes:
    source = place.open(name)
    if source.size > MAX_TOKENIZER:
        raise FormatError(f"{printable(place.path(name))}: {source.size} bytes, expected at most {MAX_TOKENIZER}")
    return bytes(read_whole(source))


def _pieces(place: Place, name: str) -> list[str]:
    """The pieces of a SentencePiece model, in the order of their numbers."""
    where = printable(place.path(name))
    try:
        from sentencepiece import SentencePieceProcessor  # noqa: PLC0415 - an extra
    except ImportError as problem:
        raise JobError(
            f"{where}: reading it needs sentencepiece, which is not installed: pip install 'netweight[sentencepiece]',"
            " or put the model's tokenizer.json beside it"
        ) from problem
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(_bytes(place, name))
        return [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    except (RuntimeError, ValueError, TypeError, IndexError) as problem:
        raise FormatError(f"{where}: is no SentencePiece model: {printable(str(problem), 200)}") from None
