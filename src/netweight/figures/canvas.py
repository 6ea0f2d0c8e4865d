"""Rectangles, lines and text to PNG by matplotlib's renderer, without its figures, axes and global state.

Figures and axes would take most of the time of a `delta` run on small models; the renderer is the part that draws.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from netweight.errors import JobError, printable
from netweight.figures.labels import visible

__all__ = ["DPI", "Canvas", "drawable", "drawing", "text_width"]

DPI = 120

_LOCK = threading.RLock()
_FIRST = "DejaVu Sans"  # comes with matplotlib
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Noto Sans",
)
_RISE = 0.365  # half the height of a capital, in ems: centres a line of text


class Canvas:
    """A white picture of `width` x `height` inches, measured from the lower left corner; made by `drawing`."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import RendererAgg  # noqa: PLC0415 - for those who want pictures

        self.width = width
        self.height = height
        pixels = math.ceil(width * DPI), math.ceil(height * DPI)
        self._renderer: Any = RendererAgg(*pixels, DPI)  # type: ignore[no-untyped-call]
        self._fonts: dict[float, Any] = {}
        self.rectangle(0, 0, width, height, "#ffffff")

    def rectangle(
        self, left: float, bottom: float, width: float, height: float, colour: str, hatch: str | None = None
    ) -> None:
        """A filled rectangle, with a hatch of `///` and the like in grey over it."""
        from matplotlib.colors import to_rgba  # noqa: PLC0415

        right, top = left + width, bottom + height
        # Edges on whole pixels: neighbours then touch without a seam.
        corners = [
            (round(x * DPI), round(y * DPI)) for x, y in ((left, bottom), (right, bottom), (right, top), (left, top))
        ]
        context = self._context("#999999", 0.0)
        if hatch is not None:
            context.set_hatch(hatch)
            context.set_hatch_color(to_rgba("#999999"))  # older matplotlib takes no names
            context.set_hatch_linewidth(0.6)
        self._path(context, [*corners, corners[0]], to_rgba(colour))

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, points: float) -> None:
        """A straight line, `points` wide."""
        self._path(self._context(colour, points), [(x * DPI, y * DPI) for x, y in (start, end)], None)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        align: Literal["left", "centre", "right"] = "left",
        angle: float = 0.0,
        colour: str = "#000000",
    ) -> None:
        """One line of `size` points, its height centred on `y`, at `angle` degrees; `align` is along the line."""
        from matplotlib.font_manager import FontProperties  # noqa: PLC0415

        font = self._fonts.setdefault(size, FontProperties(family=[_FIRST, *_fallbacks()], size=size))
        back = text_width(text, size) * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        along, rise = math.radians(angle), _RISE * size / 72
        x += rise * math.sin(along) - back * math.cos(along)
        y -= rise * math.cos(along) + back * math.sin(along)
        # Rows of text count from the top, paths from the bottom; no mathtext: a dollar sign in a name is a dollar sign.
        self._renderer.draw_text(self._context(colour, 1.0), x * DPI, (self.height - y) * DPI, text, font, angle, False)

    def write(self, path: Path) -> None:
        """Write the picture as PNG; raises OSError where the file cannot be written."""
        from PIL import Image  # noqa: PLC0415 - matplotlib's own dependency

        size = int(self._renderer.width), int(self._renderer.height)
        image = Image.frombuffer("RGBA", size, self._renderer.buffer_rgba(), "raw", "RGBA", 0, 1)
        image.convert("RGB").save(path, "PNG", compress_level=2, dpi=(DPI, DPI))

    def _context(self, colour: str, points: float) -> Any:
        context = self._renderer.new_gc()
        context.set_foreground(colour)
        context.set_linewidth(points)
        return context

    def _path(self, context: Any, corners: list[tuple[float, float]], fill: Any) -> None:
        from matplotlib.path import Path as Outline  # noqa: PLC0415
        from matplotlib.transforms import IdentityTransform  # noqa: PLC0415

        context.set_snap(True)
        self._renderer.draw_path(context, Outline(corners), IdentityTransform(), fill)


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, `Canvas` and the measures of text may be used, by one thread at a time.

    matplotlib's settings belong to the process: inside they are the same for every user, afterwards what they were.
    Raises JobError where matplotlib refuses to load.
    """
    with _LOCK, _quiet():
        try:
            import matplotlib as mpl  # noqa: PLC0415 - for those who want pictures
        except ValueError as error:  # MPLBACKEND is read on import, though nothing here asks for a backend
            why = printable(str(error).split(";")[0])
            raise JobError(f"matplotlib cannot be loaded: {why}; correct or unset MPLBACKEND") from error

        style: dict[Any, Any] = {"text.antialiased": True, "text.hinting": "no_hinting", "path.sketch": None}
        with mpl.rc_context(style):
            yield


def text_width(text: str, size: float) -> float:
    """Inches that `text` takes at `size` points; characters that only other fonts have count as a full em."""
    return sum(_advance(c) for c in text) * size / 72


def drawable(text: str) -> str:
    """`text` with what no font here can draw written as escapes."""
    return visible(text, lambda c: any(ord(c) in _charmap(family) for family in (_FIRST, *_fallbacks())))


@contextmanager
def _quiet() -> Iterator[None]:
    """matplotlib logs on import where it has no home folder, and while it looks for fonts: no news for our users."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@cache
def _fallbacks() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager  # noqa: PLC0415

    installed = {entry.name for entry in fontManager.ttflist}
    return tuple(family for family in _FALLBACKS if family in installed)


@cache
def _font(family: str) -> Any:
    from matplotlib.font_manager import FontProperties, findfont  # noqa: PLC0415
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415

    return FT2Font(findfont(FontProperties(family=[family])))


@cache
def _charmap(family: str) -> dict[int, int]:
    charmap: dict[int, int] = _font(family).get_charmap()
    return charmap


@cache
def _advance(c: str) -> float:
    """The width of a character in ems."""
    if ord(c) not in _charmap(_FIRST):
        return 1.0
    font = _font(_FIRST)
    font.set_size(100, 72)
    return float(font.load_char(ord(c)).linearHoriAdvance) / 65536 / 100
