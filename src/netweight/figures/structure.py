"""The pictures of `structure`: what models are made of, and where they were made smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from netweight.figures.canvas import Canvas, drawable, drawing, text_width
from netweight.figures.chart import (
    AXIS,
    BLUE,
    FAINT,
    GREEN,
    GRID,
    MARGIN,
    ORANGE,
    PURPLE,
    SKY,
    TITLE,
    UNDEFINED,
    palette_colour,
)
from netweight.figures.labels import distinct_short, fit

__all__ = ["parameters_by_part", "reduction_by_layer"]

_COLOURS = {
    "embedding": BLUE,
    "attention": ORANGE,
    "mlp": SKY,
    "norm": "#000000",
    "rotation": PURPLE,
    "layers": ORANGE,
    "lm_head": GREEN,
    "other": "#999999",
}
# ColorBrewer's YlOrRd, from 0 (pale) to 1 (dark red).
_SEQUENTIAL = (
    *((255, 255, 255), (255, 237, 160), (254, 217, 118), (254, 178, 76), (253, 141, 60), (252, 78, 42)),
    *((227, 26, 28), (189, 0, 38), (128, 0, 38)),
)
_MOST = 400  # models drawn: the pictures stay readable


def parameters_by_part(path: Path, names: Sequence[str], parts: Sequence[Mapping[str, int]]) -> None:
    """Draw one bar a model as PNG, cut by part: embedding, attention, mlp, norm, rotation, lm_head, other (elements).

    Models beyond the first 400 are left out, and said so. Raises OSError where the file cannot be written.
    """
    shown = min(len(names), _MOST)
    step = 0.24 if shown <= 40 else 0.165
    size = 8.0 if step > 0.2 else 6.5
    used = [part for part in _COLOURS if any(row.get(part, 0) > 0 for row in parts[:shown])]
    with drawing():
        labels = distinct_short([drawable(name) for name in names[:shown]], 44)
        left = MARGIN + 0.1 + max((text_width(label, size) for label in labels), default=0.5)
        left = min(left, 4.5)
        labels = [fit(label, left - MARGIN - 0.08, lambda text: text_width(text, size)) for label in labels]
        width = left + 6.2 + MARGIN
        height = 1.35 + max(1, shown) * step
        canvas = Canvas(width, height)
        canvas.text(MARGIN, height - 0.28, f"Parameters by part{_left_out(len(names))}", TITLE)
        if not shown:
            canvas.text(MARGIN, height - 0.62, "no model was analysed", 9)
        _legend(canvas, MARGIN, height - 0.62, used)
        totals = [sum(max(0, row.get(part, 0)) for part in used) for row in parts[:shown]]
        longest = max(totals, default=0) or 1
        scale = (6.2 - 0.75) / longest
        top = height - 0.85
        bottom = top - shown * step
        for tick in _ticks(longest):
            x = left + tick * scale
            canvas.line((x, bottom), (x, top), GRID, 0.6)
            canvas.text(x, bottom - 0.12, _count(tick), 7.5, align="centre")
        for i, (label, row, total) in enumerate(zip(labels, parts, totals, strict=False)):
            middle = top - (i + 0.5) * step
            canvas.text(left - 0.06, middle, label, size, align="right")
            at = 0
            for part in used:
                count = max(0, row.get(part, 0))
                canvas.rectangle(left + at * scale, middle - 0.36 * step, count * scale, 0.72 * step, _COLOURS[part])
                at += count
            canvas.text(left + total * scale + 0.05, middle, _count(total), size, colour=FAINT)
        canvas.line((left, bottom), (left + 6.2, bottom), AXIS, 0.8)
        canvas.line((left, bottom), (left, top), AXIS, 0.8)
        canvas.write(path)


def reduction_by_layer(
    path: Path, names: Sequence[str], layers: Sequence[str], ratios: Sequence[Sequence[float | None]]
) -> None:
    """Draw a heatmap as PNG: models down, the base's layers across, 1 - pruned / original as colour from 0 to 1.

    None is hatched (not known), a negative ratio (a layer that grew) has a colour of its own. Raises ValueError for
    rows of another length than `layers`, OSError where the file cannot be written.
    """
    if any(len(row) != len(layers) for row in ratios) or len(ratios) != len(names):
        raise ValueError(f"a heatmap of {len(names)} names and {len(layers)} layers needs a matrix of that shape")
    shown = min(len(names), _MOST)
    step = 0.24 if shown <= 40 else 0.165
    size = 8.0 if step > 0.2 else 6.5
    across = min(0.24, max(0.04, 9.0 / max(1, len(layers))))
    heading = f"Share of each base layer's parameters that is gone{_left_out(len(names))}"
    with drawing():
        labels = distinct_short([drawable(name) for name in names[:shown]], 44)
        left = min(4.5, MARGIN + 0.1 + max((text_width(label, size) for label in labels), default=0.5))
        labels = [fit(label, left - MARGIN - 0.08, lambda text: text_width(text, size)) for label in labels]
        side, body = across * len(layers), max(step * shown, 1.3)
        width = max(left + side + 0.95, text_width(heading, TITLE) + 2 * MARGIN)
        height = 1.15 + body + 0.3
        canvas = Canvas(width, height)
        canvas.text(MARGIN, height - 0.28, heading, TITLE)
        top = height - 0.62
        if not shown:
            canvas.text(MARGIN, 0.22, "no model was compared", 9)
        for i, (label, row) in enumerate(zip(labels, ratios, strict=False)):
            canvas.text(left - 0.06, top - (i + 0.5) * step, label, size, align="right")
            for begin, stop, style in _runs(row):
                canvas.rectangle(left + begin * across, top - (i + 1) * step, (stop - begin) * across, step, *style)
        bottom = top - max(1, shown) * step
        frame = [(left, top), (left + side, top), (left + side, bottom), (left, bottom)]
        for start, end in zip(frame, [*frame[1:], frame[0]], strict=True):
            canvas.line(start, end, AXIS, 0.8)
        widest = max((text_width(drawable(label), 7.0) for label in layers), default=0.1) + 0.08
        every = max(1, -(-int(1000 * widest) // max(1, int(1000 * across))))
        every = next((n for n in (1, 2, 4, 5, 8, 10, 20, 40, 50, 100, 200, 500, 1000) if n >= every), every)
        for j in range(0, len(layers), every):
            label = fit(drawable(layers[j]), 1.2, lambda text: text_width(text, 7.0))
            canvas.text(left + (j + 0.5) * across, bottom - 0.12, label, 7.0, align="centre")
        canvas.text(left + side / 2, bottom - 0.32, "layer of the base", 8, align="centre")
        cells = [ratio for row in ratios[:shown] for ratio in row]
        at = MARGIN
        for word, style, there in (
            ("not known", (UNDEFINED, "////"), None in cells),
            ("grew", (SKY, None), any(ratio is not None and ratio < 0 for ratio in cells)),
        ):
            if there:
                canvas.rectangle(at, 0.16, 0.14, 0.12, *style)
                canvas.text(at + 0.2, 0.22, word, 8)
                at += 0.4 + text_width(word, 8)
        _scale(canvas, left + side + 0.2, top - 1.3, 1.3)
        canvas.write(path)


def _left_out(count: int) -> str:
    return f" (the first {_MOST} of {count} models)" if count > _MOST else ""


def _legend(canvas: Canvas, left: float, y: float, parts: Sequence[str]) -> None:
    for part in parts:
        canvas.rectangle(left, y - 0.06, 0.14, 0.12, _COLOURS[part])
        canvas.text(left + 0.2, y, part, 8)
        left += 0.2 + text_width(part, 8) + 0.2


def _ticks(longest: int) -> list[int]:
    """Round numbers from 0 to `longest`, three to eight of them."""
    unit = 10 ** max(0, len(str(longest)) - 1)
    step = next((s for part in (1, 2, 5, 10, 20) if longest / (s := max(1, unit * part // 10)) <= 7), unit * 2)
    return list(range(0, longest + 1, step))


def _count(number: int) -> str:
    for step, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= step:
            return f"{number / step:.3g} {letter}"
    return str(number)


def _colour(ratio: float) -> str:
    red, green, blue = palette_colour(_SEQUENTIAL, ratio)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _style(ratio: float | None) -> tuple[str, str | None]:
    """(colour, hatch) of a cell."""
    if ratio is None:
        return UNDEFINED, "////"
    return (SKY if ratio < 0 else _colour(ratio)), None


def _runs(row: Sequence[float | None]) -> Iterator[tuple[int, int, tuple[str, str | None]]]:
    """(first, end, style) of neighbouring cells of one style; white ones are left out."""
    styles = [_style(ratio) for ratio in row]
    first = 0
    for at in range(1, len(styles) + 1):
        if at == len(styles) or styles[at] != styles[first]:
            if styles[first] != (_colour(0.0), None):
                yield first, at, styles[first]
            first = at


def _scale(canvas: Canvas, left: float, bottom: float, height: float) -> None:
    """What the colours mean, from 0 at the bottom to 1 at the top."""
    steps = 128
    for k in range(steps):
        canvas.rectangle(left, bottom + k * height / steps, 0.14, height / steps, _colour((k + 0.5) / steps))
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom + mark * height
        canvas.line((left + 0.14, y), (left + 0.17, y), AXIS, 0.8)
        canvas.text(left + 0.21, y, f"{100 * mark:.0f}%", 8)
