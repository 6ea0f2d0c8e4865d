"""The texts of the rows, from the model's own tokenizer.json, read by `tokenizers`; nothing in it is run."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.vocabulary import MAX_TOKENIZER
from netweight.errors import FormatError, InputError, JobError, OptionError, ReadError, did_you_mean, printable

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place

__all__ = ["Tokens", "cut", "open_tokens"]

FILE = "tokenizer.json"
_LONGEST = 200  # characters of a text that is shown or written
_RESERVED = re.compile(
    r"[<\[](?:\|)?(?:reserved|unused|placeholder|dummy|pad_?token)[^<>\[\]]{0,64}(?:\|)?[>\]]", re.IGNORECASE
)
_IMPOSSIBLE = (0xC0, 0xC1, *range(0xF5, 0x100))  # bytes that UTF-8 text never holds
_LONE_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a model's rows: `pieces` maps an id to the vocabulary's own spelling; `special` ids are no text."""

    pieces: dict[int, str]
    special: frozenset[int]
    tokenizer: Any

    def texts(self, ids: list[int]) -> list[str | None]:
        """The text of each id, as long as it may be; its spelling where it is no text by itself (half a character);
        None where the tokenizer has no such id. It is the checkpoint's text: nothing in it has been made harmless.
        """
        known = [i for i in ids if i in self.pieces]
        decoded = dict(
            zip(
                known,
                _guarded(lambda: self.tokenizer.decode_batch([[i] for i in known], skip_special_tokens=False)),
                strict=True,
            )
        )
        return [self._text(i, decoded[i]) if i in decoded else None for i in ids]

    def _text(self, number: int, decoded: str) -> str:
        return cut(self.pieces[number] if not decoded or "\ufffd" in decoded else decoded)

    def is_word(self, number: int, text: str | None) -> bool:
        """Whether a token means something by itself: two letters at least, or one character of a script of words."""
        if text is None or number in self.special or text == "\ufffd":
            return False
        letters = [c for c in text if c.isalpha()]
        return len(letters) > 1 or any(unicodedata.name(c, "").startswith(_LONE_SCRIPTS) for c in letters)

    def unused(self, rows: int) -> dict[int, str]:
        """{id: why} of rows that no text can lead to: beyond the vocabulary, reserved by name, bytes outside UTF-8."""
        reasons = {i: "no token has this id" for i in range(rows) if i not in self.pieces}
        spelt = {f"<0x{byte:02X}>" for byte in _IMPOSSIBLE} | (
            {chr(byte) for byte in _IMPOSSIBLE} if self._by_bytes else set()
        )
        for number, piece in self.pieces.items():
            if number >= rows:
                continue
            if piece in spelt and number not in self.special:
                reasons[number] = "a byte that UTF-8 text never holds"
            elif _RESERVED.fullmatch(piece):
                reasons[number] = "reserved by its name"
        return dict(sorted(reasons.items()))

    @property
    def _by_bytes(self) -> bool:
        """Whether single characters of the vocabulary stand for bytes."""
        return "ByteLevel" in str(type(self.tokenizer.decoder)) or "ByteLevel" in repr(self.tokenizer.pre_tokenizer)

    def find(self, token: str, rows: int) -> int:
        """The row of TOKEN: an id in digits, or a text that is one token; `text:12` is the text 12.

        Raises OptionError where there is none.
        """
        if re.fullmatch(r"[0-9]{1,12}", token):
            return check_id(token, rows)
        text = token.removeprefix("text:")
        by_piece = {piece: number for number, piece in self.pieces.items()}
        if text in by_piece:
            return check_id(str(by_piece[text]), rows)
        ids = _guarded(lambda: self.tokenizer.encode(text, add_special_tokens=False).ids)
        decoded = _guarded(lambda: self.tokenizer.decode(ids, skip_special_tokens=False))
        unknown = decoded.strip().casefold() != text.strip().casefold()  # the tokenizer's token for unknown text
        if len(ids) == 1 and not unknown:
            return check_id(str(ids[0]), rows)
        if len(ids) > 1 and not unknown:
            named = ", ".join(f"{i} {printable(repr(self.pieces.get(i, '')), 30)}" for i in ids[:8])
            raise OptionError(
                f"--nearest {printable(token)}: is {len(ids)} tokens ({named}); give one of them by its id"
            )
        hint = did_you_mean(text, list(by_piece)[:20_000])
        raise OptionError(
            f"--nearest {printable(token)}: the tokenizer has no such token{hint}; give a token's text or id"
        )


def check_id(digits: str, rows: int) -> int:
    """The id, where there is such a row; raises OptionError."""
    number = int(digits)
    if number >= rows:
        raise OptionError(f"--nearest {digits}: expected an id below {rows}, the number of rows")
    return number


def cut(text: str) -> str:
    """`text` in at most 200 characters."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def open_tokens(folder: Place | None) -> tuple[Tokens | None, str]:
    """(tokens, a sentence on where they are from) of the model whose files lie in `folder`; (None, why) where there is
    no tokenizer beside it that can be read.

    Raises JobError where `tokenizers` is not installed though it is needed.
    """
    try:
        if folder is None or not folder.has(FILE):
            return None, f"{FILE} is not beside the model: tokens are shown by their ids alone"
        source = folder.open(FILE)
        if source.size > MAX_TOKENIZER:
            return None, f"{FILE} is not read: {source.size} bytes, expected at most {MAX_TOKENIZER}"
        Tokenizer = _tokenizer_class()  # noqa: N806
        data = bytearray(source.size)
        source.read_into(0, memoryview(data))
        source.close()
        tokenizer = _guarded(lambda: Tokenizer.from_buffer(bytes(data)))
        vocabulary = _guarded(lambda: tokenizer.get_vocab(with_added_tokens=True))
        added = _guarded(tokenizer.get_added_tokens_decoder)
    except (InputError, ReadError) as problem:
        return None, f"{FILE} cannot be used, tokens are shown by their ids alone: {printable(str(problem), 300)}"
    pieces = {number: piece for piece, number in vocabulary.items()}
    special = frozenset(number for number, token in added.items() if token.special)
    return Tokens(pieces, special, tokenizer), f"{FILE}: {len(pieces)} tokens"


def _guarded(call: Any) -> Any:
    """What `call` returns; every failure of the library, a panic among them, as FormatError."""
    try:
        return call()
    except Exception as problem:
        raise FormatError(f"{FILE}: {' '.join(str(problem).split())[:300]}") from problem
    except BaseException as problem:
        if type(problem).__name__ == "PanicException":  # Rust's, which is not an Exception
            raise FormatError(f"{FILE}: the tokenizers library gave up: {str(problem)[:200]}") from None
        raise


def _tokenizer_class() -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as problem:
        raise JobError(
            f"{FILE}: reading it needs tokenizers, which is not installed: pip install 'netweight[embeddings]',"
            " or give --skip-representatives"
        ) from problem
    return Tokenizer
