"""The pictures of `scan`: which matrices are ill-conditioned, and what quantizing them to int8 risks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    AXIS,
    FAINT,
    LEVEL_COLOURS,
    MARGIN,
    Frame,
    Scale,
    decades,
    fit_all,
    headline,
    log_scale,
    marker,
    power,
    raised,
    round_ticks,
    scientific,
    x_ticks,
)

__all__ = ["condition_bars", "quantization_risk"]

_WORST_BARS = 30
_CONDITION = ((1e5, "critical"), (1e4, "warning"), (1e3, "info"))
_NAMED = 8
_ZONES = (
    # colour, from and to outliers in %, from and to SQNR in dB; later ones lie on top of earlier ones
    ("#fbe3c0", 0.0, math.inf, -math.inf, math.inf),
    ("#dcecf8", 0.0, 1.0, 30.0, math.inf),
    ("#d5efe5", 0.0, 0.1, 40.0, math.inf),
    ("#f6cdb5", 10.0, math.inf, -math.inf, math.inf),
)
_ZONE_NAMES = (
    # text, its colour, the outliers at which it begins: along the upper edge every zone is met in turn
    ("int8 per tensor", "#00573f", 0.0),
    ("per channel", "#004a75", 0.1),
    ("16 bit or smooth", "#7a5400", 1.0),
    ("critical", "#8a3d00", 10.0),
)
_ZONE_SIZE = 8.0
_NUMBER_SIZE = 7.5

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in inches."""


def condition_bars(path: Path, title: str, rows: Sequence[tuple[str, float | None]]) -> None:
    """Draw condition numbers as PNG: a bar for each of the 30 worst matrices, coloured by level, on a logarithmic axis.

    `rows` are (name, condition number), inf for a singular matrix (drawn hatched over the whole width), None or NaN
    where it is not known (counted in the heading). Raises OSError where the file cannot be written.
    """
    known = [(name, value) for name, value in rows if value is not None and not math.isnan(value)]
    shown = sorted(known, key=lambda row: -row[1])[:_WORST_BARS]
    step, size, width = 0.2, 7.5, 9.0
    height = 1.02 + (len(shown) * step + 0.35 if shown else 0.2)
    with drawing():
        canvas = Canvas(width, height)
        headline(canvas, title, _condition_heading(rows, known, len(shown)))
        if not shown:
            canvas.text(MARGIN, height - 0.9, "no condition number was measured (add --methods spectral)", 9)
            canvas.write(path)
            return
        _condition_legend(canvas, height - 0.82)
        scale = raised(log_scale([v for _, v in shown], lowest=1.0, highest=1e6))
        labels = fit_all([name for name, _ in shown], 3.6, size)
        left = MARGIN + 0.08 + max(text_width(label, size) for label in labels)
        notes = ["singular" if math.isinf(v) else scientific(v) for _, v in shown]
        inner = width - left - MARGIN - max(text_width(note, size) for note in notes) - 0.1
        top = height - 1.02
        frame = Frame(canvas, left, top - len(shown) * step, inner, len(shown) * step, scale, Scale(0.0, 1.0))
        x_ticks(frame, [(tick, power(tick)) for tick in decades(scale, 10)])
        for i, (label, (_, value), note) in enumerate(zip(labels, shown, notes, strict=True)):
            middle = top - (i + 0.5) * step
            length = inner * scale.position(value)
            if math.isinf(value):
                canvas.rectangle(left, middle - 0.36 * step, inner, 0.72 * step, "#f6cdb5", "////")
            else:
                canvas.rectangle(left, middle - 0.36 * step, length, 0.72 * step, _condition_colour(value))
            canvas.text(left - 0.06, middle, label, size, align="right")
            canvas.text(width - MARGIN, middle, note, size, align="right", colour=FAINT)
        for bound, _ in _CONDITION:
            frame.vertical(bound, AXIS, 1.0)
        frame.axes()
        canvas.write(path)


