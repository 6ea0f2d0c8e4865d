"""The health dashboard: the findings, and how four measures run through the depth of a model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    AXIS,
    FAINT,
    LEVEL_COLOURS,
    MARGIN,
    SKY,
    UNDEFINED,
    VERMILION,
    Frame,
    Scale,
    decades,
    fitted,
    headline,
    label_every,
    layer_text,
    log_scale,
    power,
    round_ticks,
    y_ticks,
)

__all__ = ["health_dashboard"]

_WIDTH = 9.0
_LEFT = 0.85
_STRIP = 1.05
_SIZE = 7.5
_OUTSIDE = "outside"  # any layer
_ASIDE = 0.75
_KEY = "matrices by layer: a bar from the least to the greatest, the middle one dark; thresholds as lines across"


@dataclass(frozen=True)
class _Strip:
    key: str
    heading: str
    method: str
    bounds: tuple[float, ...]
    log: bool
    percent: bool = False


_STRIPS = (
    _Strip("condition_number", "condition number", "spectral", (1e3, 1e4, 1e5), log=True),
    _Strip("sqnr_db", "SQNR in int8 per tensor (dB)", "quantization", (30.0, 40.0), log=False),
    _Strip("sparsity", "sparsity", "basic_stats", (), log=False, percent=True),
    _Strip("rank_ratio", "90% rank / full rank", "spectral", (), log=False, percent=True),
)


def health_dashboard(
    path: Path,
    title: str,
    counts: Mapping[str, int],
    points: Sequence[tuple[str | None, Mapping[str, float | None]]],
    worst: Sequence[tuple[str, str]],
) -> None:
    """Draw the health of a model as PNG.

    `counts` are the numbers of findings by level (critical, warning, info), `points` (layer, values) of one matrix
    each, in the order of depth: layers as `layer_3`, None outside the layers; values are `condition_number` (inf for a
    singular matrix), `sqnr_db` in dB, `sparsity` and `rank_ratio` as shares of 1. A measure that no matrix has is said
    to be missing; None and NaN are counted as n/a. `worst` are (level, text), of which the first five are written.
    Raises OSError where the file cannot be written.
    """
    height = 1.39 + sum(_STRIP + 0.55 if _measured(points, s.key) else 0.4 for s in _STRIPS) + 0.45
    height += 0.2 * max(1, min(5, len(worst)))
    layers = list(dict.fromkeys(layer for layer, _ in points if layer is not None))
    with drawing():
        canvas = Canvas(_WIDTH, height)
        headline(canvas, title)
        _counts(canvas, height - 0.55, counts)
        canvas.text(MARGIN, height - 0.82, _KEY, 8, colour=FAINT)
        top = height - 1.14
        for strip in _STRIPS:
            if not _measured(points, strip.key):
                canvas.rectangle(MARGIN, top - 0.11, 0.18, 0.18, UNDEFINED, "//////")
                text = f"{strip.heading}: not measured (add --methods {strip.method})"
                canvas.text(MARGIN + 0.28, top - 0.02, text, 9, colour=FAINT)
                top -= 0.4
                continue
            _draw_strip(canvas, top, strip, layers, points)
            top -= _STRIP + 0.55
        _worst(canvas, top, worst)
        canvas.write(path)


def _measured(points: Sequence[tuple[str | None, Mapping[str, float | None]]], key: str) -> bool:
    return any(values.get(key) is not None for _, values in points)


def _counts(canvas: Canvas, y: float, counts: Mapping[str, int]) -> None:
    left = MARGIN
    for level in ("critical", "warning", "info"):
        text = f"{counts.get(level, 0)} {level}"
        canvas.rectangle(left, y - 0.06, 0.12, 0.12, LEVEL_COLOURS[level])
        canvas.text(left + 0.18, y, text, 9)
        left += 0.5 + text_width(text, 9)


def _draw_strip(
    canvas: Canvas,
    top: float,
    strip: _Strip,
    layers: Sequence[str],
    points: Sequence[tuple[str | None, Mapping[str, float | None]]],
) -> None:
    by_layer: dict[str | None, list[float]] = {layer: [] for layer, _ in points}
    missing = 0
    for layer, values in points:
        value = values.get(strip.key)
        if value is None or math.isnan(value) or (strip.log and value <= 0):
            missing += 1
        else:
            by_layer[layer].append(100 * value if strip.percent else value)
    known = [v for values in by_layer.values() for v in values]
    singular = sum(math.isinf(v) for v in known) if strip.log else 0
    notes = [f"{singular} singular, at the upper edge" if singular else "", f"{missing} n/a" if missing else ""]
    heading = strip.heading + (f" ({', '.join(n for n in notes if n)})" if any(notes) else "")
    canvas.text(MARGIN, top, heading, 9)
    y = _scale(strip, known)
    frame = Frame(canvas, _LEFT, top - 0.14 - _STRIP, _WIDTH - _LEFT - MARGIN, _STRIP, Scale(0.0, 1.0), y)
    if strip.log:
        y_ticks(frame, [(t, power(t)) for t in decades(y, 5)])
    else:
        ticks = round_ticks(y.low, y.high, 4)
        y_ticks(frame, [(t, f"{t:.4g}%" if strip.percent else f"{t:.4g}") for t in ticks])
    for bound in strip.bounds:
        if y.low < bound < y.high:
            frame.horizontal(bound, VERMILION, 0.9)
    outside = None in by_layer
    step = (frame.width - (_ASIDE if outside else 0.0)) / max(1, len(layers))
    texts = [fitted(layer_text(layer), 1.0, _SIZE) for layer in layers]
    every = label_every(texts, step, _SIZE)
    for i, layer in enumerate(layers):
        centre = frame.left + step * (i + 0.5)
        _column(frame, centre, min(0.3, 0.62 * step), by_layer[layer])
        if i % every == 0:
            canvas.text(centre, frame.bottom - 0.11, texts[i], _SIZE, align="centre")
    if outside:
        centre = frame.left + frame.width - _ASIDE / 2 + 0.1
        _column(frame, centre, min(0.3, max(0.62 * step, 0.06)), by_layer[None])
        canvas.text(centre, frame.bottom - 0.11, _OUTSIDE, _SIZE, align="centre")
    frame.axes()


def _scale(strip: _Strip, known: Sequence[float]) -> Scale:
    if strip.log:
        return log_scale([max(v, 1.0) for v in known], highest=1e6)
    finite = [v for v in known if math.isfinite(v)] or [0.0]
    if strip.percent:
        most = max(finite)
        tens = 10.0 ** math.floor(math.log10(most)) if most > 1e-12 else 1.0
        return Scale(0.0, next(tens * part for part in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0) if most <= tens * part))
    low = 10 * math.floor(min([*finite, *strip.bounds]) / 10 - 0.05)
    return Scale(float(low), float(10 * math.ceil(max([*finite, *strip.bounds]) / 10 + 0.05)))


def _column(frame: Frame, centre: float, wide: float, values: Sequence[float]) -> None:
    """From the least to the greatest value of a place, its middle value as a dark line."""
    canvas = frame.canvas
    if not values:
        canvas.rectangle(centre - wide / 2, frame.bottom, wide, frame.height, UNDEFINED, "////")
        return
    low, high = (frame.at(0.0, v)[1] for v in (min(values), max(values)))
    canvas.rectangle(centre - wide / 2, low - 0.012, wide, high - low + 0.024, SKY)
    middle = frame.at(0.0, statistics.median_low(values))[1]
    canvas.line((centre - wide / 2, middle), (centre + wide / 2, middle), "#00304f", 1.6)
    if math.isinf(max(values)):
        canvas.rectangle(centre - wide / 2, frame.bottom + frame.height - 0.04, wide, 0.06, VERMILION)


def _worst(canvas: Canvas, top: float, worst: Sequence[tuple[str, str]]) -> None:
    canvas.text(MARGIN, top, "worst findings" if worst else "no findings", 9)
    for i, (level, text) in enumerate(worst[:5], 1):
        y = top - 0.22 * i + 0.02
        canvas.rectangle(MARGIN, y - 0.05, 0.1, 0.1, LEVEL_COLOURS.get(level, AXIS))
        canvas.text(MARGIN + 0.18, y, level, 8)
        canvas.text(MARGIN + 0.8, y, fitted(text, _WIDTH - 2 * MARGIN - 0.8, 8), 8)
