"""`report`: results that are there already, as one HTML file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from netweight.columns import Column, ColumnType
from netweight.errors import FormatError, OptionError, printable
from netweight.jobs.inputs import Reference, references
from netweight.jobs.merge.record import RECORD
from netweight.jobs.pages import card_of, check_report, only_in, section_of, write_report
from netweight.jobs.role_columns import ROLE_COLUMNS, role_cells
from netweight.jobs.scan.result import field_of
from netweight.jobs.verify.inputs import read_record
from netweight.measures.registry import SCANNED, find
from netweight.page.section import Section
from netweight.params.role import classify_all

__all__ = ["report"]

_DELTA = "delta.parquet"
_Line = tuple[str, str]
_LARGEST = 1 << 28  # bytes of a file beside a table


def report(results: Reference | Sequence[Reference], output: Reference) -> None:
    """Write one page of `results` to `output`: Parquet files of scan, compare and delta, JSON of scan, folders of
    delta, and merged models.

    Raises OptionError for what is no such result or no .html, FormatError for tables that cannot be read, OutputError
    and JobError where the page cannot be written.
    """
    named = [Path(result) for result in references(results)]
    if not named:
        raise OptionError("report: expected one or more results, got none")
    check_report(output, option="--output")
    write_report([_section(path) for path in named], output, named)


def _section(path: Path) -> Section:
    if (path / RECORD).is_file():
        return _of_merge(path)
    return _of_scan(path) if path.is_file() and path.suffix.lower() == ".json" else _of_table(path)


def _of_scan(path: Path) -> Section:
    """Of the JSON that scan writes, which has names and measures alone."""
    where = printable(str(path), 300)
    held = read_record(path, "a scan", "scan again, or give its Parquet file")
    try:
        held = held["parameters"] if held.keys() == {"health", "parameters"} else held
        skipped = [(name, str(entry["skipped"])) for name, entry in held.items() if "skipped" in entry]
        measured = {name: entry for name, entry in held.items() if "skipped" not in entry}
        found = [find(name) for name in SCANNED if any(name in entry for entry in measured.values())]
        fields = [Column(f"{m.name}.{c.name}", c.unit, c.doc, c.type) for m in found for c in m.columns]
        rows = [
            (name, *role_cells(parameter), *(field_of(measured[name], column.name) for column in fields))
            for name, parameter in classify_all(dict.fromkeys(measured, ())).items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise FormatError(f"{where}: is no JSON of a scan: {printable(str(problem))}") from None
    if not fields:
        raise OptionError(f"{where}: holds no measures of a scan; of compare give the Parquet file")
    columns = (Column("param", "", "the parameter's name, a part of it in brackets", "text"), *ROLE_COLUMNS, *fields)
    return section_of("scan", path.name, columns, rows, skipped=skipped)


def _of_merge(path: Path) -> Section:
    """Of the folder of a merged model."""
    from netweight.jobs.merge.page import section_of_merge

    where = printable(str(path / RECORD), 300)
    record = read_record(path / RECORD, "a merge", "merge again")
    try:
        return section_of_merge(path.name, record, [str(note) for note in record["notes"]])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as problem:
        raise FormatError(f"{where}: is no record of a merge: {printable(str(problem))}") from None


def _of_table(path: Path) -> Section:
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    file = path / _DELTA if path.is_dir() else path
    where = printable(str(path), 300)
    if not file.is_file() or file.suffix.lower() != ".parquet":
        raise OptionError(
            f"{where}: expected a result in Parquet (scan or compare --output NAME.parquet), or a folder of delta or"
            " merge"
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
        more = _beside_delta(path if path.is_dir() else path.parent, models, about.get("netweight.kinds", "{}"))
        card = [*more.pop("card"), *card]
        return section_of("delta", ", ".join(models), columns, rows, card=card, models=models, **more)
    if "param_b" in names:
        return section_of("compare", title, columns, rows, **_beside_comparison(about, where, inputs, card, left))
    if {"param", "role", "expert"} <= names:
        return section_of("scan", title, columns, rows, card=card, skipped=left)
    raise OptionError(f"{where}: a table of netweight, but not of scan, compare or delta")


def _beside_delta(folder: Path, models: Sequence[str], kinds: str) -> dict[str, Any]:
    """What the files beside a table of delta say, where they are there: sums by group, cosines, and the kinds. Raises
    FormatError for those that are not delta's.
    """
    try:
        words = json.loads(kinds)
        card = [(model, f"{words[model]['word']}: {words[model]['reason']}") for model in models if model in words]
        groups, skipped = [], []
        for model in models:
            if (file := folder / model / "summary.json").is_file():
                summary = read_record(file, "a delta", "run delta again")
                groups.append(_groups(model, summary["groups"]))
                skipped += [(f"{model}: {entry['name']}", str(entry["reason"])) for entry in summary["skipped"]]
        square = _cosines(folder / "pairwise_cosines.csv", models)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        where = printable(str(folder), 300)
        raise FormatError(f"{where}: is no folder of delta: {printable(str(problem))}; run delta again") from None
    return {"groups": groups, "cosines": square, "card": card, "skipped": skipped}


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


def _groups(model: str, every: Mapping[str, Any]) -> dict[str, Any]:
    """L2 of the groups that have parameters."""
    sums = {str(name): _finite(group["l2"]) for name, group in every.items() if group["param_count_approx"]}
    return {"model": model, "names": list(sums), "values": list(sums.values())}


def _cosines(file: Path, models: Sequence[str]) -> dict[str, Any] | None:
    if not file.is_file() or file.stat().st_size > _LARGEST:
        return None
    with file.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    if not lines or lines[0][1:] != list(models):
        raise ValueError(f"{file.name} is of other models than the table")
    return {"names": list(models), "values": [[_finite(cell) for cell in line[1:]] for line in lines[1:]]}


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
