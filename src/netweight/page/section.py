"""What a page shows of one result: a table with its columns, and what belongs to its kind."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netweight.columns import Column

__all__ = ["Section"]

_NOTHING = 0xFFFFFFFF
_MOST = 13 << 20  # characters of all cells
_EXACT = 1 << 53  # beyond, a float64 does not hold every whole number


@dataclass(frozen=True)
class Section:
    """One result. `rows` have a cell for each of `columns`, None where there is no value.

    `card` is what it is of, in lines of (what, value); `skipped` what was left out, with reasons. `name_column` holds
    the rows' names, `shown` the columns that the table begins with, `metrics` those that the map can show, the first
    one at once. `models` are the values of a column `model`, which are looked at one at a time. `groups`: by model, a
    picture of sums: {"model", "names", "values"}; `cosines`: {"names", "values"}, a square. `findings` lead to rows:
    (level, the row's name, what was found, what to do), worst first.
    """

    kind: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    name_column: str
    card: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    skipped: Sequence[tuple[str, str]] = ()
    shown: Sequence[str] = ()
    metrics: Sequence[str] = ()
    models: Sequence[str] = ()
    findings: Sequence[tuple[str, str, str, str]] = ()
    groups: Sequence[Mapping[str, Any]] = ()
    cosines: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """As the page's data.js reads it. Columns without any value are left out, and of a table that is too large for
        a page those that come last: a note says which.
        """
        columns, left_out = self._columns()
        known = {column["name"] for column in columns}
        notes = list(self.notes)
        if left_out:
            notes.append(
                f"{len(left_out)} columns are left out, with which this page would be larger than {_MOST >> 20} MB:"
                f" {', '.join(left_out)}"
            )
        return {
            "kind": self.kind,
            "title": self.title,
            "card": [list(line) for line in self.card],
            "notes": notes,
            "skipped": [list(line) for line in self.skipped],
            "rows": len(self.rows),
            "columns": columns,
            "name_column": self.name_column,
            "shown": [name for name in self.shown if name in known],
            "metrics": [name for name in self.metrics if name in known],
            "models": list(self.models),
            "findings": [list(finding) for finding in self.findings],
            "groups": [dict(group) for group in self.groups],
            "cosines": None if self.cosines is None else dict(self.cosines),
        }

    def _columns(self) -> tuple[list[dict[str, Any]], list[str]]:
        """(columns in their order, names of those that were left out)"""
        always = (self.name_column, "layer", "role", "model")
        order = {name: at for at, name in enumerate((*always, *self.shown, *self.metrics))}
        made: dict[int, dict[str, Any]] = {}
        left_out, size = [], 0
        for at, c in sorted(enumerate(self.columns), key=lambda held: order.get(held[1].name, len(order))):
            cells = [row[at] for row in self.rows]
            if c.name not in always and all(cell is None for cell in cells):
                continue
            about: dict[str, Any] = {"name": c.name, "unit": c.unit, "doc": c.doc, "type": c.type}
            column = about | _encoded(cells)
            size += sum(len(column.get(key) or "") for key in ("numbers", "at")) + sum(
                map(len, column.get("texts") or ())
            )
            if size > _MOST and c.name not in always:
                left_out.append(c.name)
            else:
                made[at] = column
        return [made[at] for at in sorted(made)], left_out


def _encoded(cells: Sequence[Any]) -> dict[str, Any]:
    """The cells of one column: base64 of float64 with NaN for None, or the texts that occur and where."""
    if all(cell is None or _is_number(cell) for cell in cells) and any(cell is not None for cell in cells):
        values = np.array([np.nan if cell is None else cell for cell in cells], "<f8")
        return {"numbers": base64.b64encode(values.tobytes()).decode()}
    texts: dict[str, int] = {}
    at = [_NOTHING if cell is None else texts.setdefault(_text(cell), len(texts)) for cell in cells]
    return {"texts": list(texts), "at": base64.b64encode(np.array(at, "<u4").tobytes()).decode()}


def _is_number(cell: Any) -> bool:
    return (isinstance(cell, float) and cell == cell) or (type(cell) is int and abs(cell) <= _EXACT)  # noqa: PLR0124


def _text(cell: Any) -> str:
    """A text as it is; lists, flags and numbers that float64 cannot hold as JSON has them."""
    return cell if isinstance(cell, str) else json.dumps(cell, allow_nan=True)
