"""What a page shows of one result: a table with its columns, and what belongs to its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netweight.columns import Column
from netweight.page.encoding import encoded, encoded_lists, size_of

__all__ = ["Bars", "Branch", "Section", "Square", "Table"]

_MOST = 13 << 20  # characters of all cells


@dataclass(frozen=True)
class Bars:
    """A picture of numbers by name, under `title`; of one value of the column `model`, or (None) whatever is looked
    at.
    """

    title: str
    names: Sequence[str]
    values: Sequence[float | None]
    model: str | None = None


@dataclass(frozen=True)
class Square:
    """A picture of numbers between -1 and 1, `values[i][j]` of names i and j, None where there is none."""

    title: str
    names: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Table:
    """A table as text, under `title`; of one model, as Bars."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    model: str | None = None


@dataclass(frozen=True)
class Branch:
    """One line of a tree: `name`, and of the edge to it `label`, `details` (what, value) and a table of `rows`, the
    first of which are headings; "" and none of a root. `below` are the branches from it.
    """

    name: str
    label: str = ""
    details: Sequence[tuple[str, str]] = ()
    rows: Sequence[Sequence[str]] = ()
    below: Sequence[Branch] = ()

    def to_json(self) -> dict[str, Any]:
        """As the page's tree.js reads it."""
        held = vars(self) | {"details": [list(line) for line in self.details]}
        return held | {"rows": [list(row) for row in self.rows], "below": [one.to_json() for one in self.below]}


@dataclass(frozen=True)
class Section:
    """One result. `rows` have a cell for each of `columns`, None where there is no value.

    `card` is what it is of, in lines of (what, value); `skipped` what was left out, with reasons. `name_column` holds
    the rows' names, `shown` the columns that the table begins with, `metrics` those that the map can show, the first
    one at once, and `against` two of them that are set against each other; `order`: the column by which the table is
    sorted at first, the largest first. `models` are the values of a column `model`, which are looked at one at a time;
    `stacks` the towers (encoder, decoder) of the rows, none where there is one. `pictures`: by name, a list of numbers
    for each row, for the drawer: "histogram.edges", "histogram.counts", "singular_values.ranks" and
    "singular_values.values". `bars`, `square`, `tables` and `tree` belong to the kind. `findings` lead to rows:
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
    against: Sequence[str] = ()
    order: str | None = None
    models: Sequence[str] = ()
    stacks: Sequence[str] = ()
    findings: Sequence[tuple[str, str, str, str]] = ()
    pictures: Mapping[str, Sequence[Sequence[float] | None]] = field(default_factory=dict)
    bars: Sequence[Bars] = ()
    square: Square | None = None
    tables: Sequence[Table] = ()
    tree: Sequence[Branch] = ()

    def to_json(self) -> dict[str, Any]:
        """As the page's data.js reads it. Columns without any value are left out, and of a table that is too large for
        a page those that come last: a note says which.
        """
        columns, left_out, size = self._columns()
        known = {column["name"] for column in columns}
        notes = list(self.notes)
        if left_out:
            notes.append(
                f"{len(left_out)} columns are left out, with which this page would be larger than {_MOST >> 20} MB:"
                f" {', '.join(left_out)}"
            )
        pictures, without = self._pictures(_MOST - size)
        if without:
            notes.append(
                f"histograms and spectra of {without} of {len(self.rows)} rows are left out, with which this page would"
                f" be larger than {_MOST >> 20} MB"
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
            "order": self.order if self.order in known else None,
            "against": list(self.against) if set(self.against) <= known else [],
            "models": list(self.models),
            "stacks": encoded(self.stacks) if self.stacks else None,
            "findings": [list(finding) for finding in self.findings],
            "pictures": pictures,
            "bars": [vars(one) for one in self.bars],
            "square": None if self.square is None else vars(self.square),
            "tables": [vars(one) for one in self.tables],
            "tree": [one.to_json() for one in self.tree],
        }

    def _columns(self) -> tuple[list[dict[str, Any]], list[str], int]:
        """(columns in their order, names of those that were left out, characters)"""
        always = (self.name_column, "layer", "role", "model")
        order = {name: at for at, name in enumerate((*always, *self.shown, *self.metrics))}
        made: dict[int, dict[str, Any]] = {}
        left_out, size = [], 0
        for at, c in sorted(enumerate(self.columns), key=lambda held: order.get(held[1].name, len(order))):
            cells = [row[at] for row in self.rows]
            if c.name not in always and all(cell is None for cell in cells):
                continue
            about: dict[str, Any] = {"name": c.name, "unit": c.unit, "doc": c.doc, "type": c.type}
            column = about | encoded(cells)
            if size + size_of(column) > _MOST and c.name not in always:
                left_out.append(c.name)
            else:
                size += size_of(column)
                made[at] = column
        return [made[at] for at in sorted(made)], left_out, size

    def _pictures(self, room: int) -> tuple[dict[str, Any], int]:
        """(the pictures of as many rows as there is `room` for, those of most elements first; how many have none)"""
        held = [at for at in range(len(self.rows)) if any(lists[at] for lists in self.pictures.values())]
        if not held:
            return {}, 0
        sizes = next((at for at, c in enumerate(self.columns) if c.name == "elements"), None)
        if sizes is not None:
            held.sort(key=lambda at: -(self.rows[at][sizes] or 0))
        kept, used = set(), 4 * 6 * len(self.rows)
        for at in held:
            used += sum(11 * len(lists[at] or ()) for lists in self.pictures.values())
            if used > room:
                break
            kept.add(at)
        every = range(len(self.rows))
        found = {
            name: encoded_lists([lists[at] if at in kept else None for at in every])
            for name, lists in self.pictures.items()
        }
        return found, len(held) - len(kept)
