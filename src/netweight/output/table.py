"""Rows to CSV, JSON and Parquet: exact field names, exact floats, names from a checkpoint treated as hostile text."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from netweight.columns import Column
from netweight.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SCHEMA_VERSION",
    "Row",
    "arrow_table",
    "csv_text",
    "json_number",
    "write_csv",
    "write_csv_to",
    "write_json",
    "write_parquet",
]

SCHEMA_VERSION = 1
"""The version of netweight's tables, in the Parquet metadata: raised when a column's meaning changes."""

Row = Sequence[Any]
"""One row: a cell for each column, in order; None where there is no value."""

_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}  # controls, lone surrogates, line and paragraph separators
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(text: str) -> str:
    r"""`text` as a CSV cell that stays on one line and that no spreadsheet takes for a formula.

    Control characters, line separators and lone surrogates are written as escapes (`\n`, `\x1b`, `\udc80`); a
    leading `=`, `+`, `-`, `@`, tab or carriage return gets an apostrophe in front of it.
    """
    if text.isascii() and text.isprintable() and not text.startswith(_FORMULA):
        return text
    clean = "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) in _ESCAPED else c for c in text
    )
    return "'" + clean if text.startswith(_FORMULA) else clean


def json_number(value: float | None) -> float | None:
    """`value` as a float, or None where JSON has no such number (NaN, infinities) or there is no value."""
    return None if value is None or not math.isfinite(value) else float(value)


def write_csv(path: Path, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    r"""Write a CSV: UTF-8, `\n` line ends, floats as the shortest text that reads back exactly, None and NaN empty.

    Text cells and the header go through `csv_text`; lists are written as JSON. Raises ValueError for a row of the wrong
    length, OSError where the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv_to(file, columns, rows)


def write_csv_to(file: TextIO, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """The same into an open text file."""
    out = csv.writer(file, lineterminator="\n")
    out.writerow([csv_text(column.name) for column in columns])
    for row in rows:
        out.writerow([_csv_cell(cell) for cell in _checked(row, columns)])


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented UTF-8 JSON, keys in their order; raises ValueError for a NaN or infinity left in it."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        where = _not_finite(value, "$")
        if where is None:
            raise
        raise ValueError(f"{path.name}: {where} has no place in JSON; write null and a reason") from error
    # A lone surrogate becomes \udcXX, which is just how JSON spells it.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace", newline="\n")


def arrow_table(
    columns: Sequence[Column],
    data: Iterable[Row] | Mapping[str, Sequence[Any]],
    metadata: Mapping[str, str] | None = None,
) -> pa.Table:
    """The columns as an Arrow table; `data` is rows, or a mapping of each column's name to its cells (a list or array).

    Units and definitions are in the fields' metadata; the schema's holds `netweight.schema_version`,
    `netweight.version` and `metadata`. NaN in a number column becomes null; text that UTF-8 cannot hold is escaped.
    """
    import pyarrow as pa  # noqa: PLC0415 - only tables need Arrow

    if isinstance(data, Mapping):
        cells = [data[column.name] for column in columns]
    else:
        rows = [_checked(row, columns) for row in data]
        cells = [[row[i] for row in rows] for i in range(len(columns))]
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "integers": pa.list_(pa.int64()),
        "numbers": pa.list_(pa.float64()),
        "matrix": pa.list_(pa.list_(pa.float64())),
    }
    arrays, fields = [], []
    for column, values in zip(columns, cells, strict=True):
        held: Sequence[Any] = values
        if column.type == "text":
            held = [None if v is None else _utf8(v) for v in values]
        elif column.type == "number":  # Arrow's own way to make nulls of NaN imports pandas where that is installed
            held = [None if v is None or v != v else v for v in values]  # noqa: PLR0124
        arrays.append(pa.array(held, type=types[column.type]))
        about = {"unit": column.unit, "doc": column.doc}
        fields.append(pa.field(column.name, types[column.type], metadata=about))
    stamp = {"netweight.schema_version": str(SCHEMA_VERSION), "netweight.version": __version__, **(metadata or {})}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata={k: _utf8(v) for k, v in stamp.items()}))


def write_parquet(
    path: Path,
    columns: Sequence[Column],
    data: Iterable[Row] | Mapping[str, Sequence[Any]],
    *,
    inputs: object,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a Parquet file (zstd) of `arrow_table`; the same data give the same bytes.

    `inputs` identifies what was measured and is stored as JSON under `netweight.inputs`; further `metadata` beside it.
    Raises ValueError for a NaN or infinity in `inputs`, OSError where the file cannot be written.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - only tables need Arrow

    stamp = {"netweight.inputs": json.dumps(inputs, allow_nan=False), **(metadata or {})}
    pq.write_table(
        arrow_table(columns, data, stamp),
        path,
        version="2.6",
        compression="zstd",
        compression_level=3,
        row_group_size=65536,
        data_page_version="1.0",
    )


def _checked(row: Row, columns: Sequence[Column]) -> Row:
    if len(row) != len(columns):
        raise ValueError(f"a row of {len(row)} cells for {len(columns)} columns: {row!r:.200}")
    return row


def _csv_cell(cell: Any) -> str:
    if hasattr(cell, "tolist"):  # numpy scalars and arrays
        cell = cell.tolist()
    if cell is None or cell != cell:  # noqa: PLR0124 - only NaN differs from itself
        return ""
    if isinstance(cell, str):
        return csv_text(cell)
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return float.__repr__(cell)
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, list | tuple):
        return csv_text(json.dumps(cell, ensure_ascii=False))
    raise TypeError(f"a cell of type {type(cell).__name__} has no form in CSV: {cell!r:.100}")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _not_finite(value: object, path: str) -> str | None:
    """Where in `value` the first NaN or infinity is, and which."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} = {value}"
    inner: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    return next((where for key, item in inner if (where := _not_finite(item, f"{path}.{key}")) is not None), None)