def quantization_risk(path: Path, title: str, points: Sequence[tuple[str, float | None, float | None]]) -> None:
    """Draw extreme outliers against SQNR as PNG, over the zones of the quantization advice.

    `points` are (name, extreme outliers in %, SQNR in dB of int8 per tensor), None or NaN where undefined (such points
    are counted under the title). Outliers are on a logarithmic axis with a place for 0; the points furthest into the
    zones of risk are numbered and named under the picture. Raises OSError where the file cannot be written.
    """
    known = [
        (name, x, y)
        for name, x, y in points
        if x is not None and y is not None and not math.isnan(x) and not math.isnan(y)
    ]
    worst = sorted((p for p in known if _risk(p) > 0), key=_risk, reverse=True)[:_NAMED]
    missing = len(points) - len(known)
    under = f"{len(known)} matrices" + (f"; {missing} without a value (n/a) left out" if missing else "")
    height = 5.75 + (0.2 * len(worst) + 0.3 if worst else 0.0)
    with drawing():
        canvas = Canvas(9.0, height)
        headline(canvas, title, under)
        if not known:
            canvas.text(MARGIN, height - 0.9, "no quantization error was measured (add --methods quantization)", 9)
            canvas.write(path)
            return
        frame = _risk_frame(canvas, known, height)
        _zones(frame)
        for _, x, y in known:
            marker(canvas, *frame.at(_beyond_zero(x, frame), y), 0.055, FAINT)
        x_ticks_at = [(frame.x.low, "0"), *((t, f"{t:g}%") for t in decades(frame.x, 12)[1:])]
        for value, text in x_ticks_at:
            x = frame.at(value, frame.y.low)[0]
            canvas.line((x, frame.bottom), (x, frame.bottom - 0.03), AXIS, 0.8)
            canvas.text(x, frame.bottom - 0.12, text, 7.5, align="centre")
        _y_labels(frame)
        canvas.text(frame.left + frame.width / 2, frame.bottom - 0.32, "extreme outliers", 8.5, align="centre")
        frame.axes()
        _number_points(frame, worst, known)
        _name_points(canvas, worst, frame.bottom - 0.62)
        canvas.write(path)


def _condition_heading(rows: Sequence[object], known: Sequence[tuple[str, float]], shown: int) -> str:
    counts = [f"{sum(v > bound for _, v in known)} above {power(bound)}" for bound, _ in reversed(_CONDITION)]
    singular = sum(math.isinf(v) for _, v in known)
    counts += [f"{singular} singular"] if singular else []
    counts += [f"{len(rows) - len(known)} n/a"] if len(rows) > len(known) else []
    which = (
        f"the {shown} largest of {len(known)} condition numbers" if shown < len(known) else f"{shown} condition numbers"
    )
    order = ", largest first" if shown > 1 else ""
    return f"{which}{order}: {', '.join(counts)}"


def _condition_colour(value: float) -> str:
    return LEVEL_COLOURS[next((level for bound, level in _CONDITION if value > bound), "fine")]


def _condition_legend(canvas: Canvas, y: float) -> None:
    x = MARGIN
    for level, text in (
        ("fine", "up to 1000"),
        ("info", "above 1000: info"),
        ("warning", "above 1e4: warning"),
        ("critical", "above 1e5: critical"),
    ):
        canvas.rectangle(x, y - 0.05, 0.1, 0.1, LEVEL_COLOURS[level])
        canvas.text(x + 0.15, y, text, 7.5)
        x += 0.35 + text_width(text, 7.5)
    canvas.rectangle(x, y - 0.05, 0.1, 0.1, "#f6cdb5", "//////")
    canvas.text(x + 0.15, y, "singular", 7.5)


def _risk(point: tuple[str, float, float]) -> float:
    """How far a point is beyond the zone of int8 per tensor, in decades of outliers or steps of 10 dB; 0 inside."""
    _, outliers, sqnr = point
    return max(math.log10(outliers / 0.1) if outliers > 0 else 0.0, (40.0 - max(sqnr, -1e3)) / 10, 0.0)


def _risk_frame(canvas: Canvas, known: Sequence[tuple[str, float, float]], height: float) -> Frame:
    finite = [y for _, _, y in known if math.isfinite(y)]
    low = min([20.0, *(10 * math.floor(y / 10) for y in finite)])
    high = max([50.0, *(10 * math.ceil(y / 10 + 0.05) for y in finite)])
    # one decade more than the smallest share, as the place of zero
    x = log_scale([p[1] for p in known], lowest=0.001, highest=100.0)
    x = Scale(max(x.low, 1e-6) / 10, 100.0, log=True)
    left, bottom_space = 0.75, 0.62 + (height - 5.75)
    return Frame(
        canvas, left, bottom_space, canvas.width - left - 0.35, height - bottom_space - 0.8, x, Scale(low, high)
    )


def _beyond_zero(outliers: float, frame: Frame) -> float:
    return frame.x.low if outliers <= 0 else outliers


def _zones(frame: Frame) -> None:
    canvas = frame.canvas
    for colour, x0, x1, y0, y1 in _ZONES:
        left, bottom = frame.at(max(x0, frame.x.low), max(y0, frame.y.low))
        right, top = frame.at(min(x1, frame.x.high), min(y1, frame.y.high))
        canvas.rectangle(left, bottom, right - left, top - bottom, colour)
    for text, colour, start in _ZONE_NAMES:
        x, y = frame.at(max(start, frame.x.low), frame.y.high)
        canvas.text(x + 0.08, y - 0.12, text, _ZONE_SIZE, colour=colour)
    for bound in (0.1, 1.0, 10.0):
        frame.vertical(bound, "#ffffff", 1.2)
    for level in (30.0, 40.0):
        frame.horizontal(level, "#ffffff", 1.2)
    right = frame.left + frame.width - 0.08
    for level, text in ((40.0, "40 dB"), (30.0, "30 dB")):
        canvas.text(right, frame.at(frame.x.low, level)[1] - 0.1, text, 7, align="right", colour="#8a3d00")


