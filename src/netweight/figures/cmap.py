"""Which characters a font has: the `cmap` table of TrueType and OpenType files and of collections of them.

The form is that of the OpenType specification, https://learn.microsoft.com/typography/opentype/spec/cmap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["read_cmap"]

_UNICODE = {(3, 10): 4, (0, 6): 3, (0, 4): 3, (3, 1): 2}  # the encodings that hold more characters first


def read_cmap(path: Path, face: int = 0) -> dict[int, int]:
    """Code points and their glyphs in one face of a font file, from its Unicode table of format 4 or 12.

    Raises OSError where the file cannot be read, ValueError where it is no such font.
    """
    try:
        with path.open("rb") as file:
            table = _table(file, face)
        return dict(_pairs(table))
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError(f"{path}: no character map can be read from face {face}") from error


def _table(file: BinaryIO, face: int) -> bytes:
    """The bytes of the `cmap` table of a face."""
    start = 0
    if _at(file, 0, 4) == b"ttcf":
        (count,) = struct.unpack(">I", _at(file, 8, 4))
        if face >= count:
            raise ValueError(f"{count} faces")
        (start,) = struct.unpack(">I", _at(file, 12 + 4 * face, 4))
    elif face:
        raise ValueError("one face")
    (count,) = struct.unpack(">H", _at(file, start + 4, 2))
    for tag, _, offset, length in struct.iter_unpack(">4sIII", _at(file, start + 12, 16 * count)):
        if tag == b"cmap":
            return _at(file, offset, length)
    raise ValueError("no table")


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ValueError("cut short")
    return data


def _pairs(table: bytes) -> Iterator[tuple[int, int]]:
    """(code point, glyph) of the subtable that holds the most."""
    found = []
    for i in range(struct.unpack_from(">H", table, 2)[0]):
        platform, encoding, offset = struct.unpack_from(">HHI", table, 4 + 8 * i)
        (form,) = struct.unpack_from(">H", table, offset)
        if form in (4, 12) and (rank := _UNICODE.get((platform, encoding), platform == 0)):
            found.append((form, rank, offset))
    form, _, offset = max(found)
    return (_format_12 if form == 12 else _format_4)(table, offset)


def _format_12(table: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Groups of code points that follow each other, and so do their glyphs."""
    (count,) = struct.unpack_from(">I", table, at + 12)
    before = -1
    for i in range(count):
        first, last, glyph = struct.unpack_from(">III", table, at + 16 + 12 * i)
        if not before < first <= last <= 0x10FFFF:
            raise ValueError("groups out of order")
        before = last
        yield from ((code, glyph + code - first) for code in range(first, last + 1) if glyph + code - first)


def _format_4(table: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Segments of code points to 0xFFFF; a glyph is the code point and a delta, or stands in a list."""
    half = struct.unpack_from(">H", table, at + 6)[0] // 2
    lasts = struct.unpack_from(f">{half}H", table, at + 14)
    firsts, deltas, offsets = struct.iter_unpack(f">{half}H", table[at + 16 + 2 * half : at + 16 + 8 * half])
    listed = at + 16 + 6 * half
    before = -1
    for i, (first, last, delta, offset) in enumerate(zip(firsts, lasts, deltas, offsets, strict=True)):
        if not before < first <= last:
            raise ValueError("segments out of order")
        before = last
        for code in range(first, min(last, 0xFFFE) + 1):
            glyph = code
            if offset:
                (glyph,) = struct.unpack_from(">H", table, listed + 2 * i + offset + 2 * (code - first))
            if glyph and (glyph + delta) & 0xFFFF:
                yield code, (glyph + delta) & 0xFFFF
