"""The character maps of fonts: as FreeType and fontTools read them, of every form, and damaged ones refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFont

import netweight.figures
from netweight.figures.cmap import read_cmap

DEJAVU = Path(netweight.figures.__file__).parent / "fonts" / "DejaVuSans.ttf"


def font(*tables: tuple[int, int, bytes], start: int = 0) -> bytes:
    """A font with nothing but a `cmap` table of (platform, encoding, subtable), to be placed at `start` in a file."""
    header, body = b"", b""
    for platform, encoding, table in tables:
        header += struct.pack(">HHI", platform, encoding, 4 + 8 * len(tables) + len(body))
        body += table
    cmap = struct.pack(">HH", 0, len(tables)) + header + body
    directory = struct.pack(">IHHHH", 0x00010000, 1, 16, 0, 0)
    return directory + struct.pack(">4sIII", b"cmap", 0, start + 28, len(cmap)) + cmap


def format_12(*groups: tuple[int, int, int]) -> bytes:
    body = b"".join(struct.pack(">III", *group) for group in groups)
    return struct.pack(">HHIII", 12, 0, 16 + len(body), 0, len(groups)) + body


def format_4(segments: list[tuple[int, int, int, list[int]]]) -> bytes:
    """Segments (first, last, delta, glyphs in a list, empty: the code point and the delta)."""
    segments = [*segments, (0xFFFF, 0xFFFF, 1, [])]
    count, listed, offsets = len(segments), [], []
    for i, (_, _, _, glyphs) in enumerate(segments):
        offsets.append(2 * (count - i + len(listed)) if glyphs else 0)
        listed += glyphs
    firsts, lasts, deltas = ([segment[k] for segment in segments] for k in range(3))
    words = [*lasts, 0, *firsts, *(delta & 0xFFFF for delta in deltas), *offsets, *listed]
    return struct.pack(f">7H{len(words)}H", 4, 14 + 2 * len(words), 0, 2 * count, 0, 0, 0, *words)


def read(folder: Path, data: bytes, face: int = 0) -> dict[int, int]:
    (folder / "font").write_bytes(data)
    return read_cmap(folder / "font", face)


def test_dejavu_has_what_freetype_draws() -> None:
    """FreeType, which Pillow draws with, shows one and the same shape for all that a font lacks."""
    face = ImageFont.truetype(DEJAVU, 12, layout_engine=ImageFont.Layout.BASIC)
    found = read_cmap(DEJAVU)

    def shape(code: int) -> tuple[object, bytes]:
        mask = face.getmask(chr(code))
        return mask.size, bytes(mask)

    lacking = shape(0x10FFFF)
    codes = (*range(0x20, 0x3000), *range(0xE000, 0x10000), *range(0x1D400, 0x1D800))
    wrong = [hex(code) for code in codes if (code in found) == (shape(code) == lacking)]
    assert wrong == []
    assert len(found) > 5000


def test_dejavu_as_fonttools_reads_it() -> None:
    reader = pytest.importorskip("fontTools.ttLib").TTFont(DEJAVU)
    numbers = reader.getReverseGlyphMap()
    assert read_cmap(DEJAVU) == {code: numbers[name] for code, name in reader.getBestCmap().items()}


def test_dejavu_as_matplotlib_reads_it() -> None:
    assert read_cmap(DEJAVU) == pytest.importorskip("matplotlib.ft2font").FT2Font(str(DEJAVU)).get_charmap()


@given(st.dictionaries(st.integers(0, 0x10FFFF), st.integers(1, 0xFFFF), max_size=30))
def test_format_12(tmp_path_factory, glyphs) -> None:
    data = font((3, 10, format_12(*((code, code, glyphs[code]) for code in sorted(glyphs)))))
    assert read(tmp_path_factory.mktemp("font"), data) == glyphs


def test_groups_of_format_12(tmp_path: Path) -> None:
    data = font((0, 4, format_12((65, 67, 5), (0x1F600, 0x1F600, 9), (0x1F700, 0x1F701, 0))))
    assert read(tmp_path, data) == {65: 5, 66: 6, 67: 7, 0x1F600: 9, 0x1F701: 1}


def test_segments_of_format_4(tmp_path: Path) -> None:
    segments = [(65, 67, -60, []), (100, 102, 0, [7, 0, 9]), (200, 201, 3, [1, 65533]), (300, 300, -300, [])]
    assert read(tmp_path, font((3, 1, format_4(segments)))) == {65: 5, 66: 6, 67: 7, 100: 7, 102: 9, 200: 4}


def test_the_table_with_the_most_is_taken(tmp_path: Path) -> None:
    small = format_4([(65, 65, 0, [])])
    large = format_12((65, 66, 1))
    symbols = struct.pack(">HHH", 6, 10, 0) + bytes(4)
    assert read(tmp_path, font((0, 3, small), (1, 0, symbols), (3, 1, small), (3, 10, large))) == {65: 1, 66: 2}
    assert read(tmp_path, font((1, 0, symbols), (3, 0, large), (3, 1, small))) == {65: 65}


def test_faces_of_a_collection(tmp_path: Path) -> None:
    first = font((3, 1, format_4([(65, 65, 0, [])])), start=20)
    second = font((3, 1, format_4([(66, 66, 0, [])])), start=20 + len(first))
    data = struct.pack(">4sIIII", b"ttcf", 0x00010000, 2, 20, 20 + len(first)) + first + second
    assert read(tmp_path, data, 0) == {65: 65}
    assert read(tmp_path, data, 1) == {66: 66}
    with pytest.raises(ValueError, match=r"font: no character map can be read from face 2$"):
        read(tmp_path, data, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no font",
        b"ttcf",
        struct.pack(">4sII", b"ttcf", 0x00010000, 1 << 31),
        font(),
        font((3, 1, b"")),
        font((1, 0, format_4([(65, 65, 0, [])]))),
        font((3, 1, format_4([(66, 66, 0, []), (65, 65, 0, [])]))),
        font((3, 1, format_4([(66, 65, 0, [])]))),
        font((3, 10, format_12((65, 70, 1), (70, 71, 1)))),
        font((3, 10, format_12((70, 65, 1)))),
        font((3, 10, format_12((65, 0x110000, 1)))),
        font((3, 10, format_12((65, 65, 1))))[:-4],
        font((3, 10, format_12((65, 65, 1))[:12] + b"\xff\xff\xff\xff")),
        font((3, 1, format_4([(65, 65, 0, [1])])[:-2])),
    ],
)
def test_what_is_no_such_font(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"font: no character map can be read from face 0$"):
        read(tmp_path, data)


@given(st.data())
def test_damaged_files_give_a_map_or_one_error(tmp_path_factory, data) -> None:
    whole = bytearray(font((3, 1, format_4([(65, 67, 0, [1, 2, 3])])), (3, 10, format_12((65, 70, 1)))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found: dict[int, int] = {}
    with suppress(ValueError):
        found = read(tmp_path_factory.mktemp("font"), bytes(whole))
    assert all(0 <= code <= 0x10FFFF and glyph for code, glyph in found.items())
