"""Tables that fit the console: numbers stand whole or not at all, names are shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from netweight.views.console import gap_sign, print_trimmed
from netweight.views.short_names import cells, shorten_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Column", "labels", "left_out_line", "name", "numbers", "print_pairs", "print_table", "text"]

_GAP = 2  # columns between two of the table
_LEAST_NAME, _MOST_NAME = 12, 28  # of a console of 36 and less, of 84 and more, columns
_LEAST_TEXT = 12
_LAST = 4  # what a name keeps where not even one column beside it fits


@dataclass(frozen=True)
class Column:
    """A column by its heading: `whole` is never cut, `name` is shortened, `text` folded. Where there is no room, those
    that do not `stay` are left out, the last one first.
    """

    heading: str
    kind: Literal["whole", "name", "text"] = "whole"
    right: bool = False
    stays: bool = False


def name(heading: str) -> Column:
    """A column of names."""
    return Column(heading, "name", stays=True)


def text(heading: str, *, right: bool = False, stays: bool = True) -> Column:
    """A column of words."""
    return Column(heading, "text", right, stays)


def labels(*headings: str) -> list[Column]:
    """Columns of words that are short enough to stand whole."""
    return [Column(heading) for heading in headings]


def numbers(*headings: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(heading, right=True) for heading in headings]


def print_table(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], *, header: str = "bold"
) -> None:
    """Print `rows` under the headings of `columns`, and below them a line that names the columns left out."""
    from rich.table import Table
    from rich.text import Text

    plain = [[cell if isinstance(cell, str) else cell.plain for cell in row] for row in rows]
    natural = [max(cells(c.heading), *(cells(row[i]) for row in plain), 0) for i, c in enumerate(columns)]
    widths = _widths(columns, natural, console.width)
    cut: dict[int, list[str]] = {}
    for i in [i for i in widths if columns[i].kind == "name"]:
        cut[i] = shorten_names([row[i] for row in plain], widths[i], gap_sign(console))
        widths[i] = min(widths[i], max(map(cells, (columns[i].heading, *cut[i]))))
    table = Table(box=None, pad_edge=False, header_style=header, width=sum(widths.values()) + _GAP * (len(widths) - 1))
    shown: list[Sequence[str | Text]] = []
    for i, width in widths.items():
        column = columns[i]
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            width=width,
            no_wrap=column.kind == "whole",
            overflow="fold",
        )
        shown.append(cut[i] if i in cut else [row[i] for row in rows])
    for row in zip(*shown, strict=True):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    print_trimmed(console, table, table.width or 0)
    lost = [column.heading for i, column in enumerate(columns) if i not in widths]
    if lost:
        print_trimmed(console, Text(left_out_line(lost), style="dim"))


def left_out_line(headings: Sequence[str]) -> str:
    """What a table says of the columns that it has no room for."""
    count = f"{len(headings)} column{'s' * (len(headings) != 1)}"
    return f"{count} left out for want of room: {', '.join(headings)}; a wider terminal or --format json shows them"


def print_pairs(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print values beside their labels, folded where they are long."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, Text(value))
    print_trimmed(console, table)


def _widths(columns: Sequence[Column], natural: Sequence[int], room: int) -> dict[int, int]:
    """{number of a column that is shown: its width}; more than `room` only where one whole column is wider."""
    least_name = max(_LEAST_NAME, min(_MOST_NAME, room // 3))
    least = {"name": least_name, "text": _LEAST_TEXT}
    widths = {i: min(natural[i], least.get(c.kind, natural[i])) for i, c in enumerate(columns)}
    leaving = [i for i in widths if not columns[i].stays]
    while (over := sum(widths.values()) + _GAP * (len(widths) - 1) - room) > 0 and len(leaving) > 1:
        del widths[leaving.pop()]
    spare = -over
    for kind in ("name", "text"):
        for i in [i for i in widths if columns[i].kind == kind]:
            width = min(natural[i], max(_LAST, widths[i] + spare))
            spare -= width - widths[i]
            widths[i] = width
    return widths
