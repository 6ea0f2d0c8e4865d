"""`report`: results that are there already, as one HTML file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.columns import Column, ColumnType
from netweight.errors import FormatError, OptionError, printable
from netweight.jobs.inputs import Reference, references
from netweight.jobs.pages import card_of, check_report, section_of, write_report
from netweight.jobs.role_columns import ROLE_COLUMNS, role_cells
from netweight.measures.registry import SCANNED, find
from netweight.page.section import Section
from netweight.params.role import classify_all

__all__ = ["report"]

_DELTA = "delta.parquet"
_MERGE = "netweight_merge.json"
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
    check_report(output)
    write_report([_section(path) for path in named], output, named)


def _section(path: Path) -> Section:
    if (path / _MERGE).is_file():
        return _of_merge(path)
    return _of_scan(path) if path.is_file() and path.suffix.lower() == ".json" else _of_table(path)


def _of_scan(path: Path) -> Section:
    """Of the JSON that scan writes, which has names and measures alone."""
    where = printable(str(path), 300)
    if path.stat().st_size > _LARGEST:
        raise FormatError(f"{where}: larger than any result of a scan")
    try:
        held = json.loads(path.read_text("utf-8"))
        held = held["parameters"] if held.keys() == {"health", "parameters"} else held
        skipped = [(name, str(entry["skipped"])) for name, entry in held.items() if "skipped" in entry]
        measured = {name: entry for name, entry in held.items() if "skipped" not in entry}
        found = [find(name) for name in SCANNED if any(name in entry for entry in measured.values())]
        fields = [Column(f"{m.name}.{c.name}", c.unit, c.doc, c.type) for m in found for c in m.columns]
        rows = [
            (name, *role_cells(parameter), *(_field(measured[name], column.name) for column in fields))
            for name, parameter in classify_all(dict.fromkeys(measured, ())).items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise FormatError(f"{where}: is no JSON of a scan: {printable(str(problem))}") from None
    if not fields:
        raise OptionError(f"{where}: holds no measures of a scan; of compare give the Parquet file")
    columns = (Column("param", "", "the parameter's name, a part of it in brackets", "text"), *ROLE_COLUMNS, *fields)
    return section_of("scan", path.name, columns, rows, skipped=skipped)


def _field(measures: Mapping[str, Any], name: str) -> Any:
    """The value of `measure.field` or `measure.field.key`; keys such as threshold_0.0 hold dots of their own."""
    measure, _, rest = name.partition(".")
    field, dot, key = rest.partition(".")
    value = (measures.get(measure) or {}).get(field)
    return (value or {}).get(key) if dot else value


def _of_merge(path: Path) -> Section:
    """Of the folder of a merged model."""
    from netweight.jobs.merge.page import section_of_merge

    where = printable(str(path / _MERGE), 300)
    if (path / _MERGE).stat().st_size > _LARGEST:
        raise FormatError(f"{where}: larger than any record of a merge")
    try:
        record = json.loads((path / _MERGE).read_text("utf-8"))
        return section_of_merge(path.name, record, [str(note) for note in record["notes"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
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
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as problem:
        raise FormatError(f"{where}: is no table of netweight: {printable(str(problem))}") from None
    names = {column.name for column in columns}
    title = ", ".join(str(entry["ref"]) for entry in inputs)
    if {"model", "gram"} <= names:
        models = list(dict.fromkeys(row[0] for row in rows))
        more = _of_delta(path if path.is_dir() else path.parent, models, json.loads(about.get("netweight.kinds", "{}")))
        card = [*more.pop("card"), *card]
        return section_of("delta", ", ".join(models), columns, rows, card=card, skipped=left, models=models, **more)
    if "param_b" in names:
        return section_of("compare", title, columns, rows, card=card, skipped=left)
    if {"param", "role", "expert"} <= names:
        return section_of("scan", title, columns, rows, card=card, skipped=left)
    raise OptionError(f"{where}: a table of netweight, but not of scan, compare or delta")


def _of_delta(folder: Path, models: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What the files beside a table of delta say, where they are there: sums by group, cosines, and the kinds."""
    groups = []
    for model in models:
        summary = folder / model / "summary.json"
        if summary.is_file() and summary.stat().st_size <= _LARGEST:
            every = json.loads(summary.read_text("utf-8"))["groups"]
            sums = {name: group["l2"] for name, group in every.items() if group["param_count_approx"]}
            groups.append({"model": model, "names": list(sums), "values": list(sums.values())})
    square = folder / "pairwise_cosines.csv"
    cosines = None
    if square.is_file() and square.stat().st_size <= _LARGEST:
        with square.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        if lines and lines[0][1:] == list(models):
            values = [[float(cell) if cell else None for cell in line[1:]] for line in lines[1:]]
            cosines = {"names": list(models), "values": values}
    card = [(model, f"{kinds[model]['word']}: {kinds[model]['reason']}") for model in models if model in kinds]
    return {"groups": groups, "cosines": cosines, "card": card}


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
