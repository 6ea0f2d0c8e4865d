"""Sections of tables: the Parquet files of scan, compare and delta, and what stands beside the last."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from netweight.columns import Column, ColumnType
from netweight.errors import FormatError, OptionError, nearest_path, printable
from netweight.jobs.delta.page import group_bars
from netweight.jobs.pages import card_of, only_in, section_of
from netweight.jobs.verify.inputs import read_record
from netweight.page.section import Section, Square

__all__ = ["of_table"]

_DELTA = "delta.parquet"
_Line = tuple[str, str]
_LARGEST = 1 << 28  # bytes of a file beside a table


def of_table(path: Path) -> Section:
    """Of a Parquet file, or the folder of a delta; raises OptionError for what is none, FormatError."""
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    file = path / _DELTA if path.is_dir() else path
    where = printable(str(path), 300)
    if not path.exists():
        raise OptionError(f"{where}: there is no such file or folder{nearest_path(str(path))}")
    if not file.is_file() or file.suffix.lower() != ".parquet":
        raise OptionError(
            f"{where}: expected a result in Parquet (scan or compare --output NAME.parquet), JSON of scan, info,"
            " structure or verify, or a folder of delta, structure or merge"
        )
    try:
        table = pq.read_table(file)
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        inputs = json.loads(about["netweight.inputs"])
        skipped = json.loads(about.get("netweight.skipped", "[]"))
        columns = [_column(field) for field in table.schema]
        rows = list(zip(*(table.column(i).to_pylist() for i in range(table.num_columns)), strict=True))
        card = card_of(inputs, about.get("netweight.device", "").strip('"'))  # compare writes JSON there
        left = [(str(entry["name"]), str(entry["reason"])) for entry in skipped]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ArrowException) as problem:
        raise FormatError(f"{where}: is no table of netweight: {printable(str(problem))}") from None
    names = {column.name for column in columns}
    title = ", ".join(str(entry["ref"]) for entry in inputs)
    if {"model", "gram"} <= names:
        models = list(dict.fromkeys(row[0] for row in rows))
        more = _beside_delta(path if path.is_dir() else path.parent, models, about)
        card = [*more.pop("card"), *card]
        return section_of("delta", ", ".join(models), columns, rows, card=card, models=models, **more)
    if "param_b" in names:
        return section_of("compare", title, columns, rows, **_beside_comparison(about, where, inputs, card, left))
    if {"param", "role", "expert"} <= names:
        return section_of("scan", title, columns, rows, card=card, skipped=left)
    raise OptionError(f"{where}: a table of netweight, but not of scan, compare or delta")


def _beside_delta(folder: Path, models: Sequence[str], about: Mapping[str, str]) -> dict[str, Any]:
    """What the files beside a table of delta say, where they are there: sums by group, cosines, and the kinds. Raises
    FormatError for those that are not delta's.
    """
    try:
        words, notes = (json.loads(about.get(f"netweight.{key}", "{}")) for key in ("kinds", "notes"))
        card = [(model, f"{words[model]['word']}: {words[model]['reason']}") for model in models if model in words]
        bars, skipped = [], []
        for model in models:
            if (file := folder / model / "summary.json").is_file():
                summary = read_record(file, "a delta", "run delta again")
                known = {k: {**g, "l2": _finite(g["l2"])} for k, g in summary["groups"].items()}
                bars.append(group_bars(model, known))
                skipped += [(f"{model}: {entry['name']}", str(entry["reason"])) for entry in summary["skipped"]]
        square = _cosines(folder / "pairwise_cosines.csv", models)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        where = printable(str(folder), 300)
        raise FormatError(f"{where}: is no folder of delta: {printable(str(problem))}; run delta again") from None
    return {"bars": bars, "square": square, "card": card, "skipped": skipped, "notes": list(map(str, notes))}


def _beside_comparison(
    about: Mapping[str, str],
    where: str,
    inputs: Sequence[Any],
    card: list[tuple[str, str]],
    left: list[tuple[str, str]],
) -> dict[str, Any]:
    """What the table of a comparison says of itself: the kind, notes, and what only one model has."""
    try:
        kind, notes = (json.loads(about.get(f"netweight.{key}", "null")) for key in ("kind", "notes"))
        if kind:
            card = [("in one word", f"{kind['word']}: {kind['reason']}"), *card]
        for number, entry in enumerate(inputs[:2], 1):
            alone = json.loads(about.get(f"netweight.only_in_model{number}", "[]"))
            left += [(str(name), only_in(entry["ref"])) for name in alone]
        return {"card": card, "notes": [str(note) for note in notes or ()], "skipped": left}
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise FormatError(f"{where}: is no table of a comparison: {printable(str(problem))}") from None


def _cosines(file: Path, models: Sequence[str]) -> Square | None:
    if not file.is_file() or file.stat().st_size > _LARGEST:
        return None
    with file.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    if not lines or lines[0][1:] != list(models):
        raise ValueError(f"{file.name} is of other models than the table")
    return Square("cosines", list(models), [[_finite(cell) for cell in line[1:]] for line in lines[1:]])


def _finite(cell: Any) -> float | None:
    """A number, None where there is none, or none that JSON holds."""
    value = float("nan") if cell in {None, ""} else float(cell)
    return value if isfinite(value) else None


def _column(field: Any) -> Column:
    """The column that a field of an Arrow table is."""
    import pyarrow as pa

    about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    kinds: list[tuple[Any, ColumnType]] = [
        (pa.types.is_string, "text"),
        (pa.types.is_integer, "integer"),
        (pa.types.is_floating, "number"),
        (pa.types.is_boolean, "boolean"),
    ]
    kind: ColumnType = next((name for test, name in kinds if test(field.type)), "numbers")
    return Column(field.name, about.get("unit", ""), about.get("doc", ""), kind)