def _y_labels(frame: Frame) -> None:
    for tick in round_ticks(frame.y.low, frame.y.high, 8):
        y = frame.at(frame.x.low, tick)[1]
        frame.canvas.line((frame.left, y), (frame.left - 0.03, y), AXIS, 0.8)
        frame.canvas.text(frame.left - 0.07, y, f"{tick:g}", 7.5, align="right")
    middle = frame.bottom + frame.height / 2
    frame.canvas.text(0.22, middle, "SQNR in int8 per tensor (dB)", 8.5, align="centre", angle=90)


def _number_points(
    frame: Frame, worst: Sequence[tuple[str, float, float]], known: Sequence[tuple[str, float, float]]
) -> None:
    """A number beside each of the worst points, where it covers neither another number nor a point, with a leader."""
    positions = [frame.at(_beyond_zero(x, frame), y) for _, x, y in known]
    crowd = [(x - 0.04, y - 0.04, x + 0.04, y + 0.04) for x, y in positions]
    taken = list(_fixed_texts(frame))
    for number, (_, outliers, sqnr) in enumerate(worst, 1):
        x, y = frame.at(_beyond_zero(outliers, frame), sqnr)
        text = str(number)
        half, rise = text_width(text, _NUMBER_SIZE) / 2 + 0.02, 0.5 * _NUMBER_SIZE / 72
        spots = [
            (x + r * math.cos(math.pi * k / 8), y + r * math.sin(math.pi * k / 8))
            for r in (0.12, 0.18, 0.26, 0.36, 0.5, 0.7, 0.95, 1.25)
            for k in range(16)
        ]
        boxes = [(cx - half, cy - rise, cx + half, cy + rise) for cx, cy in spots]
        free = [box for box in boxes if _inside(box, frame) and not any(_touch(box, other) for other in taken)]
        clear = next((box for box in free if not any(_touch(box, other) for other in crowd)), None)
        box = clear or (free[0] if free else None)
        if box is None:
            continue  # it is named under the picture all the same
        taken.append(box)
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        away = math.hypot(cx - x, cy - y)
        if away > 0.15:
            reach = 1 - 0.08 / away
            frame.canvas.line((x, y), (x + (cx - x) * reach, y + (cy - y) * reach), AXIS, 0.6)
        marker(frame.canvas, x, y, 0.075, LEVEL_COLOURS["critical"])
        frame.canvas.text(cx, cy, text, _NUMBER_SIZE, align="centre")


def _fixed_texts(frame: Frame) -> list[Box]:
    boxes = []
    for text, _, start in _ZONE_NAMES:
        x, y = frame.at(max(start, frame.x.low), frame.y.high)
        boxes.append((x, y - 0.22, x + 0.12 + text_width(text, _ZONE_SIZE), y))
    right = frame.left + frame.width
    for level in (30.0, 40.0):
        y = frame.at(frame.x.low, level)[1]
        boxes.append((right - 0.5, y - 0.2, right, y))
    return boxes


def _inside(box: Box, frame: Frame) -> bool:
    return (
        box[0] > frame.left
        and box[1] > frame.bottom
        and box[2] < frame.left + frame.width
        and box[3] < frame.bottom + frame.height
    )


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _name_points(canvas: Canvas, worst: Sequence[tuple[str, float, float]], top: float) -> None:
    if not worst:
        return
    canvas.text(MARGIN, top, "furthest from int8 per tensor", 8, colour=FAINT)
    canvas.text(canvas.width - 1.35, top, "extreme outliers", 7.5, align="right", colour=FAINT)
    canvas.text(canvas.width - MARGIN, top, "SQNR", 7.5, align="right", colour=FAINT)
    names = fit_all([name for name, _, _ in worst], canvas.width - 3.2, 8)
    for number, (name, (_, outliers, sqnr)) in enumerate(zip(names, worst, strict=True), 1):
        y = top - 0.2 * number
        canvas.text(MARGIN + 0.15, y, str(number), 8, align="right")
        canvas.text(MARGIN + 0.25, y, name, 8)
        canvas.text(canvas.width - 1.35, y, f"{outliers:.3g}%", 8, align="right")
        canvas.text(canvas.width - MARGIN, y, f"{sqnr:.1f} dB", 8, align="right")
