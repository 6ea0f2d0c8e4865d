"""The pictures of a quantisation: SQNR by block and role, and bits against error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from netweight.figures.canvas import Canvas, drawable, drawing, text_width
from netweight.figures.chart import (
    BLUE,
    FAINT,
    GREEN,
    MARGIN,
    ORANGE,
    PURPLE,
    RGB,
    SKY,
    UNDEFINED,
    VERMILION,
    Frame,
    Scale,
    fitted,
    headline,
    is_dark,
    label_every,
    layer_text,
    marker,
    palette_colour,
    round_ticks,
    x_ticks,
    y_ticks,
)

__all__ = ["bits_and_error", "sqnr_map"]

_PALETTE: Sequence[RGB] = (
    (127, 39, 4),
    (217, 95, 14),
    (254, 196, 79),
    (247, 247, 217),
    (120, 198, 190),
    (29, 110, 160),
)
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#000000", "#8c6d31", "#637939", "#843c39")
_SIZE = 7.5


def sqnr_map(path: Path, title: str, cells: Sequence[tuple[str, str, float]]) -> None:
    """Draw SQNR in dB as PNG: a column for each block, a row for each role; higher is closer to the original.

    `cells` are (block, role, SQNR), infinite where nothing changed, NaN where it is not known. Raises OSError where the
    file cannot be written.
    """
    blocks = list(dict.fromkeys(block for block, _, _ in cells))
    roles = list(dict.fromkeys(role for _, role, _ in cells))
    values = {(block, role): value for block, role, value in cells}
    known = [value for value in values.values() if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    high = high if high > low else low + 1
    step, tall = max(0.09, min(0.42, 9.0 / max(1, len(blocks)))), 0.24
    with drawing():
        left = MARGIN + 0.1 + max((text_width(drawable(role), _SIZE) for role in roles), default=0.5)
        width = max(6.0, left + step * len(blocks) + MARGIN + 0.9)
        height = 1.45 + tall * len(roles)
        canvas = Canvas(width, height)
        headline(canvas, title, "SQNR in dB by block and role: higher is closer to the original; = is unchanged")
        bottom = 0.62
        for row, role in enumerate(reversed(roles)):
            y = bottom + row * tall
            canvas.text(left - 0.06, y + tall / 2, drawable(role), _SIZE, align="right")
            for column, block in enumerate(blocks):
                _cell(canvas, left + column * step, y, step, tall, values.get((block, role)), low, high)
        every = label_every([layer_text(block) for block in blocks], step, _SIZE)
        for column, block in enumerate(blocks):
            if column % every == 0 or not block.rpartition("layer_")[2].isdigit():
                text, x = layer_text(block), left + (column + 0.5) * step
                wide = text_width(text, _SIZE) > step * every
                canvas.text(x, bottom - 0.12, text, _SIZE, align="right" if wide else "centre", angle=30 if wide else 0)
        _key(canvas, left + step * len(blocks) + 0.2, bottom, tall * len(roles), low, high)
        canvas.write(path)


def _cell(
    canvas: Canvas, x: float, y: float, step: float, tall: float, value: float | None, low: float, high: float
) -> None:
    if value is None:
        return
    if math.isnan(value):
        canvas.rectangle(x, y, step, tall, UNDEFINED, "////")
        return
    colour = palette_colour(_PALETTE, 1.0 if math.isinf(value) else (value - low) / (high - low))
    canvas.rectangle(x, y, step, tall, "#{:02x}{:02x}{:02x}".format(*colour))
    text = "=" if math.isinf(value) else f"{value:.0f}"
    if text_width(text, 6.5) + 0.03 < step:
        ink = "#ffffff" if is_dark(colour) else "#000000"
        canvas.text(x + step / 2, y + tall / 2, text, 6.5, align="centre", colour=ink)


def _key(canvas: Canvas, x: float, bottom: float, height: float, low: float, high: float) -> None:
    parts = 40
    for k in range(parts):
        colour = "#{:02x}{:02x}{:02x}".format(*palette_colour(_PALETTE, k / (parts - 1)))
        canvas.rectangle(x, bottom + k * height / parts, 0.14, height / parts, colour)
    canvas.text(x + 0.2, bottom + 0.05, f"{low:.0f} dB", _SIZE)
    canvas.text(x + 0.2, bottom + height - 0.05, f"{high:.0f} dB", _SIZE)


def bits_and_error(path: Path, title: str, under: str, points: Sequence[tuple[str, float, float]]) -> None:
    """Draw SQNR in dB against bits a weight as PNG.

    `points` are (kind, bits, SQNR): points of one kind have one colour, of at most ten; infinite and unknown SQNR are
    counted under the title. Raises OSError where the file cannot be written.
    """
    known = [(kind, x, y) for kind, x, y in points if math.isfinite(x) and math.isfinite(y)]
    kinds = list(dict.fromkeys(kind for kind, _, _ in known))
    left_out = len(points) - len(known)
    under += f"; {left_out} unchanged or without a value not drawn" if left_out else ""
    with drawing():
        canvas = Canvas(8.0, 5.4)
        headline(canvas, title, under)
        if not known:
            canvas.text(MARGIN, canvas.height - 0.9, "nothing has changed", 9)
            canvas.write(path)
            return
        lines = _legend(canvas, kinds)
        most = max(x for _, x, _ in known)
        low, high = min(y for _, _, y in known), max(y for _, _, y in known)
        low, high = 5 * math.floor(low / 5 - 0.2), 5 * math.ceil(high / 5 + 0.2)
        x, y = Scale(0.0, max(2.0, math.ceil(most + 0.5))), Scale(low, high)
        frame = Frame(canvas, 0.75, 0.62, canvas.width - 1.0, canvas.height - 1.35 - 0.18 * lines, x, y)
        x_ticks(frame, [(tick, f"{tick:g}") for tick in round_ticks(x.low, x.high, 10)])
        y_ticks(frame, [(tick, f"{tick:g}") for tick in round_ticks(y.low, y.high, 8)])
        canvas.text(frame.left + frame.width / 2, 0.28, "bits for a weight, scales and all", 8.5, align="centre")
        canvas.text(0.22, frame.bottom + frame.height / 2, "SQNR in dB", 8.5, align="centre", angle=90)
        frame.axes()
        size = 0.1 if len(known) <= 20 else 0.06
        for kind, bits, sqnr in known:
            marker(canvas, *frame.at(bits, sqnr), size, _COLOURS[min(kinds.index(kind), len(_COLOURS) - 1)])
        canvas.write(path)


def _legend(canvas: Canvas, kinds: Sequence[str]) -> int:
    """The names of the kinds under the heading; how many lines they take."""
    shown = list(kinds[: len(_COLOURS)])
    if len(kinds) > len(shown):
        shown[-1] = f"{len(kinds) - len(shown) + 1} others"
    x, line = MARGIN, 0
    for kind, colour in zip(shown, _COLOURS, strict=False):
        text = fitted(kind, canvas.width - 2 * MARGIN - 0.3, _SIZE)
        wide = 0.34 + text_width(text, _SIZE)
        if x > MARGIN and x + wide > canvas.width - MARGIN:
            x, line = MARGIN, line + 1
        y = canvas.height - 0.78 - 0.18 * line
        canvas.rectangle(x, y - 0.05, 0.1, 0.1, colour)
        canvas.text(x + 0.15, y, text, _SIZE, colour=FAINT)
        x += wide
    return line + 1
