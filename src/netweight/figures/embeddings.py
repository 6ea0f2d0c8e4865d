"""The pictures of `embeddings`: F by the number of clusters, and the clusters on two axes."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    BLUE,
    FAINT,
    GRID,
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
    scientific,
    x_ticks,
    y_ticks,
)

__all__ = ["Point", "anova_curve", "cluster_plane"]

# Okabe and Ito's palette without its yellow, which is lost on white
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#555555")
_SIZE = 7.5


@dataclass(frozen=True)
class Point:
    """A row on the two axes, and its cluster."""

    x: float
    y: float
    cluster: int


def anova_curve(
    path: Path, under: str, curve: Sequence[tuple[int, float]], chosen: int, *, sample: int, rows: int
) -> None:
    """Draw F by k as PNG, the chosen k marked; `under` is a line below the title, `sample` and `rows` how many rows
    k-means was fitted to and F is of. Values that are infinite or NaN stand as empty marks at the top. Raises OSError
    where the file cannot be written.
    """
    known = [value for _, value in curve if math.isfinite(value) and value > 0]
    with drawing():
        canvas = Canvas(8.0, 4.6)
        headline(canvas, "ANOVA F by the number of clusters", under)
        first, last = curve[0][0], curve[-1][0]
        pad = 0.5 if last - first < 40 else 0.015 * (last - first)
        wide = bool(known) and max(known) > 30 * min(known)
        y = log_scale(known) if wide or not known else Scale(0.0, 1.08 * max(known))
        ticks = (
            [(v, power(v)) for v in decades(y, 8)] if y.log else [(v, scientific(v)) for v in round_ticks(0, y.high, 7)]
        )
        left = MARGIN + 0.45 + max((text_width(text, _SIZE) for _, text in ticks), default=0.2)
        frame = Frame(canvas, left, 0.75, canvas.width - left - 0.3, 3.0, Scale(first - pad, last + pad), y)
        y_ticks(frame, ticks)
        x_ticks(frame, [(k, f"{k:g}") for k in _whole_ticks(first, last)])
        frame.mark(chosen, VERMILION, 0.06)
        positions = [(k, *_position(frame, k, value), math.isfinite(value)) for k, value in curve]
        for (_, x0, y0, a), (_, x1, y1, b) in pairwise(positions):
            if a and b:
                canvas.line((x0, y0), (x1, y1), BLUE, 1.4)
        size = 0.07 if len(curve) <= 60 else 0.04
        for k, x, y0, finite in positions:
            marker(
                canvas,
                x,
                y0,
                size * (1.5 if k == chosen else 1),
                VERMILION if k == chosen else BLUE,
                "square" if finite else "ring",
            )
        frame.axes()
        _mark_chosen(frame, chosen, dict(curve)[chosen])
        canvas.text(left + frame.width / 2, 0.42, "clusters (k)", 8.5, align="centre")
        canvas.text(MARGIN + 0.02, frame.bottom + frame.height / 2, "F", 8.5, align="centre", angle=90)
        note = f"k-means fitted to {sample:,} rows; F of {rows:,} rows, each given to the nearest of its centres"
        if any(not math.isfinite(value) for _, value in curve):
            note += "; empty marks: infinite, or not defined"
        canvas.text(MARGIN, 0.16, fitted(note, canvas.width - 2 * MARGIN, _SIZE), _SIZE, colour=FAINT)
        canvas.write(path)


def _position(frame: Frame, k: int, value: float) -> tuple[float, float]:
    return frame.at(k, value if math.isfinite(value) else frame.y.high)


def _mark_chosen(frame: Frame, chosen: int, value: float) -> None:
    text = f"k = {chosen}, F = {scientific(value)}" if math.isfinite(value) else f"k = {chosen}"
    x, y = _position(frame, chosen, value)
    wide = text_width(text, 8.5)
    right = x + 0.12 + wide < frame.left + frame.width
    at = x + 0.12 if right else x - 0.12 - wide
    level = min(y + 0.14, frame.bottom + frame.height - 0.1)
    frame.canvas.rectangle(at - 0.03, level - 0.08, wide + 0.06, 0.16, "#ffffff")
    frame.canvas.text(at, level, text, 8.5, colour=VERMILION)


def _whole_ticks(first: int, last: int) -> list[int]:
    if last - first <= 30:
        return list(range(first, last + 1))
    return [first, *(int(v) for v in round_ticks(first, last, 15) if v > first and v == int(v))]


def cluster_plane(
    path: Path,
    under: str,
    points: Sequence[Point],
    clusters: Sequence[tuple[float, str | None]],
    shares: tuple[float, float],
) -> None:
    """Draw rows on two principal axes as PNG, coloured by cluster, each cluster's number at the middle of its points.

    `clusters` are (percentage, text) by number, listed beside the plane; `shares` of the variance that the axes hold.
    The axes leave out the farthest 0.5% of the points on each side, which are drawn at the edge. Raises OSError where
    the file cannot be written.
    """
    rows = min(len(clusters), 38)
    side = 5.6
    colours = _colours(len(clusters))
    with drawing():
        canvas = Canvas(9.4, side + 1.55)
        headline(canvas, f"Clusters of the token embedding: {len(points):,} rows on two principal axes", under)
        x, y = _span([p.x for p in points]), _span([p.y for p in points])
        frame = Frame(canvas, 0.85, 0.62, side, side, x, y)
        y_ticks(frame, [(v, scientific(v)) for v in round_ticks(y.low, y.high, 8)])
        x_ticks(frame, [(v, scientific(v)) for v in round_ticks(x.low, x.high, 8)])
        dot = 0.035 if len(points) > 1000 else 0.055
        for p in points:
            cx, cy = frame.at(p.x, p.y)
            canvas.rectangle(cx - dot / 2, cy - dot / 2, dot, dot, colours[p.cluster])
        frame.axes()
        _numbers(frame, points, colours)
        for share, at, angle in (
            (shares[0], (frame.left + side / 2, 0.22), 0.0),
            (shares[1], (0.2, frame.bottom + side / 2), 90.0),
        ):
            name = "1st" if angle == 0 else "2nd"
            canvas.text(
                *at, f"{name} principal axis ({100 * share:.3g}% of the variance)", 8.5, align="centre", angle=angle
            )
        _list(canvas, frame.left + side + 0.3, frame.bottom + side, clusters, colours, rows)
        canvas.write(path)


def _span(values: Sequence[float]) -> Scale:
    ordered = sorted(values)
    cut = len(ordered) // 200
    low, high = ordered[cut], ordered[-1 - cut]
    if high <= low:
        return Scale(low - 1.0, high + 1.0)
    pad = 0.04 * (high - low)
    return Scale(low - pad, high + pad)


def _colours(count: int) -> list[str]:
    """The palette, then hues a golden angle apart, darker and lighter by turns."""
    colours = list(_PALETTE[:count])
    for i in range(count - len(colours)):
        hue = (0.12 + 0.381966 * i) % 1.0
        red, green, blue = colorsys.hls_to_rgb(hue, (0.36, 0.62, 0.48)[i % 3], (0.75, 0.55, 0.9)[i % 3])
        colours.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return colours


def _numbers(frame: Frame, points: Sequence[Point], colours: Sequence[str]) -> None:
    """Each cluster's number at the median of its points; where one is taken, the nearest place that is not."""
    by_cluster: dict[int, list[Point]] = {}
    for p in points:
        by_cluster.setdefault(p.cluster, []).append(p)
    taken: list[tuple[float, float, float]] = []
    for number, members in sorted(by_cluster.items()):
        middle = len(members) // 2
        x, y = frame.at(sorted(p.x for p in members)[middle], sorted(p.y for p in members)[middle])
        half = text_width(str(number), 8.5) / 2 + 0.04
        for step in range(160):
            reach, turn = 0.02 * step, 2.4 * step
            px, py = x + reach * math.cos(turn), y + reach * math.sin(turn)
            px = min(max(px, frame.left + half), frame.left + frame.width - half)
            py = min(max(py, frame.bottom + 0.09), frame.bottom + frame.height - 0.09)
            if not any(abs(px - a) < half + b + 0.02 and abs(py - c) < 0.19 for a, c, b in taken):
                break
        taken.append((px, py, half))
        if math.hypot(px - x, py - y) > 0.1:
            frame.canvas.line((x, y), (px, py), "#000000", 0.7)
    for number, (px, py, half) in zip(sorted(by_cluster), taken, strict=True):
        frame.canvas.rectangle(px - half - 0.012, py - 0.092, 2 * half + 0.024, 0.184, colours[number])
        frame.canvas.rectangle(px - half, py - 0.08, 2 * half, 0.16, "#ffffff")
        frame.canvas.text(px, py, str(number), 8.5, align="centre")


