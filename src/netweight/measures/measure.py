"""What a measure declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netweight.columns import Column

__all__ = ["Measure"]


@dataclass(frozen=True)
class Measure:
    """One row of the registry: a pure function from statistics to declared columns. `name` is also its file's.

    `needs` names the statistics that must be gathered; `derive` makes {field: value} of them. The rest is for measures
    of a scan. `takes`: which of "values", "channels" and "spectrum" `derive` is given, in order. `compared`: what
    `compare` says of two models, each a column with `_diff` (b - a) or `_ratio` (b / a) behind its name. `axes`: pairs
    of fields, one of rows and one of columns, which change places where a matrix is measured as a transpose. `shown`:
    the columns that a terminal shows where no view has a form for this measure; empty: the first column of numbers.
    """

    name: str
    doc: str
    needs: frozenset[str]
    columns: tuple[Column, ...]
    derive: Callable[..., Mapping[str, Any]]
    takes: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    axes: tuple[tuple[str, str], ...] = ()
    shown: tuple[str, ...] = ()

    def shown_columns(self) -> tuple[str, ...]:
        """The columns that a terminal shows where no view has a form for this measure."""
        flat = (column for column in self.columns if "." not in column.name)  # the others are inside mappings
        numbers = [column.name for column in flat if column.type in ("integer", "number")]
        return self.shown or tuple(numbers[:1])
