"""The small form of a section, for notebooks: markup without scripts, every text of it escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite, log10
from statistics import median
from typing import Any

from netweight.errors import printable
from netweight.page.section import Section

__all__ = ["small_form"]

_LINES, _ROWS, _LAYERS, _ROLES = 12, 10, 200, 40
_STOPS = ((68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37))
_CELL = "padding:0;width:1.4em;height:1em;border:1px solid transparent"


def small_form(section: Section) -> str:
    """Its card, the map of its first metric, its first tables, and the first rows by its order."""
    parts = [f"<p><b>{_text(section.title)}</b></p>", _table(("", ""), section.card[:_LINES])]
    parts += [f"<p>{_text(note)}</p>" for note in section.notes[:_LINES]]
    at = {column.name: i for i, column in enumerate(section.columns)}
    rows = [row for row in section.rows if not section.models or row[at["model"]] == section.models[0]]
    if section.metrics and rows:
        parts.append(_map(section, rows, at))
    for table in section.tables[:1]:
        parts += [f"<p>{_text(table.title)}</p>", _table(table.headings, table.rows[:_ROWS])]
    shown = [name for name in section.shown if name in at]
    if section.order in at:
        held = at[section.order]
        rows = sorted(rows, key=lambda row: (row[held] is None, -(row[held] or 0)))
    if rows:
        parts.append(_table(shown, [[_said(row[at[name]]) for name in shown] for row in rows[:_ROWS]]))
    left = len(section.rows) - min(len(rows), _ROWS)
    return "".join(parts) + (f"<p>{left} more rows; .report('page.html') has all</p>" if left > 0 else "")


def _map(section: Section, rows: Sequence[Sequence[Any]], at: dict[str, int]) -> str:
    """Layers by roles in colours, the middle of what shares a cell; by orders of magnitude where values are."""
    metric = section.metrics[0]
    cells: dict[tuple[Any, Any], list[float]] = {}
    for row in rows:
        value = row[at[metric]]
        if value is not None and isfinite(value):
            cells.setdefault((row[at["layer"]], row[at["role"]]), []).append(value)
    if not cells:
        return ""
    layers = sorted({layer for layer, _ in cells}, key=lambda layer: (layer is None, layer or 0))[:_LAYERS]
    roles = list(dict.fromkeys(role for _, role in cells))[:_ROLES]
    values = {key: median(held) for key, held in cells.items()}
    low, high = min(values.values()), max(values.values())
    orders = low > 0 and high / low > 1000
    lines = []
    for layer in layers:
        drawn = [_cell(values.get((layer, role)), low, high, orders=orders, where=f"{layer} {role}") for role in roles]
        lines.append(f"<tr><th>{'' if layer is None else layer}</th>{''.join(drawn)}</tr>")
    head = "".join(f'<th style="writing-mode:vertical-rl">{_text(role)}</th>' for role in roles)
    scale = f"{metric}: {low:.6g} to {high:.6g}{', colours by orders of magnitude' * orders}"
    return f"<p>{_text(scale)}</p><table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _cell(value: float | None, low: float, high: float, *, orders: bool, where: str) -> str:
    if value is None:
        return f'<td style="{_CELL}"></td>'
    part, whole = (log10(value / low), log10(high / low)) if orders else (value - low, high - low)
    place = part / whole * (len(_STOPS) - 1) if whole else 0.0
    first = min(int(place), len(_STOPS) - 2)
    rgb = (round(a + (place - first) * (b - a)) for a, b in zip(_STOPS[first], _STOPS[first + 1], strict=True))
    colour = ",".join(map(str, rgb))
    return f'<td style="{_CELL};background:rgb({colour})" title="{_text(where)}: {value:.6g}"></td>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings) if any(headings) else ""
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _said(cell: Any) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _text(text: object) -> str:
    return escape(printable(str(text)), quote=True)