def _list(
    canvas: Canvas,
    left: float,
    top: float,
    clusters: Sequence[tuple[float, str | None]],
    colours: Sequence[str],
    rows: int,
) -> None:
    step = min(0.2, 5.4 / max(1, rows))
    size = 8.0 if step > 0.17 else 6.5
    wide = canvas.width - left - MARGIN
    canvas.text(left + 0.16, top - 0.05, "cluster", 7.5, colour=FAINT)
    canvas.text(left + 1.02, top - 0.05, "rows", 7.5, align="right", colour=FAINT)
    canvas.text(left + 1.12, top - 0.05, "e.g.", 7.5, colour=FAINT)
    canvas.line((left, top - 0.16), (left + wide, top - 0.16), GRID, 0.6)
    for number, (percentage, text) in enumerate(clusters[:rows]):
        y = top - 0.28 - step * number
        canvas.rectangle(left, y - 0.045, 0.09, 0.09, colours[number])
        canvas.text(left + 0.42, y, str(number), size, align="right")
        canvas.text(left + 1.02, y, f"{percentage:.1f}%", size, align="right")
        if text is not None:
            canvas.text(left + 1.12, y, fitted(text.strip(), wide - 1.14, size), size)
    if len(clusters) > rows:
        canvas.text(left, top - 0.28 - step * rows, f"and {len(clusters) - rows} more", size, colour=FAINT)
