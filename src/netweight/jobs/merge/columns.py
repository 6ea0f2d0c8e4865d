"""The columns of the table of a merge: a row for each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.columns import Column
from netweight.output.table import Row

__all__ = ["COLUMNS", "cells"]

COLUMNS = (
    Column("param", "", "the parameter's name in the merged model", "text"),
    Column("shape", "", "its shape", "integers"),
    Column("dtype", "", "its element type", "text"),
    Column("elements", "elements", "elements of the parameter", "integer"),
    Column("layer", "", "number of its block, empty outside the blocks", "integer"),
    Column("method", "", "the merge method, empty where it was copied", "text"),
    Column("file", "", "the file that holds it", "text"),
    Column("nonfinite", "elements", "NaN and infinities in it", "integer"),
    Column("digest", "", "XXH3-128 of its bytes, by stretches", "text"),
)


def cells(name: str, parameter: Mapping[str, Any]) -> Row:
    """The row of a parameter, from its entry in the record."""
    return (name, *(parameter[column.name] for column in COLUMNS[1:]))
