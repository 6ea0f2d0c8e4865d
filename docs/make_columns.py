"""Write docs/columns.md from the columns' own definitions: `python docs/make_columns.py`."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from netweight.columns import Column
from netweight.jobs.compare.result import PARAMETER_COLUMNS as COMPARED
from netweight.jobs.delta.result import COLUMNS as DELTA
from netweight.jobs.extract_lora.result import COLUMNS as EXTRACT
from netweight.jobs.merge.columns import COLUMNS as MERGE
from netweight.jobs.scan.result import CSV_COLUMNS, PARAMETER_COLUMNS
from netweight.jobs.verify.result import COLUMNS as VERIFY
from netweight.measures.between import between_columns
from netweight.measures.kind import KIND_COLUMNS, MODULE_COLUMNS
from netweight.measures.registry import BY_NAME, SCANNED, find

TARGET = Path(__file__).with_name("columns.md")

_HEAD = """# Columns

Every field that netweight writes, from the definitions in the code: made by `docs/make_columns.py`; a test compares
the two. What the measures say and do not say: [measures](measures/README.md).

In JSON a field that is not defined is null, and a field beside it says why; in CSV and Parquet it is empty. In Python
it is NaN, or infinite where it is a ratio to zero. A name with a dot (`sparsity_levels.threshold_0.0`) is a
field inside another one in JSON.
"""

UPDATE = find("update").columns
_OF_A_SAMPLE = (
    "The last columns of delta.parquet and of compare's table, filled for the matrices that were looked at; d = b - a"
    " ([update](measures/update.md))."
)
_OF_A_MODEL = "`kind` of `summary.json` and of compare's JSON; `modules` in it is {kind of module: the fields below}."


def render() -> str:
    """The whole of docs/columns.md."""
    parts = [
        _HEAD,
        _table("`scan`: the CSV file", CSV_COLUMNS),
        _table("`scan`: the first columns of the table", PARAMETER_COLUMNS),
    ]
    parts += [_table(f"`scan`: {name}", find(name).columns, _about(name)) for name in (*SCANNED, *BY_NAME)]
    change = find("change")
    parts += [
        _table("`compare`: the first columns of the table", COMPARED),
        _table("`compare`: change", change.columns, change.doc),
        _table("`compare`: with other methods", between_columns(SCANNED)),
        _table("`delta`: delta.parquet", [c for c in DELTA if c not in UPDATE], "And the fields of update."),
        _table("`delta` and `compare`: update", UPDATE, _OF_A_SAMPLE),
        _table("`delta` and `compare`: kind", KIND_COLUMNS, _OF_A_MODEL),
        _table("`delta` and `compare`: modules of a kind", MODULE_COLUMNS),
        _table("`merge`: the table of the result in Python", MERGE, "What the files hold is in [merging](merging.md)."),
        _table("`extract-lora`: errors.csv and errors.parquet", EXTRACT, "A row for each tensor that changed."),
        _table("`verify`: the table of the result in Python", VERIFY),
    ]
    return "\n".join(parts)


def _about(name: str) -> str:
    """A measure in one line; where it has no page of its own in docs/measures, all that its file says of it."""
    if TARGET.with_name("measures").joinpath(f"{name}.md").exists():
        return find(name).doc
    return getdoc(import_module(f"netweight.measures.{name}")) or find(name).doc


def _table(title: str, columns: Sequence[Column], doc: str = "") -> str:
    lines = [f"## {title}", "", *([doc, ""] if doc else []), "| field | unit | definition |", "| --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.unit} | {c.doc.replace('|', chr(92) + '|')} |" for c in columns]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8", newline="\n")
