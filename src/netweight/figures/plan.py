"""The picture of a plan: the error of a model against its size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    BLUE,
    FAINT,
    GREEN,
    MARGIN,
    VERMILION,
    Frame,
    Scale,
    decades,
    fitted,
    headline,
    log_scale,
    marker,
    power,
    round_ticks,
    x_ticks,
    y_ticks,
)

__all__ = ["size_curve"]

_SIZE = 7.5


def size_curve(
    path: Path,
    under: str,
    curve: Sequence[tuple[float, float]],
    uniform: Sequence[tuple[str, float, float]],
    chosen: tuple[float, float],
) -> None:
    """Draw the error of the best plans by bits for a parameter as PNG, with one format for all beside it, and the
    `chosen` plan marked; `under` is a line below the title. Raises OSError where the file cannot be written.
    """
    shown = [(bits, error) for bits, error in curve if error > 0]
    known = [error for _, error in (*shown, chosen)] + [error for *_, error in uniform]
    with drawing():
        canvas = Canvas(8.0, 4.6)
        headline(canvas, "relative error by bits for a parameter", under)
        widest = max(bits for bits, _ in shown)
        y = log_scale(known)
        ticks = [(value, power(value)) for value in decades(y, 8)]
        left = MARGIN + 0.45 + max(text_width(text, _SIZE) for _, text in ticks)
        first = min(bits for bits, _ in shown)
        frame = Frame(canvas, left, 0.75, canvas.width - left - 0.3, 3.0, Scale(first - 0.3, widest + 0.6), y)
        y_ticks(frame, ticks)
        x_ticks(frame, [(v, f"{v:g}") for v in round_ticks(first, widest, 12) if v >= frame.x.low])
        for a, b in pairwise(shown):
            canvas.line(frame.at(*a), frame.at(*b), BLUE, 1.4)
        for name, bits, error in uniform:
            x, at = frame.at(bits, error)
            marker(canvas, x, at, 0.07, GREEN, "square")
            if not any(b <= bits and e < error for _, b, e in uniform):  # the others would hide its name
                canvas.text(x + 0.08, at + 0.02, name, 6.5, colour=FAINT)
        x, at = frame.at(*chosen)
        marker(canvas, x, at, 0.11, VERMILION, "square")
        frame.axes()
        canvas.text(left + frame.width / 2, 0.42, "bits for a parameter of the model", 8.5, align="centre")
        canvas.text(MARGIN + 0.02, frame.bottom + frame.height / 2, "relative error", 8.5, align="centre", angle=90)
        note = "line: best plans; green: one format for all; red: this plan; errors: root mean squares over tensors"
        canvas.text(MARGIN, 0.16, fitted(note, canvas.width - 2 * MARGIN, _SIZE), _SIZE, colour=FAINT)
        canvas.write(path)
