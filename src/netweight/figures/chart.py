"""Scales, frames, ticks and labels of the pictures that have axes, drawn on a Canvas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from netweight.figures.canvas import Canvas, drawable, text_width
from netweight.figures.labels import distinct_short, fit

__all__ = [
    "AXIS",
    "BLUE",
    "FAINT",
    "GREEN",
    "GRID",
    "LEVEL_COLOURS",
    "MARGIN",
    "ORANGE",
    "PURPLE",
    "RGB",
    "SKY",
    "TITLE",
    "UNDEFINED",
    "VERMILION",
    "Frame",
    "Scale",
    "decades",
    "fit_all",
    "fitted",
    "headline",
    "is_dark",
    "label_every",
    "layer_text",
    "log_scale",
    "mark_key",
    "marker",
    "palette_colour",
    "power",
    "raised",
    "round_ticks",
    "scientific",
    "x_ticks",
    "y_ticks",
]

# Okabe and Ito's palette: told apart by everyone.
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
VERMILION, PURPLE = "#D55E00", "#CC79A7"
LEVEL_COLOURS = {"critical": VERMILION, "warning": ORANGE, "info": SKY, "fine": GREEN}
UNDEFINED = "#d9d9d9"
GRID, AXIS, FAINT = "#dddddd", "#666666", "#333333"
MARGIN = 0.2
TITLE = 11.0


RGB: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class Scale:
    """A line from `low` to `high`, linear or logarithmic (then both are positive)."""

    low: float
    high: float
    log: bool = False

    def position(self, value: float) -> float:
        """The position of `value`, 0 at `low` and 1 at `high`; values beyond the ends are at the ends."""
        if value >= self.high or value <= self.low:
            return float(value >= self.high)
        if self.log:
            low = math.log10(self.low)
            return (math.log10(value) - low) / (math.log10(self.high) - low)
        return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)  # halves: the span may exceed float64


@dataclass(frozen=True)
class Frame:
    """A panel of `width` x `height` inches on a canvas, with a scale along each side."""

    canvas: Canvas
    left: float
    bottom: float
    width: float
    height: float
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The position of a value on the canvas."""
        return self.left + self.width * self.x.position(x), self.bottom + self.height * self.y.position(y)

    def vertical(self, x: float, colour: str, points: float) -> None:
        """A line through the whole panel."""
        at = self.left + self.width * self.x.position(x)
        self.canvas.line((at, self.bottom), (at, self.bottom + self.height), colour, points)

    def mark(self, x: float, colour: str, dash: float = 0.0) -> None:
        """A line through the whole panel, in dashes of `dash` inches, solid for 0."""
        at = self.left + self.width * self.x.position(x)
        top = self.bottom + self.height
        start = self.bottom
        while start < top:
            end = min(top, start + dash) if dash else top
            self.canvas.line((at, start), (at, end), colour, 1.3)
            start = end + 0.6 * dash if dash else top

    def horizontal(self, y: float, colour: str, points: float) -> None:
        """A line through the whole panel."""
        at = self.bottom + self.height * self.y.position(y)
        self.canvas.line((self.left, at), (self.left + self.width, at), colour, points)

    def axes(self) -> None:
        """The left and the lower edge."""
        self.canvas.line((self.left, self.bottom), (self.left + self.width, self.bottom), AXIS, 0.8)
        self.canvas.line((self.left, self.bottom), (self.left, self.bottom + self.height), AXIS, 0.8)


def log_scale(values: Iterable[float], *, lowest: float | None = None, highest: float | None = None) -> Scale:
    """Whole decades around the positive finite values, and around `lowest` and `highest`; 1 to 10 without any."""
    known = [v for v in (*values, lowest, highest) if v is not None and math.isfinite(v) and v > 0]
    if not known:
        return Scale(1.0, 10.0, log=True)
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    first, last = max(first, -300), min(max(last, first + 1), 307)
    return Scale(10.0**first, 10.0**last, log=True)


def raised(scale: Scale) -> Scale:
    """A logarithmic scale that begins at half of its lowest value, so that a bar of this value is seen."""
    return Scale(scale.low / 2, scale.high, log=True)


def decades(scale: Scale, most: int) -> list[float]:
    """Powers of ten on a logarithmic scale, at most `most` + 1."""
    first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
    step = max(1, math.ceil((last - first) / most))
    return [10.0**k for k in range(first, last + 1, step)]


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1; empty where the span is not a positive number."""
    span = high - low
    if not math.isfinite(span) or span <= max(abs(low), abs(high)) * 1e-12 or span < 1e-290:
        return []
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(unit * part for part in (1.0, 2.0, 2.5, 5.0, 10.0) if span / (unit * part) <= most * (1 + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def power(value: float) -> str:
    """A power of ten as a label: 0.01, 1, 1000, 1e6."""
    exponent = round(math.log10(value))
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"1e{exponent}"


def scientific(value: float) -> str:
    """Three figures, large and small numbers by a power of ten: 7.63, 603, 2.73e4, 1.20e-5."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 0.001 <= abs(value) < 999.5:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def x_ticks(frame: Frame, ticks: Sequence[tuple[float, str]], size: float = 7.5) -> None:
    """Grid lines, and a label under each tick; labels that would touch the one before are left out."""
    free = -math.inf
    for value, text in ticks:
        x = frame.at(value, frame.y.low)[0]
        frame.canvas.line((x, frame.bottom), (x, frame.bottom + frame.height), GRID, 0.6)
        half = text_width(text, size) / 2
        if x - half >= free:
            frame.canvas.line((x, frame.bottom), (x, frame.bottom - 0.03), AXIS, 0.8)
            frame.canvas.text(x, frame.bottom - 0.12, text, size, align="centre")
            free = x + half + 0.06


