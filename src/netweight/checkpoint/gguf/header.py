"""The header of a GGUF file, versions 1 to 3: key-values and tensor infos, every count held against the file first.

Source: docs/gguf.md of ggml; version 1 counts in 32 bits. Lists of text (a vocabulary) are passed over: what is kept of
them is their length.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from netweight.checkpoint.gguf.types import GONE, PLAIN, TYPES
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["MAX_HEADER", "Header", "Info", "Omitted", "Value", "read_header"]

MAX_HEADER = 1 << 28  # bytes; a vocabulary of a million words takes 30 MB
_MAX_NAME = 65_535  # bytes, ggml's limit of a key
_MAX_TEXT = 1 << 20  # bytes of a text that is kept
_MAX_KEPT = 1 << 16  # numbers of a list that is kept
_MAX_DIMENSIONS = 4
_FIRST_READ = 1 << 18
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_PAIR, _SMALLEST_INFO = 4 + 4 + 1, 4 + 4 + 4 + 8  # bytes


@dataclass(frozen=True)
class Omitted:
    """A value that is not kept: a list of `count` texts or numbers, or a text of that many bytes."""

    count: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | Omitted


@dataclass(frozen=True)
class Info:
    """A tensor: `shape` in C order (the file has it reversed), `kind` the number of its type, `offset` in the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """`data` is where offsets count from, `alignment` what they are multiples of; `digest` the hex SHA-256 of all that
    lies before the data.
    """

    fields: dict[str, Value]
    tensors: list[Info]
    alignment: int
    data: int
    digest: str


def read_header(source: Source) -> Header:
    """Raises FormatError where the file is not what ggml would read too, ReadError where it cannot be read."""
    cursor = _Cursor(source)
    cursor.skip(4)
    version = cursor.number("I")
    if version in {2 << 24, 3 << 24}:
        raise cursor.error("is a GGUF file in big-endian order, which is not supported; convert it with gguf-py's"
                           " gguf_convert_endian.py")  # fmt: skip
    if version not in (1, 2, 3):
        raise cursor.error(f"is GGUF of version {version}, expected 1 to 3; a newer netweight may read it")
    cursor.wide = version > 1
    tensor_count, pair_count = cursor.count(), cursor.count()
    cursor.check_count(pair_count, _SMALLEST_PAIR, "key-values")
    cursor.check_count(tensor_count, _SMALLEST_INFO, "tensors")
    fields = _fields(cursor, pair_count)
    infos = _infos(cursor, tensor_count)
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {printable(str(alignment), 40)}, expected a power of two up to 2**20")
    return Header(fields, infos, alignment, -(-cursor.at // alignment) * alignment, cursor.digest())


class _Cursor:
    """Reads forward through the header, which is brought in as far as it is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = bytearray()
        self.where = printable(source.name)
        self.at = 0
        self.wide = True  # counts take 8 bytes, not 4

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: {what}")

    def digest(self) -> str:
        return hashlib.sha256(memoryview(self._held)[: self.at]).hexdigest()

    def skip(self, size: int) -> int:
        """Where `size` bytes lie in what is held; the cursor is behind them then."""
        start, end = self.at, self.at + size
        if end > len(self._held):
            self._bring(end)
        self.at = end
        return start

    def _bring(self, end: int) -> None:
        if end > self._source.size:
            raise self.error(
                f"its header goes on beyond its {self._source.size} bytes; the file is cut short: download it again"
            )
        if end > MAX_HEADER:
            raise self.error(f"its header takes more than {MAX_HEADER} bytes, which no model's does")
        first = len(self._held)
        stop = min(self._source.size, max(end, 2 * first, _FIRST_READ))
        more = bytearray(stop - first)
        self._source.read_into(first, memoryview(more))
        self._held += more

    def number(self, code: str) -> int | float:
        value: int | float = struct.unpack_from(f"<{code}", self._held, self.skip(struct.calcsize(f"<{code}")))[0]
        return value

    def count(self) -> int:
        return int(self.number("Q" if self.wide else "I"))

    def numbers(self, code: str, count: int) -> tuple[int | float, ...]:
        start = self.skip(count * struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{count}{code}", self._held, start)

    def text(self, limit: int, what: Callable[[], str]) -> str | Omitted:
        """A text with its length before it; of one that is longer than `limit`, that."""
        size = self.count()
        start = self.skip(size)
        if size > limit:
            return Omitted(size)
        try:
            return str(memoryview(self._held)[start : start + size], "utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what()} is no UTF-8 text") from None

    def name(self, what: str) -> str:
        name = self.text(_MAX_NAME, lambda: what)
        if not isinstance(name, str):
            raise self.error(f"{what} takes {name.count} bytes, expected at most {_MAX_NAME}")
        return name

    def pass_texts(self, count: int) -> None:
        width = 8 if self.wide else 4
        for _ in range(count):
            at = self.skip(width)
            self.skip(int.from_bytes(self._held[at : at + width], "little"))

    def check_count(self, count: int, smallest: int, what: str) -> None:
        left = self._source.size - self.at
        if count * smallest > left:
            raise self.error(f"says that it has {count} {what}, for which its {left} bytes that follow are too few")


def _fields(cursor: _Cursor, count: int) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    for number in range(count):
        key = cursor.name(f"the key of value {number}")
        if key in fields:
            raise cursor.error(f"has the key {printable(key)!r} twice")
        fields[key] = _value(cursor, key, int(cursor.number("I")))
    return fields


def _value(cursor: _Cursor, key: str, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text(_MAX_TEXT, lambda: f"the value of {printable(key)!r}")
    if kind == _BOOL:
        return bool(cursor.number("B"))
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind != _ARRAY:
        raise cursor.error(f"the value of {printable(key)!r} is of type {kind}, which GGUF does not have")
    of = int(cursor.number("I"))
    count = cursor.count()
    what = f"entries of {printable(key)!r}"
    if of == _STRING:
        cursor.check_count(count, 4, what)
        cursor.pass_texts(count)
        return Omitted(count)
    code = "?" if of == _BOOL else _NUMBERS.get(of)
    if code is None:
        raise cursor.error(f"{printable(key)!r} is a list of type {of}; expected one of numbers or texts")
    size = struct.calcsize(f"<{code}")
    cursor.check_count(count, size, what)
    if count > _MAX_KEPT:
        cursor.skip(count * size)
        return Omitted(count)
    return cursor.numbers(code, count)


def _infos(cursor: _Cursor, count: int) -> list[Info]:
    infos: list[Info] = []
    seen: set[str] = set()
    for number in range(count):
        name = cursor.name(f"the name of tensor {number}")
        if name in seen:
            raise cursor.error(f"has the tensor {printable(name)!r} twice")
        seen.add(name)
        shown = f"tensor {printable(name)!r}"
        dimensions = int(cursor.number("I"))
        if dimensions > _MAX_DIMENSIONS:
            raise cursor.error(f"{shown}: has {dimensions} dimensions, expected at most {_MAX_DIMENSIONS}")
        shape = tuple(int(n) for n in reversed(cursor.numbers("Q" if cursor.wide else "I", dimensions)))
        kind = int(cursor.number("I"))
        if kind not in PLAIN and kind not in TYPES:
            known = f"{GONE[kind]}, which ggml has dropped" if kind in GONE else f"{kind}, which is not known here"
            raise cursor.error(f"{shown}: is of ggml's type {known}; quantise the model again, to a type of today's")
        infos.append(Info(name, shape, kind, int(cursor.number("Q"))))
    return infos
