"""The fonts of pictures: the package's own, whole and told apart from a damaged one, and installed ones beside it."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from netweight.errors import JobError
from netweight.figures import typeface
from netweight.figures.canvas import DPI, Canvas, drawing
from netweight.figures.delta import group_l2_bar
from netweight.figures.typeface import drawable, text_width

FONTS = Path(typeface.__file__).parent / "fonts"
DEJAVU = FONTS / "DejaVuSans.ttf"
HAN = "\u97e9\u8bed"


def forget() -> None:
    for found in (typeface._fallbacks, typeface._holder, typeface._advance, typeface._characters):
        found.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder of installed fonts, empty at first, and the only one."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(typeface, "_folders", lambda: [tmp_path / "none", folder])
    forget()
    yield folder
    forget()


def font_with(codes: dict[int, str]) -> bytes:
    """DejaVu Sans with other code points: each is drawn as the letter it is given."""
    glyphs = typeface.read_cmap(DEJAVU)
    groups = b"".join(struct.pack(">III", code, code, glyphs[ord(codes[code])]) for code in sorted(codes))
    table = struct.pack(">HHHHIHHIII", 0, 1, 3, 10, 12, 12, 0, 16 + len(groups), 0, len(codes)) + groups
    data = bytearray(DEJAVU.read_bytes())
    count = struct.unpack_from(">H", data, 4)[0]
    (entry,) = [12 + 16 * i for i in range(count) if data[12 + 16 * i :][:4] == b"cmap"]
    struct.pack_into(">II", data, entry + 8, len(data), len(table))
    return bytes(data) + table


def picture(path: Path, text: str) -> Image.Image:
    with drawing():
        canvas = Canvas(2, 0.5)
        canvas.text(0.2, 0.25, text, 9)
        canvas.write(path)
    return Image.open(path)


def test_the_font_is_the_one_that_its_note_names() -> None:
    about = json.loads((FONTS / "FONT.json").read_text(encoding="utf-8"))
    assert {path.name for path in FONTS.iterdir()} == {"FONT.json", about["file"], about["licence_file"]}
    assert hashlib.sha256((FONTS / about["file"]).read_bytes()).hexdigest() == about["sha256"]
    assert "Bitstream" in (FONTS / about["licence_file"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"", b"no font", DEJAVU.read_bytes()[:1000]])
def test_a_font_that_is_missing_or_damaged_is_one_line(tmp_path, monkeypatch, content) -> None:
    font = tmp_path / "DejaVuSans.ttf"
    if content is not None:
        font.write_bytes(content)
    monkeypatch.setattr(typeface, "_OWN", font)
    with pytest.raises(JobError) as caught:
        group_l2_bar(tmp_path / "b.png", "m", {"embed": 1.0})
    assert str(caught.value) == f"no picture can be drawn: the font {font} cannot be read; install netweight again"


def test_widths_are_those_of_the_font() -> None:
    assert text_width("0" * 10, 72) == pytest.approx(10 * 1303 / 2048)  # DejaVu Sans: 2048 units an em, digits of 1303
    assert text_width("fi", 36) == pytest.approx(text_width("f", 36) + text_width("i", 36))


def test_widths_are_those_that_fonttools_reads() -> None:
    reader = pytest.importorskip("fontTools.ttLib").TTFont(DEJAVU)
    widths, names = reader["hmtx"], reader.getBestCmap()
    codes = [code for code in names if code < 0x2500]
    for code in codes:
        assert text_width(chr(code), 72) == pytest.approx(widths[names[code]][0] / 2048, abs=1e-9), hex(code)
    assert len(codes) > 3000


def test_without_an_installed_font_what_is_lacking_is_escaped(installed) -> None:
    assert drawable(f"a{HAN}\u00e9") == "a\\u97e9\\u8bed\u00e9"


def test_what_is_lacking_is_drawn_with_the_first_installed_font_that_has_it(installed, tmp_path) -> None:
    below = installed / "truetype" / "wqy"
    below.mkdir(parents=True)
    (below / "wqy-microhei.ttc").write_bytes(font_with({ord("\u97e9"): "W", ord("\u8bed"): "i", ord("a"): "W"}))
    (installed / "NotoSans-Regular.ttf").write_bytes(font_with({ord("\u97e9"): "i", 0x3042: "m"}))
    (installed / "Unknown.ttf").write_bytes(font_with({0x3044: "m"}))
    assert drawable(f"a{HAN}\u3042\u3044") == f"a{HAN}\u3042\\u3044"
    assert text_width(f"a{HAN}\u3042b", 8) == pytest.approx(text_width("aWimb", 8))
    shown = picture(tmp_path / "shown.png", f"a{HAN}\u3042b")
    assert ImageChops.difference(shown, picture(tmp_path / "plain.png", "aWimb")).getbbox() is None


@pytest.mark.parametrize("content", [b"", b"no font", font_with({ord("\u97e9"): "W"})[:-20]])
def test_an_installed_font_that_cannot_be_read_is_as_good_as_none(installed, content) -> None:
    (installed / "NotoSansCJK-Regular.ttc").write_bytes(content)
    (installed / "msyh.ttc").write_bytes(font_with({ord("\u97e9"): "W"}))
    assert drawable(HAN) == "\u97e9\\u8bed"


def test_installed_fonts_are_looked_for_only_when_a_character_asks() -> None:
    program = (
        "from netweight.figures import typeface\n"
        "def never(): raise AssertionError('looked for')\n"
        "typeface._folders = never\n"
        "print(typeface.drawable('caf\u00e9 $x$'), typeface.text_width('caf\u00e9', 8) > 0)"
    )
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "caf\u00e9 $x$ True\n"


@pytest.mark.parametrize(
    ("system", "folder"),
    [
        ("linux", "/usr/share/fonts"),
        ("darwin", "/System/Library/Fonts"),
        ("win32", "C:\\Windows/Fonts"),
    ],
)
def test_where_systems_keep_fonts(monkeypatch, system, folder) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.delenv("WINDIR", raising=False)
    assert Path(folder) in [*typeface._folders()]


def test_a_line_is_as_long_as_it_is_measured(tmp_path) -> None:
    text = "|layer_12 AVATAR (0.5% of base) 97|"
    ink = np.asarray(picture(tmp_path / "a.png", "")).min(axis=2)
    assert (ink == 255).all()
    with drawing():
        canvas = Canvas(6, 0.5)
        canvas.text(0.2, 0.25, text, 9)
        canvas.write(tmp_path / "b.png")
    columns = np.flatnonzero((np.asarray(Image.open(tmp_path / "b.png")) < 128).any(axis=(0, 2)))
    bar = text_width("|", 9) * DPI
    assert columns[-1] - columns[0] == pytest.approx(text_width(text, 9) * DPI - bar, abs=1.5)