def y_ticks(frame: Frame, ticks: Sequence[tuple[float, str]], size: float = 7.5) -> None:
    """Grid lines, and a label left of each tick; labels that would touch the one before are left out."""
    free = -math.inf
    for value, text in ticks:
        y = frame.at(frame.x.low, value)[1]
        frame.canvas.line((frame.left, y), (frame.left + frame.width, y), GRID, 0.6)
        if y - 0.5 * size / 72 >= free:
            frame.canvas.line((frame.left, y), (frame.left - 0.03, y), AXIS, 0.8)
            frame.canvas.text(frame.left - 0.07, y, text, size, align="right")
            free = y + 0.5 * size / 72 + 0.02


def label_every(labels: Sequence[str], step: float, size: float) -> int:
    """Every how many of `labels`, `step` inches apart, one can be drawn without touching the next."""
    room = max((text_width(label, size) for label in labels), default=0.0) + 0.08
    return next((k for k in (1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 50) if k * step >= room), max(1, len(labels)))


def headline(canvas: Canvas, title: str, under: str = "") -> None:
    """The title at the top, cut to the picture's width, and a smaller line under it."""
    canvas.text(MARGIN, canvas.height - 0.28, fitted(title, canvas.width - 2 * MARGIN, TITLE), TITLE)
    if under:
        canvas.text(MARGIN, canvas.height - 0.52, fitted(under, canvas.width - 2 * MARGIN, 8.5), 8.5, colour=FAINT)


def fitted(text: str, width: float, size: float) -> str:
    """`text` as it can be drawn, cut in the middle to `width` inches."""
    return fit(drawable(text), width, lambda cut: text_width(cut, size))


def fit_all(names: Sequence[str], width: float, size: float) -> list[str]:
    """Names cut in the middle to about `width` inches, still told apart; those that still differ only beyond it are
    numbered.
    """
    seen = [drawable(name) for name in names]
    limit = max((len(name) for name in seen), default=3)
    while limit > 12 and max(text_width(name, size) for name in distinct_short(seen, limit)) > width:
        limit -= 1
    short = [fit(name, width, lambda cut: text_width(cut, size)) for name in distinct_short(seen, limit)]
    if len(set(short)) == len(set(seen)):
        return short
    numbers = {name: str(number + 1) for number, name in enumerate(dict.fromkeys(seen))}
    return [
        f"{numbers[name]} {fit(name, width - text_width('000 ', size), lambda cut: text_width(cut, size))}"
        for name in seen
    ]


def mark_key(canvas: Canvas, top: float, entries: Sequence[tuple[str, str, float]]) -> float:
    """A key of marks (text, colour, dash), in as many lines as it takes from `top` down; the height it took."""
    x, line = MARGIN, 0
    for text, colour, dash in entries:
        shown = fitted(text, canvas.width - 2 * MARGIN - 0.4, 7.5)
        wide = 0.38 + text_width(shown, 7.5)
        if x > MARGIN and x + wide > canvas.width - MARGIN:
            x, line = MARGIN, line + 1
        y = top - 0.18 * line
        start = x
        while start < x + 0.28:
            end = min(x + 0.28, start + dash) if dash else x + 0.28
            canvas.line((start, y), (end, y), colour, 1.6)
            start = end + 0.6 * dash if dash else x + 0.28
        canvas.text(x + 0.34, y, shown, 7.5)
        x += wide + 0.25
    return 0.18 * (line + 1) if entries else 0.0


def palette_colour(palette: Sequence[RGB], share: float) -> RGB:
    """The colour at `share` of a palette, 0 its first and 1 its last colour, neighbours mixed."""
    position = min(1.0, max(0.0, share)) * (len(palette) - 1)
    low = min(int(position), len(palette) - 2)
    part = position - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(palette[low], palette[low + 1], strict=True))
    return red, green, blue


def is_dark(colour: RGB) -> bool:
    """Whether text on this colour must be white, by the luma of ITU-R BT.601."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def layer_text(label: str) -> str:
    """`layer_3` as `3`, `encoder.layer_3` as `encoder 3`; anything else as it is."""
    stack, _, number = label.rpartition("layer_")
    if not number.isdigit():
        return drawable(label)
    return drawable(f"{stack.rstrip('.')} {number}".strip())


def marker(
    canvas: Canvas, x: float, y: float, size: float, colour: str, shape: Literal["square", "ring"] = "square"
) -> None:
    """A point: a square with a white rim, or an empty one."""
    half = size / 2
    canvas.rectangle(x - half - 0.01, y - half - 0.01, size + 0.02, size + 0.02, "#ffffff")
    canvas.rectangle(x - half, y - half, size, size, colour)
    if shape == "ring":
        canvas.rectangle(x - half + 0.015, y - half + 0.015, size - 0.03, size - 0.03, "#ffffff")
