"""Rectangles, lines and text to PNG, drawn with Pillow."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from netweight.figures.typeface import drawable, glyph, own, text_width, typeface_of

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Coverage = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["DPI", "Canvas", "drawable", "drawing", "text_width"]

DPI = 120

_LOCK = threading.RLock()
_RISE = 0.365  # half the height of a capital, in ems: centres a line of text
_FINE = 4  # letters are drawn this many times larger, and then reduced: they stand where they should, at every angle
_HATCH = "#999999"


class Canvas:
    """A white picture of `width` x `height` inches, measured from the lower left corner; made by `drawing`."""

    def __init__(self, width: float, height: float) -> None:
        from PIL import Image  # noqa: PLC0415 - for those who want pictures

        self.width = width
        self.height = height
        self._image = Image.new("RGB", (math.ceil(width * DPI), math.ceil(height * DPI)), "#ffffff")

    def rectangle(
        self, left: float, bottom: float, width: float, height: float, colour: str, hatch: str | None = None
    ) -> None:
        """A filled rectangle; a hatch of `///` and the like is slanting grey lines over it, closer the more there are.

        Raises ValueError for a hatch of anything else.
        """
        # Edges on whole pixels: neighbours then touch without a seam.
        first, last = round(left * DPI), round((left + width) * DPI)
        upper, lower = (self._image.height - round(y * DPI) for y in (bottom + height, bottom))
        if first >= last or upper >= lower:
            return
        self._image.paste(colour, (first, upper, last, lower))
        if hatch is not None:
            import numpy as np  # noqa: PLC0415 - for those who want pictures

            if not hatch or hatch.strip("/"):
                raise ValueError(f"a hatch is of slashes, got {hatch!r}")
            # Counted from the corner of the picture: the lines of neighbours join.
            step = DPI / 3 / len(hatch)
            rows = self._image.height - 0.5 - np.arange(upper, lower)[:, None]
            off = (np.arange(first, last) + 0.5 - rows + step / 2) % step - step / 2
            self._paint(first, upper, np.clip(1 - np.abs(off) / math.sqrt(2), 0, 1), _HATCH)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, points: float) -> None:
        """A straight line, `points` wide; a level or upright one is whole pixels wide, and ends on whole pixels."""
        import numpy as np  # noqa: PLC0415 - for those who want pictures

        (x0, y0), (x1, y1) = ((x * DPI, self._image.height - y * DPI) for x, y in (start, end))
        wide = points * DPI / 72
        if min(abs(x1 - x0), abs(y1 - y0)) < 1e-6:
            self._bar(x0, y0, x1, y1, colour, max(1, round(wide)))
            return
        left, top = (math.floor(min(pair) - wide) for pair in ((x0, x1), (y0, y1)))
        right, bottom = (math.ceil(max(pair) + wide) for pair in ((x0, x1), (y0, y1)))
        left, top, right, bottom = self._inside(left, top, right, bottom)
        dx, dy = np.arange(left, right) + 0.5 - x0, np.arange(top, bottom)[:, None] + 0.5 - y0
        length = math.hypot(x1 - x0, y1 - y0)
        across, along = (x1 - x0) / length, (y1 - y0) / length
        beside, on = np.abs(dx * along - dy * across), dx * across + dy * along
        # How much of each pixel is covered, by how far its middle is from the line's side and from its ends.
        cover = np.clip(wide / 2 - beside + 0.5, 0, min(1.0, wide))
        self._paint(left, top, cover * np.clip(on + 0.5, 0, 1) * np.clip(length - on + 0.5, 0, 1), colour)

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
        back = text_width(text, size) * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        slope, rise = math.radians(angle), _RISE * size / 72
        x += rise * math.sin(slope) - back * math.cos(slope)
        y -= rise * math.cos(slope) + back * math.sin(slope)
        # The line begins on a whole pixel: level letters then stand on an edge.
        left, base = round(x * DPI), self._image.height - round(y * DPI)
        drawn, before, above = _letters(text, size * DPI / 72)
        if angle:
            drawn, before, above = _turned(drawn, before, above, slope)
        self._image.paste(colour, (left - before, base - above), drawn.reduce(_FINE))

    def write(self, path: Path) -> None:
        """Write the picture as PNG; raises OSError where the file cannot be written."""
        self._image.save(path, "PNG", compress_level=2, dpi=(DPI, DPI))

    def _bar(self, x0: float, y0: float, x1: float, y1: float, colour: str, wide: int) -> None:
        """A level or upright line of whole pixels."""
        ends = [round(min(x0, x1)), round(min(y0, y1)), round(max(x0, x1)), round(max(y0, y1))]
        side = 0 if abs(x1 - x0) < abs(y1 - y0) else 1
        if ends[1 - side] < ends[3 - side]:
            ends[side] -= wide // 2
            ends[side + 2] = ends[side] + wide
            self._image.paste(colour, (ends[0], ends[1], ends[2], ends[3]))

    def _inside(self, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        """The part of a box that lies in the picture."""
        return max(0, left), max(0, top), min(self._image.width, right), min(self._image.height, bottom)

    def _paint(self, left: int, top: int, cover: Coverage, colour: str) -> None:
        """Colour on the share of each pixel that is covered."""
        import numpy as np  # noqa: PLC0415 - for those who want pictures
        from PIL import Image  # noqa: PLC0415

        if cover.size:
            self._image.paste(colour, (left, top), Image.fromarray(np.rint(cover * 255).astype(np.uint8)))


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, `Canvas` and the measures of text may be used, by one thread at a time.

    Raises JobError where the font that belongs to the package is missing.
    """
    with _LOCK:
        own()
        yield


def _letters(text: str, size: float) -> tuple[Image, int, int]:
    """A level line `_FINE` times larger than `size` pixels an em, and the pixels that the picture has left of the
    beginning of the line and above it.
    """
    from PIL import Image  # noqa: PLC0415

    em = math.ceil(size)  # room for what reaches over a letter's width and height
    length = text_width(text, size * 72 / DPI) * DPI
    drawn = Image.new("L", ((math.ceil(length) + 2 * em) * _FINE, 3 * em * _FINE))
    at = 0.0
    for c in text:
        found = glyph(typeface_of(c), size * _FINE, c)
        if found is not None:
            shape, left, top = found
            drawn.paste(255, (em * _FINE + round(at) + left, 2 * em * _FINE + top), shape)
        at += text_width(c, 72) * size * _FINE
    return drawn, em, 2 * em


def _turned(drawn: Image, before: int, above: int, slope: float) -> tuple[Image, int, int]:
    """What `_letters` gives, turned about the beginning of the line by `slope` radians against the clock."""
    from PIL import Image  # noqa: PLC0415

    cos, sin = math.cos(slope), math.sin(slope)
    width, height = drawn.width // _FINE, drawn.height // _FINE
    corners = [(x - before, y - above) for x in (0, width) for y in (0, height)]
    xs, ys = [x * cos + y * sin for x, y in corners], [y * cos - x * sin for x, y in corners]
    left, top = math.floor(min(xs)), math.floor(min(ys))
    size = ((math.ceil(max(xs)) - left) * _FINE, (math.ceil(max(ys)) - top) * _FINE)
    # For every point of the turned picture its place in the level one.
    x0, y0 = left * _FINE, top * _FINE
    places = (cos, -sin, before * _FINE + cos * x0 - sin * y0, sin, cos, above * _FINE + sin * x0 + cos * y0)
    turned = drawn.transform(size, Image.Transform.AFFINE, places, Image.Resampling.BICUBIC)
    return turned, -left, -top
