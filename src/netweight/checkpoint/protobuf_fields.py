"""The first fields of a protobuf message, by their headers: enough to tell what a file without a magic number is.

Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import NamedTuple

from netweight.source.protocol import Source

__all__ = ["BYTES", "FIXED32", "VARINT", "Field", "fields", "peek", "text"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS = {FIXED64: 8, FIXED32: 4}
_MAX_FIELDS = 48
_MAX_HEADER = 20  # bytes of a tag and a length


class Field(NamedTuple):
    """One field: its `value` is that of a varint, otherwise the bytes of its content, which start at `start`."""

    number: int
    wire: int
    value: int
    start: int


def fields(source: Source, start: int = 0, end: int | None = None) -> tuple[list[Field], bool]:
    """The first fields of the message in bytes `start` to `end`, and whether these are all that there is."""
    stop = source.size if end is None else end
    found: list[Field] = []
    at = start
    while at < stop and len(found) < _MAX_FIELDS:
        head = peek(source, at, min(_MAX_HEADER, stop - at))
        tag, used = _varint(head, 0)
        number, wire = tag >> 3, tag & 7
        if not used or not 0 < number < 1 << 29:
            return found, False
        value = _WIDTHS.get(wire, -1)
        if wire in (VARINT, BYTES):
            value, used = _varint(head, used)
        body = 0 if wire == VARINT else value
        if not used or value < 0 or at + used + body > stop:
            return found, False
        found.append(Field(number, wire, value, at + used))
        at += used + body
    return found, at == stop


def text(source: Source, field: Field, limit: int = 256) -> str:
    """The field's content where it is printable text of at most `limit` bytes, else nothing."""
    if field.wire != BYTES or not 0 < field.value <= limit:
        return ""
    try:
        content = peek(source, field.start, field.value).decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return content if content.isprintable() else ""


def peek(source: Source, start: int, size: int) -> bytes:
    """Bytes of the file, fewer where it ends."""
    data = bytearray(max(0, min(size, source.size - start)))
    if data:
        source.read_into(start, memoryview(data))
    return bytes(data)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends); (0, 0) where there is none."""
    value = 0
    for count, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, at + count + 1
    return 0, 0
