"""The fonts of the pictures: DejaVu Sans, which is part of the package, and installed ones for what it lacks."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from netweight.errors import JobError, printable
from netweight.figures.cmap import read_cmap
from netweight.figures.labels import visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = ["Typeface", "drawable", "glyph", "own", "text_width", "typeface_of"]

_OWN = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
# File names by which families with Chinese, Japanese and Korean letters are installed, and the face in a collection.
_INSTALLED = (
    ("NotoSansCJK-Regular.ttc", 2),  # the third face has the forms of simplified Chinese
    ("NotoSansCJKsc-Regular.otf", 0),
    ("NotoSansSC-Regular.otf", 0),
    ("NotoSansSC-Regular.ttf", 0),
    ("NotoSansCJKjp-Regular.otf", 0),
    ("NotoSansJP-Regular.otf", 0),
    ("SourceHanSansSC-Regular.otf", 0),
    ("SourceHanSansCN-Regular.otf", 0),
    ("SourceHanSans.ttc", 0),
    ("wqy-microhei.ttc", 0),
    ("msyh.ttc", 0),
    ("msyh.ttf", 0),
    ("PingFang.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
    ("NotoSans-Regular.ttf", 0),
)
_LARGE = 2048  # pixels an em: the units that DejaVu Sans is drawn in, so that nothing is rounded


class Typeface(NamedTuple):
    """One face of a font file."""

    path: Path
    face: int = 0


def own() -> Typeface:
    """The font of the package, ready to draw; raises JobError where its file is missing or damaged."""
    try:
        _characters(Typeface(_OWN))
        _font(Typeface(_OWN), _LARGE)
    except (OSError, ValueError) as error:
        where = printable(str(_OWN))
        raise JobError(f"no picture can be drawn: the font {where} cannot be read; install netweight again") from error
    return Typeface(_OWN)


def drawable(text: str) -> str:
    """`text` with what no font here can draw written as escapes."""
    return visible(text, lambda c: _holder(c) is not None)


def text_width(text: str, size: float) -> float:
    """Inches that `text` takes at `size` points."""
    return sum(_advance(c) for c in text) * size / 72


def typeface_of(c: str) -> Typeface:
    """The font that draws a character: the first that has it, and for what none has the first, which draws a box."""
    return _holder(c) or Typeface(_OWN)


@lru_cache(4096)
def glyph(typeface: Typeface, size: float, c: str) -> tuple[Image, int, int] | None:
    """The shape of a character at `size` pixels an em, and where its left and upper edge are, measured from the
    beginning of the line on which it stands, rightwards and downwards; None where nothing is to be seen.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415 - for those who want pictures

    font = _font(typeface, size)
    box = font.getbbox(c, anchor="ls")
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if left >= right or top >= bottom:
        return None
    shape = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(shape).text((-left, -top), c, 255, font, anchor="ls")
    return shape, left, top


@lru_cache(4096)
def _advance(c: str) -> float:
    """The width of a character in ems."""
    return float(_font(typeface_of(c), _LARGE).getlength(c)) / _LARGE


@lru_cache(4096)
def _holder(c: str) -> Typeface | None:
    if ord(c) in _characters(Typeface(_OWN)):
        return Typeface(_OWN)
    return next((typeface for typeface in _fallbacks() if ord(c) in _characters(typeface)), None)


@cache
def _characters(typeface: Typeface) -> dict[int, int]:
    return read_cmap(*typeface)


@lru_cache(64)
def _font(typeface: Typeface, size: float) -> FreeTypeFont:
    from PIL import ImageFont  # noqa: PLC0415 - for those who want pictures

    # The basic layout knows no ligatures, and is the same on every system.
    return ImageFont.truetype(typeface.path, size, typeface.face, layout_engine=ImageFont.Layout.BASIC)


@cache
def _fallbacks() -> tuple[Typeface, ...]:
    """The installed fonts that can be read, the preferred ones first; looked for once, when a character asks for it."""
    wanted = {name for name, _ in _INSTALLED}
    places: dict[str, Path] = {}
    for folder in _folders():
        for parent, _, names in os.walk(folder):
            places = {name: Path(parent, name) for name in wanted.intersection(names)} | places
    return tuple(
        found for name, face in _INSTALLED if name in places and _readable(found := Typeface(places[name], face))
    )


def _readable(typeface: Typeface) -> bool:
    try:
        _characters(typeface)
        _font(typeface, _LARGE)
    except (OSError, ValueError):
        return False
    return True


def _folders() -> Iterator[Path]:
    """Where systems and their users keep fonts."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home raises where there is none
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")
        yield home / "AppData" / "Local" / "Microsoft" / "Windows" / "Fonts"
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts")
    else:
        yield from (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
        yield from (home / ".local" / "share" / "fonts", home / ".fonts")
