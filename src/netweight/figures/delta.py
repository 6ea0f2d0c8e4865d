"""The pictures of `delta`: where a model changed, and how alike the changes are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from netweight.figures.canvas import Canvas, drawable, drawing, text_width
from netweight.figures.chart import (
    AXIS,
    BLUE,
    FAINT,
    GRID,
    MARGIN,
    ORANGE,
    RGB,
    TITLE,
    UNDEFINED,
    headline,
    is_dark,
    palette_colour,
)
from netweight.figures.labels import distinct_short, fit
from netweight.figures.similarity import similarity_order

__all__ = ["cosine_heatmap", "group_l2_bar"]

_COMPONENTS = ("embed", "lm_head", "attn", "mlp", "norm", "other")
# ColorBrewer's RdBu, from -1 (blue) to 1 (red): safe for every kind of colour vision.
_DIVERGING = (
    *((5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247)),
    *((253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31)),
)
_ORDERED = "ordered by similarity, not as in the CSV file"
_AS_GIVEN = "ordered by similarity, here as in the CSV file"
_SAID = 8.5
_SMALLEST = 1e-290  # a norm that a length in the picture can still be computed from


def group_l2_bar(
    path: Path, title: str, groups: Mapping[str, float], relative: Mapping[str, float] | None = None
) -> None:
    """Draw the L2 norm of a task vector per group as PNG: components in one panel, layers by depth in another.

    `groups` maps embed, lm_head, attn, mlp, norm, other, layer (all blocks) and layer_0 ... to norms, `relative` the
    same names to norm / base norm; groups that are absent are not drawn, those of other names are components, in the
    order given. Raises OSError where the file cannot be written.
    """
    layers = sorted((name for name in groups if re.fullmatch(r"layer_\d+", name)), key=lambda name: int(name[6:]))
    known = [name for name in _COMPONENTS if name in groups]
    components = known + [name for name in groups if name not in {*known, *layers, "layer"}]
    whole = f" (all layers together: {_short(groups['layer'])})" if "layer" in groups else ""
    panels = [
        (names, heading, colour, step)
        for names, heading, colour, step in (
            (components, "by component", BLUE, 0.24),
            (layers, f"by layer{whole}", ORANGE, 0.24 if len(layers) <= 40 else 0.165),
        )
        if names
    ]
    width, height = 8.0, 0.55 + max(0.3, sum(len(names) * step + 0.85 for names, _, _, step in panels))
    with drawing():
        canvas = Canvas(width, height)
        headline(canvas, title)
        if not panels:
            canvas.text(MARGIN, height - 0.62, "no group was measured", 9)
        top = height - 0.55
        for names, heading, colour, step in panels:
            canvas.text(MARGIN, top - 0.13, f"L2 norm of the task vector {heading}", 9)
            notes = [_bar_label(groups[name], None if relative is None else relative.get(name)) for name in names]
            _bars(
                canvas, top - 0.3, step, [drawable(name) for name in names], [groups[n] for n in names], notes, colour
            )
            top -= len(names) * step + 0.85
        canvas.write(path)


def cosine_heatmap(path: Path, names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> None:
    """Draw pairwise cosines as PNG: models ordered by similarity, as the picture says, colours from -1 to 1, None and
    NaN as hatched cells.

    `matrix` is symmetric, one row and column per name. Raises ValueError for another shape, OSError where the file
    cannot be written.
    """
    count = len(names)
    if count == 0 or len(matrix) != count or any(len(row) != count for row in matrix):
        raise ValueError(f"a heatmap of {count} names needs a matrix of {count} x {count}, at least 1 x 1")
    order = similarity_order(matrix)
    cells = [[_defined(matrix[i][j]) for j in order] for i in order]
    size = 8.5 if count <= 20 else 7.0 if count <= 40 else 6.0
    step = 0.62 if count <= 12 else 0.34 if count <= 20 else max(0.125, 7.2 / count)
    angle = 45.0 if count <= 12 else 90.0
    heading = "Cosine similarity of the task vectors"
    said = _ORDERED if order != sorted(order) else _AS_GIVEN
    with drawing():
        labels = distinct_short([drawable(names[i]) for i in order], 40)
        widest = max(text_width(label, size) for label in labels)
        left, side, scale = widest + 0.35, step * count, max(step * count, 1.3)
        under = widest * math.sin(math.radians(angle)) + 0.3
        texts = max(text_width(heading, TITLE), text_width(said, _SAID))
        width = max(left + side + 0.95, texts + 2 * MARGIN)
        height = 0.82 + max(side + under, scale + MARGIN)
        canvas = Canvas(width, height)
        canvas.text(MARGIN, height - 0.28, heading, TITLE)
        canvas.text(MARGIN, height - 0.52, said, _SAID, colour=FAINT)
        top = height - 0.82
        for i, label in enumerate(labels):
            middle = (i + 0.5) * step
            canvas.text(left - 0.07, top - middle, label, size, align="right")
            canvas.text(left + middle, top - side - 0.08, label, size, align="right", angle=angle)
        for i, row in enumerate(cells):
            for j, cell in enumerate(row):
                _cell(canvas, left + j * step, top - (i + 1) * step, step, cell, printed=count <= 12)
        if count <= 20:
            for k in range(1, count):
                canvas.line((left, top - k * step), (left + side, top - k * step), "#ffffff", 1.0)
                canvas.line((left + k * step, top), (left + k * step, top - side), "#ffffff", 1.0)
        _scale(canvas, left + side + 0.2, top - scale, scale)
        canvas.write(path)


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"


def _bar_label(value: float, share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return _short(value)
    return f"{_short(value)}  ({100 * share:.3g}% of base)"


def _bars(
    canvas: Canvas, top: float, step: float, labels: list[str], values: list[float], notes: list[str], colour: str
) -> None:
    """One panel of horizontal bars, the first name at the top, the value at the end of each bar."""
    size = 8.0 if step > 0.2 else 6.5
    labels = [fit(label, 1.6, lambda text: text_width(text, size)) for label in labels]
    left = MARGIN + 0.1 + max(text_width(label, size) for label in labels)
    inner = canvas.width - left - MARGIN
    bottom = top - len(labels) * step
    drawn = [value if math.isfinite(value) and value > 0 else 0.0 for value in values]
    longest = max(drawn) if max(drawn) > _SMALLEST else 1.0
    scale = (inner - max(text_width(note, size) for note in notes) - 0.12) / longest
    for tick in _ticks(longest):
        x = left + tick * scale
        canvas.line((x, bottom), (x, top), GRID, 0.6)
        canvas.line((x, bottom), (x, bottom - 0.03), AXIS, 0.8)
        canvas.text(x, bottom - 0.11, f"{tick:.4g}", 7.5, align="centre")
    for i, (label, value, note) in enumerate(zip(labels, drawn, notes, strict=True)):
        middle = top - (i + 0.5) * step
        canvas.rectangle(left, middle - 0.36 * step, value * scale, 0.72 * step, colour)
        canvas.text(left - 0.06, middle, label, size, align="right")
        canvas.text(left + value * scale + 0.05, middle, note, size, colour=FAINT)
    canvas.line((left, bottom), (left + inner, bottom), AXIS, 0.8)
    canvas.line((left, bottom), (left, top), AXIS, 0.8)


def _ticks(longest: float) -> list[float]:
    """Round numbers from 0 to `longest`, four to nine of them."""
    unit = 10.0 ** math.floor(math.log10(longest))
    step = next(unit * part for part in (0.25, 0.5, 1.0, 2.0) if longest / (unit * part) < 7)
    return [k * step for k in range(int(longest / step * (1 + 1e-12)) + 1)]


def _defined(cell: float | None) -> float | None:
    return None if cell is None or not math.isfinite(cell) else max(-1.0, min(1.0, float(cell)))


def _colour(cosine: float) -> RGB:
    return palette_colour(_DIVERGING, (cosine + 1) / 2)


def _cell(canvas: Canvas, left: float, bottom: float, step: float, cosine: float | None, *, printed: bool) -> None:
    middle = left + step / 2, bottom + step / 2
    if cosine is None:
        canvas.rectangle(left, bottom, step, step, UNDEFINED, "////")
        if printed:
            canvas.rectangle(middle[0] - 0.15, middle[1] - 0.09, 0.3, 0.18, UNDEFINED)
            canvas.text(*middle, "n/a", 8, align="centre")
        return
    red, green, blue = _colour(cosine)
    canvas.rectangle(left, bottom, step, step, f"#{red:02x}{green:02x}{blue:02x}")
    if printed:
        shown = f"{round(cosine, 3) + 0.0:.3f}" if abs(cosine) < 0.9995 else f"{cosine:.4g}"  # no -0.000
        dark = is_dark((red, green, blue))
        canvas.text(*middle, shown, 8, align="centre", colour="#ffffff" if dark else "#000000")


def _scale(canvas: Canvas, left: float, bottom: float, height: float) -> None:
    """What the colours mean, from -1 at the bottom to 1 at the top."""
    steps = 128
    for k in range(steps):
        red, green, blue = _colour(2 * (k + 0.5) / steps - 1)
        canvas.rectangle(left, bottom + k * height / steps, 0.14, height / steps, f"#{red:02x}{green:02x}{blue:02x}")
    for mark in (-1.0, -0.5, 0.0, 0.5, 1.0):
        y = bottom + (mark + 1) / 2 * height
        canvas.line((left + 0.14, y), (left + 0.17, y), AXIS, 0.8)
        canvas.text(left + 0.21, y, f"{mark:g}", 8)
