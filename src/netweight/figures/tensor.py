"""The pictures of one tensor: how its weights are distributed, and its singular values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing
from netweight.figures.chart import (
    BLUE,
    FAINT,
    MARGIN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Frame,
    Scale,
    decades,
    headline,
    log_scale,
    mark_key,
    power,
    raised,
    round_ticks,
    scientific,
    x_ticks,
    y_ticks,
)

__all__ = ["singular_spectrum", "weight_distribution"]

_MOST_POINTS = 500
_FENCES = (("outliers", ORANGE, 0.05), ("extreme outliers", VERMILION, 0.02))
_STYLES = ((PURPLE, 0.1), (ORANGE, 0.05), (FAINT, 0.02), (SKY, 0.2))


def weight_distribution(
    path: Path,
    name: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    mean: float | None = None,
    std: float | None = None,
    fences: Sequence[tuple[float, float]] = (),
    under: str = "",
) -> None:
    """Draw a histogram as PNG, counts on a logarithmic axis that begins at 1/2.

    `counts` are the elements between neighbouring `edges` (one more than counts, ascending, finite). The mean,
    mean - std and mean + std, and the pairs of `fences` (those of outliers, as [q25 - 1.5 IQR, q75 + 1.5 IQR], then
    those of extreme outliers) are marked where they are given, finite and inside the edges; `under` is a line below the
    name. Raises ValueError where edges and counts do not fit together, OSError where the file cannot be written.
    """
    if len(edges) != len(counts) + 1 or not counts or any(not math.isfinite(e) for e in edges):
        raise ValueError(
            f"a histogram needs finite edges, one more than counts; got {len(edges)} edges for {len(counts)} counts"
        )
    if any(b < a for a, b in pairwise(edges)) or edges[0] >= edges[-1]:
        raise ValueError("a histogram needs ascending edges; got descending ones, or a span of 0")
    marks = _distribution_marks(mean, std, fences)
    with drawing():
        canvas = Canvas(9.0, 5.0)
        headline(canvas, name, under)
        low, high = float(edges[0]), float(edges[-1])
        drawn = [(key, colour, dash, [x for x in xs if low <= x <= high]) for key, colour, dash, xs in marks]
        head = 0.78 + mark_key(canvas, canvas.height - 0.8, [(key, colour, dash) for key, colour, dash, _ in drawn])
        y = raised(log_scale([c for c in counts if c > 0], lowest=1.0))
        frame = Frame(canvas, 0.85, 0.6, 7.85, canvas.height - 0.6 - head, Scale(low, high), y)
        x_ticks(frame, [(t, f"{t:.6g}") for t in round_ticks(low, high, 9)])
        y_ticks(frame, [(t, power(t)) for t in decades(y, 8)])
        for start, end, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count > 0:
                x0, x1 = frame.at(start, 1.0)[0], frame.at(end, 1.0)[0]
                canvas.rectangle(x0, frame.bottom, max(x1 - x0, 1 / 120), frame.height * y.position(count), SKY)
        for _, colour, dash, places in drawn:
            for x in places:
                frame.mark(x, colour, dash)
        frame.axes()
        canvas.text(frame.left + frame.width / 2, 0.26, "value", 8.5, align="centre")
        canvas.text(0.22, frame.bottom + frame.height / 2, "elements", 8.5, align="centre", angle=90)
        canvas.write(path)


def singular_spectrum(
    path: Path,
    name: str,
    sigma: Sequence[float],
    marks: Mapping[str, int],
    *,
    fit: tuple[float, float] | None = None,
    under: str = "",
) -> None:
    """Draw singular values against their number as PNG, both axes logarithmic.

    `sigma` are the singular values, descending; `marks` are ranks by name ("90% rank": 41), each drawn as a line, 0 and
    those beyond the values left out. `fit` is (xmin, alpha) of the power law of lambda = sigma^2 >= xmin, whose
    rank-size line lambda_i = xmin (i / n)^(-1 / (alpha - 1)), n the number of values above xmin, is drawn over them.
    Zeros and undefined values have no place on the axis and are counted under the name. Raises OSError where the file
    cannot be written.
    """
    shown = [(i, float(s)) for i, s in enumerate(sigma, 1) if math.isfinite(s) and s > 0]
    absent = len(sigma) - len(shown)
    notes = [under, f"{absent} of {len(sigma)} values are 0 or undefined: not drawn" if absent else ""]
    with drawing():
        canvas = Canvas(9.0, 5.4)
        headline(canvas, name, "; ".join(note for note in notes if note))
        if not shown:
            canvas.text(MARGIN, canvas.height - 0.9, "no singular value to draw", 9)
            canvas.write(path)
            return
        x, y = _spectrum_scales(shown, len(sigma))
        ranks = [(k, f"{label}: {k}") for label, k in marks.items() if 1 <= k <= len(sigma)]
        styled = [(k, text, *_STYLES[i % len(_STYLES)]) for i, (k, text) in enumerate(ranks)]
        key = [(f"sigma_1: {scientific(shown[0][1])}", BLUE, 0.0)] if shown[0][0] == 1 else []
        law = None if fit is None else _power_law(shown, fit)
        key += [(text, colour, dash) for _, text, colour, dash in styled]
        key += [(law[2], VERMILION, 0.0)] if law else []
        head = 0.78 + mark_key(canvas, canvas.height - 0.8, key)
        frame = Frame(canvas, 0.85, 0.6, 7.85, canvas.height - 0.6 - head, x, y)
        x_ticks(frame, [(t, text) for t, text in _log_ticks(x) if t == round(t)])
        y_ticks(frame, _log_ticks(y))
        for k, _, colour, dash in styled:
            frame.mark(float(k), colour, dash)
        positions = [frame.at(i, s) for i, s in _thinned(shown)]
        for start, end in pairwise(positions):
            canvas.line(start, end, BLUE, 1.8)
        for px, py in positions if len(positions) <= 40 else positions[:1]:
            canvas.rectangle(px - 0.025, py - 0.025, 0.05, 0.05, BLUE)
        if law:
            _law_line(frame, law[0], law[1])
        frame.axes()
        canvas.text(frame.left + frame.width / 2, 0.26, "number of the singular value", 8.5, align="centre")
        canvas.text(0.22, frame.bottom + frame.height / 2, "singular value", 8.5, align="centre", angle=90)
        canvas.write(path)


def _distribution_marks(
    mean: float | None, std: float | None, fences: Sequence[tuple[float, float]]
) -> list[tuple[str, str, float, list[float]]]:
    """(text, colour, dash, where), from the centre outwards."""
    marks: list[tuple[str, str, float, list[float]]] = []
    if mean is not None:
        marks.append((f"mean {scientific(mean)}", FAINT, 0.0, [mean]))
        if std is not None:
            marks.append((f"mean \N{PLUS-MINUS SIGN} std, std {scientific(std)}", BLUE, 0.1, [mean - std, mean + std]))
    for (low, high), (text, colour, dash) in zip(fences, _FENCES, strict=False):
        marks.append((f"{text} beyond {scientific(low)} and {scientific(high)}", colour, dash, [low, high]))
    return [mark for mark in marks if all(math.isfinite(x) for x in mark[3])]


def _spectrum_scales(shown: Sequence[tuple[int, float]], count: int) -> tuple[Scale, Scale]:
    """From the first to the last number, and from the smallest value to the largest with some room."""
    low, high = min(s for _, s in shown), max(s for _, s in shown)
    span = math.log10(high) - math.log10(low)
    room = 10 ** max(0.04 * span, 0.1 if span < 0.2 else 0.0)
    y = Scale(max(low / room, 1e-300), min(high * room, 1e307), log=True)
    return Scale(1.0, max(2.0, float(count)), log=True), y


def _log_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Powers of ten; 1, 2 and 5 times them, or round numbers, where there would be few."""
    if scale.high / scale.low < 8:
        return [(t, f"{t:.4g}") for t in round_ticks(scale.low, scale.high, 6)]
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    parts = (1.0,) if last - first > 4 else (1.0, 2.0, 5.0)
    step = max(1, math.ceil((last - first) / 12))
    ticks = [part * 10.0**k for k in range(first, last + 1, step) for part in parts]
    return [(t, f"{t:g}" if 1e-3 <= t < 1e5 else scientific(t)) for t in ticks if scale.low <= t <= scale.high]


