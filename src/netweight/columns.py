"""A field of a table: its name, unit, definition and the type of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "ColumnType"]

ColumnType = Literal["text", "integer", "number", "boolean", "integers", "numbers", "matrix"]
"""What a column's cells hold: `integers` is a list of int (a shape), `numbers` of float, `matrix` a list of those."""


@dataclass(frozen=True)
class Column:
    """A field of a table: `name` as written, `unit` ("" for none), `doc` its definition, `type` of its cells."""

    name: str
    unit: str
    doc: str
    type: ColumnType
