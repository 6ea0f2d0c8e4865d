"""The share of their rank that matrices use, by layer and role, over the whole depth of a model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    AXIS,
    FAINT,
    MARGIN,
    UNDEFINED,
    fitted,
    headline,
    is_dark,
    label_every,
    layer_text,
    palette_colour,
)

__all__ = ["rank_efficiency"]

# viridis: even steps of lightness, the same order for every kind of colour vision and in grey
_SEQUENTIAL = (
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
_ROW = 0.24
_SIZE = 8.0

Cells = dict[tuple[str, str], float | None]
"""The value of a (role, layer); None where it is undefined."""


def rank_efficiency(path: Path, title: str, rows: Sequence[tuple[str | None, str, float | None, float | None]]) -> None:
    """Draw two heatmaps as PNG, roles by layers: 90% rank / full rank, and stable rank / full rank.

    `rows` are (layer, role, svd_90_percent_ratio, stable_rank / total_rank): layers are labels as `layer_3` in the
    order in which they are drawn, None outside the layers (those are written under the maps); undefined values are None
    or NaN, drawn hatched. Where a layer has several matrices of a role (experts), their median is drawn. The second
    map's colours end at its largest value. Raises OSError where the file cannot be written.
    """
    inside = [(layer, role, a, b) for layer, role, a, b in rows if layer is not None]
    layers = list(dict.fromkeys(layer for layer, *_ in inside))
    roles = list(dict.fromkeys(role for _, role, *_ in inside))
    loose = [(role, a, b) for layer, role, a, b in rows if layer is None]
    step = min(0.62, max(0.062, 7.2 / max(1, len(layers))))
    with drawing():
        named = [fitted(role, 1.6, _SIZE) for role in roles]
        left = MARGIN + 0.1 + max((text_width(name, _SIZE) for name in named), default=0.0)
        width = max(6.0, left + step * len(layers) + 1.0)
        notes = _loose_lines(loose, width)
        panel = 0.22 + len(roles) * _ROW + 0.45
        height = 0.75 + (2 * panel if roles else 0.3) + 0.2 * len(notes) + (0.1 if notes else 0)
        canvas = Canvas(width, height)
        headline(canvas, title, "share of the full rank that the matrices use, by role and layer")
        top = height - 0.75
        if not rows:
            canvas.text(MARGIN, top - 0.05, "no rank was measured (add --methods spectral)", 9)
        for heading, cells, full in _maps(inside) if roles else ():
            _heatmap(canvas, (left, top, step), heading, cells, full, (roles, named, layers))
            top -= panel
        for i, note in enumerate(notes):
            canvas.text(MARGIN, top - 0.05 - 0.2 * i, note, _SIZE, colour=FAINT)
        canvas.write(path)


def _maps(inside: Sequence[tuple[str, str, float | None, float | None]]) -> list[tuple[str, Cells, float]]:
    ninety = _cells([(layer, role, a) for layer, role, a, _ in inside])
    stable = _cells([(layer, role, b) for layer, role, _, b in inside])
    most = max((value for value in stable.values() if value is not None), default=1.0)
    full = next(end for end in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if most <= end or end == 1.0)
    return [
        ("rank that holds 90% of the energy / full rank", ninety, 1.0),
        ("stable rank / full rank", stable, full),
    ]


def _cells(rows: Sequence[tuple[str, str, float | None]]) -> Cells:
    values_of: dict[tuple[str, str], list[float]] = {}
    for layer, role, value in rows:
        values = values_of.setdefault((role, layer), [])
        if value is not None and math.isfinite(value):
            values.append(value)
    return {key: statistics.median(values) if values else None for key, values in values_of.items()}


def _heatmap(
    canvas: Canvas,
    corner: tuple[float, float, float],
    heading: str,
    cells: Cells,
    full: float,
    names: tuple[Sequence[str], Sequence[str], Sequence[str]],
) -> None:
    left, top, step = corner
    roles, named, layers = names
    canvas.text(MARGIN, top - 0.05, heading, 9)
    top -= 0.22
    printed = step >= 0.42
    for i, (role, name) in enumerate(zip(roles, named, strict=True)):
        bottom = top - (i + 1) * _ROW
        canvas.text(left - 0.07, bottom + _ROW / 2, name, _SIZE, align="right")
        for j, layer in enumerate(layers):
            if (role, layer) in cells:
                _cell(canvas, (left + j * step, bottom, step), cells[role, layer], full, printed=printed)
    bottom = top - len(roles) * _ROW
    for k in range(1, len(roles)):
        canvas.line((left, top - k * _ROW), (left + step * len(layers), top - k * _ROW), "#ffffff", 1.0)
    if step > 0.12:
        for k in range(1, len(layers)):
            canvas.line((left + k * step, top), (left + k * step, bottom), "#ffffff", 1.0)
    labels = [fitted(layer_text(layer), 1.2, 7.5) for layer in layers]
    every = label_every(labels, step, 7.5)
    for j in range(0, len(labels), every):
        canvas.text(left + (j + 0.5) * step, bottom - 0.1, labels[j], 7.5, align="centre")
    _scale(canvas, left + step * len(layers) + 0.2, bottom, len(roles) * _ROW, full)


def _cell(
    canvas: Canvas, corner: tuple[float, float, float], value: float | None, full: float, *, printed: bool
) -> None:
    left, bottom, step = corner
    if value is None:
        canvas.rectangle(left, bottom, step, _ROW, UNDEFINED, "////")
        if printed:
            canvas.rectangle(left + step / 2 - 0.14, bottom + 0.04, 0.28, _ROW - 0.08, UNDEFINED)
            canvas.text(left + step / 2, bottom + _ROW / 2, "n/a", 7.5, align="centre")
        return
    red, green, blue = palette_colour(_SEQUENTIAL, value / full)
    canvas.rectangle(left, bottom, step, _ROW, f"#{red:02x}{green:02x}{blue:02x}")
    if printed:
        dark = is_dark((red, green, blue))
        canvas.text(
            left + step / 2, bottom + _ROW / 2, _share(value), 7.5, align="centre",
            colour="#ffffff" if dark else "#000000",
        )  # fmt: skip


def _scale(canvas: Canvas, left: float, bottom: float, height: float, full: float) -> None:
    """What the colours mean, 0 at the bottom; two rows high at least, so that its labels stay apart."""
    steps = 64
    for k in range(steps):
        red, green, blue = palette_colour(_SEQUENTIAL, (k + 0.5) / steps)
        canvas.rectangle(left, bottom + k * height / steps, 0.14, height / steps, f"#{red:02x}{green:02x}{blue:02x}")
    marks = (0.0, 0.5, 1.0) if height > 0.5 else (0.0, 1.0)
    for mark in marks:
        y = bottom + mark * height
        canvas.line((left + 0.14, y), (left + 0.17, y), AXIS, 0.8)
        canvas.text(left + 0.21, y, f"{100 * mark * full:g}%", 7.5)


def _share(value: float) -> str:
    return f"{100 * value:.0f}%" if value >= 0.0995 else f"{100 * value:.1f}%"


def _loose_lines(loose: Sequence[tuple[str, float | None, float | None]], width: float) -> list[str]:
    """Matrices outside the layers, a line each, eight at most."""
    shown = [
        fitted(f"outside the layers: {role}: 90% rank {_or_na(a)}, stable rank {_or_na(b)}", width - 2 * MARGIN, _SIZE)
        for role, a, b in loose[:8]
    ]
    return shown + ([f"and {len(loose) - 8} more outside the layers"] if len(loose) > 8 else [])


def _or_na(value: float | None) -> str:
    return _share(value) if value is not None and math.isfinite(value) else "n/a"