def _thinned(shown: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about 500 of the points, evenly in the logarithm of their number, the last one among them."""
    if len(shown) <= _MOST_POINTS:
        return list(shown)
    ends = math.log(len(shown))
    picked = sorted(
        {min(len(shown) - 1, int(math.exp(ends * k / _MOST_POINTS))) for k in range(_MOST_POINTS + 1)} | {0}
    )
    return [shown[i] for i in picked]


def _power_law(
    shown: Sequence[tuple[int, float]], fit: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float], str] | None:
    """Both ends of the rank-size line as (number, log10 of the value), and its text; None where there is no line."""
    xmin, alpha = fit
    if not (math.isfinite(xmin) and math.isfinite(alpha) and xmin > 0 and alpha > 1):
        return None
    count = sum(s * s >= xmin * (1 - 1e-12) for _, s in shown)
    if count < 2:
        return None
    low = 0.5 * math.log10(xmin)
    high = low + 0.5 / (alpha - 1) * math.log10(count)
    text = f"power law of sigma^2 from xmin {scientific(xmin)}: alpha {alpha:.2f}"
    return (1.0, high), (float(count), low), text


def _law_line(frame: Frame, start: tuple[float, float], end: tuple[float, float]) -> None:
    ceiling = math.log10(frame.y.high)
    (first, top), (last, low) = start, end
    if low >= ceiling:
        return
    if top > ceiling:  # cut at the panel's upper edge, so that the line keeps its direction
        first, top = last ** ((top - ceiling) / (top - low)), ceiling
    frame.canvas.line(frame.at(first, 10**top), frame.at(last, 10**low), VERMILION, 1.6)
