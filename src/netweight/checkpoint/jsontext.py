"""A cursor over JSON text: typed values are taken one at a time, so that hostile text cannot make heavy objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

__all__ = ["JsonCursor", "JsonError"]

MAX_DEPTH = 127  # serde_json's limit, which the safetensors package has
MAX_SKIPPED = 1_000_000  # values under unknown keys: seconds of work, and no real header has any
MAX_INTEGERS = 1_000_000
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"true|false|null")
_string_at = json.JSONDecoder().raw_decode


class JsonError(ValueError):
    """Text that is not the JSON that was expected; says at which character."""


class JsonCursor:
    """A place in JSON text; every method takes one thing from there and moves on, or raises JsonError."""

    __slots__ = ("position", "skipped", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.skipped = 0

    def fail(self, expected: str) -> JsonError:
        """The error that says that `expected` is not here."""
        text = self.text[self.position : self.position + 20]
        got = ascii(text) if text else "the end of the text"
        return JsonError(f"expected {expected} at character {self.position}, got {got}")

    def peek(self) -> str:
        """The next character that is not white space, or nothing at the end."""
        space = _SPACE.match(self.text, self.position)
        if space:
            self.position = space.end()
        return self.text[self.position : self.position + 1]

    def take(self, mark: str) -> bool:
        """Whether `mark` is next; moves behind it if so."""
        if self.peek() != mark:
            return False
        self.position += 1
        return True

    def expect(self, mark: str) -> None:
        """Move behind `mark`, which must be next."""
        if not self.take(mark):
            raise self.fail(repr(mark))

    def more(self, closing: str, *, first: bool) -> bool:
        """Whether an object or array that ends with `closing` has another entry; moves to it, or behind the end."""
        if self.take(closing):
            return False
        if not first:
            self.expect(",")
        return True

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller takes each value before it asks for the next key."""
        self.expect("{")
        first = True
        while self.more("}", first=first):
            first = False
            key = self.string()
            self.expect(":")
            yield key

    def string(self) -> str:
        """A string without lone surrogates."""
        if self.peek() != '"':
            raise self.fail("a string")
        start = self.position
        try:
            value, self.position = _string_at(self.text, start)
        except ValueError:
            raise self.fail("a valid string") from None
        text: str = value
        if self.position - start - 2 != len(text) and not _is_unicode(text):
            self.position = start
            raise self.fail("a string without lone surrogates")
        return text

    def null(self) -> bool:
        """Whether `null` is next; moves behind it if so."""
        self.peek()
        if not self.text.startswith("null", self.position):
            return False
        self.position += 4
        return True

    def unsigned(self) -> int:
        """A whole number from 0 to 2**64 - 1, written without sign, point or exponent."""
        self.peek()
        match = _NUMBER.match(self.text, self.position)
        digits = match.group() if match else ""
        if not digits.isdecimal() or len(digits) > 20 or int(digits) >= 1 << 64:
            raise self.fail("a whole number from 0 to 2**64 - 1")
        self.position += len(digits)
        return int(digits)

    def unsigneds(self) -> tuple[int, ...]:
        """An array of such numbers."""
        self.expect("[")
        values: list[int] = []
        while self.more("]", first=not values):
            values.append(self.unsigned())
            if len(values) > MAX_INTEGERS:
                raise JsonError(f"an array of more than {MAX_INTEGERS} numbers before character {self.position}")
        return tuple(values)

    def skip(self, depth: int) -> None:
        """One value of any kind, inside `depth` objects or arrays; it is checked, and nothing is kept."""
        closings: list[str] = []
        while True:
            opened = self._skip_start(depth + len(closings), closings)
            while closings:
                if not self.more(closings[-1], first=opened):
                    closings.pop()
                    opened = False
                    continue
                if closings[-1] == "}":
                    self.string()
                    self.expect(":")
                break
            if not closings:
                return

    def _skip_start(self, depth: int, closings: list[str]) -> bool:
        self.skipped += 1
        if self.skipped > MAX_SKIPPED:
            raise JsonError(f"more than {MAX_SKIPPED} values under unknown keys")
        mark = self.peek()
        if mark and mark in "{[":
            if depth >= MAX_DEPTH:
                raise JsonError(f"more than {MAX_DEPTH} levels of nesting at character {self.position}")
            closings.append("}" if mark == "{" else "]")
            self.position += 1
            return True
        if mark == '"':
            self.string()
            return False
        match = _WORD.match(self.text, self.position) or _NUMBER.match(self.text, self.position)
        if not match:
            raise self.fail("a value")
        if mark not in "tfn" and math.isinf(float(match.group())):
            raise self.fail("a number that float64 can hold")
        self.position = match.end()
        return False


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
