"""The result of `scan`: a mapping of matrices to their measures, with the table, the files and the health of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from netweight.checkpoint.tensor import Skipped
from netweight.columns import Column
from netweight.errors import OptionError, printable
from netweight.jobs.pages import Reported, card_of, section_of
from netweight.jobs.role_columns import ROLE_COLUMNS, role_cells
from netweight.measures.health import assess
from netweight.measures.registry import Measure
from netweight.output.frame import Frame, Framed
from netweight.output.table import Row, write_csv, write_csv_to, write_json, write_parquet
from netweight.params.role import Parameter

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Skipped
    from netweight.measures.health import Health
    from netweight.page.section import Section

__all__ = [
    "CSV_COLUMNS",
    "PARAMETER_COLUMNS",
    "ScanResults",
    "ScanRow",
    "assess_rows",
    "check_file",
    "check_output",
    "field_of",
    "finite",
    "print_csv",
    "write_results",
]

PARAMETER_COLUMNS = (
    Column("param", "", "the parameter's name, a part of it in brackets", "text"),
    Column("shape", "", "the tensor's shape", "integers"),
    Column("rows", "", "rows of the matrix as it is stored: the first dimension", "integer"),
    Column("cols", "", "columns of the matrix: the other dimensions flattened", "integer"),
    Column("dtype", "", "element type", "text"),
    Column("elements", "elements", "elements of the matrix", "integer"),
    *ROLE_COLUMNS,
    Column("expert", "", "number of the routed expert", "integer"),
)
"""The first columns of the table; a column `measure.field` for every field of the measures follows."""


@dataclass(frozen=True)
class ScanRow:
    """One matrix: `parameter` says what it is (its name and role are the part's, where it is a part of a tensor),
    `shape` is the tensor's, `rows` and `cols` are the matrix's as stored, `measures` hold {measure: {field: value}}.

    `fused` is set where its elements are also in another row (the projections inside a fused one). `pictures` are as
    `measures`, but only drawn.
    """

    name: str
    parameter: Parameter
    shape: tuple[int, ...]
    rows: int
    cols: int
    dtype: str
    elements: int
    measures: dict[str, dict[str, Any]]
    fused: bool = False
    pictures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def matrix(self) -> bool:
        """More than one row and one column."""
        return self.rows > 1 and self.cols > 1

    def value(self, field: str) -> Any:
        """The cell of a column `measure.field` (or `measure.field.key`); None where it was not measured."""
        return field_of(self.measures, field)


def field_of(measures: Mapping[str, Any], field: str) -> Any:
    """The value of `measure.field` or `measure.field.key` in {measure: {field: value}}, None where there is none."""
    measure, _, rest = field.partition(".")
    name, dot, key = rest.partition(".")  # keys such as threshold_0.0 hold dots of their own
    value: Any = measures
    for part in [measure, name, key] if dot else [measure, name]:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class ScanResults(Reported, Framed, dict[str, dict[str, dict[str, Any]]]):
    """{parameter: {measure: {field: value}}}, in file order: the result of `netweight.scan`.

    A number that is not defined is NaN here, a ratio to zero infinite; the files hold null instead, with the reason
    beside it. `rows`: a ScanRow each; `skipped`: what was not measured, with its reason; `failed`: those of them whose
    bytes could not be read; `notes`: findings worth a line; `inputs`: the identity of the files; `measures`: what was
    asked for; `created_at`: when the run began, ISO 8601 in UTC; `device`: where it was computed; `pictures`: measures
    that only a page has; `differences`: whether a base was taken off the weights.
    """

    def __init__(
        self,
        rows: Sequence[ScanRow],
        measures: Sequence[Measure],
        *,
        ref: str,
        skipped: Sequence[Skipped] = (),
        failed: Sequence[Skipped] = (),
        notes: Sequence[str] = (),
        inputs: Sequence[Mapping[str, Any]] = (),
        created_at: str = "",
        model_id: str | None = None,
        revision: str | None = None,
        device: str = "cpu",
        pictures: Sequence[Measure] = (),
        differences: bool = False,
    ) -> None:
        super().__init__({row.name: row.measures for row in rows})
        self.rows = tuple(rows)
        self.measures = tuple(measures)
        self.ref = ref
        self.skipped = (*skipped, *failed)
        self.failed = tuple(failed)
        self.notes = tuple(notes)
        self.inputs = tuple(inputs)
        self.created_at = created_at
        self.model_id = model_id
        self.revision = revision
        self.device = device
        self.pictures = tuple(pictures)
        self.differences = differences

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns."""
        return (
            *PARAMETER_COLUMNS,
            *(Column(f"{m.name}.{c.name}", c.unit, c.doc, c.type) for m in self.measures for c in m.columns),
        )

    @property
    def frame(self) -> Frame:
        """The table: a row for each matrix."""
        return Frame(self.columns, self._table())

    def _table(self) -> Iterator[Row]:
        fields = [column.name for column in self.columns[len(PARAMETER_COLUMNS) :]]
        for row in self.rows:
            yield (
                row.name,
                list(row.shape),
                row.rows,
                row.cols,
                row.dtype,
                row.elements,
                *role_cells(row.parameter),
                row.parameter.expert,
                *(finite(row.value(field)) for field in fields),
            )

    def section(self) -> Section:
        """See Reported."""
        drawn = [Column(f"{m.name}.{c.name}", c.unit, c.doc, c.type) for m in self.pictures for c in m.columns]
        health = self.health()
        beside = [[field_of(row.pictures, column.name) for column in drawn] for row in self.rows]
        return section_of(
            "scan",
            self.ref,
            (*self.columns, *drawn),
            [(*cells, *lists) for cells, lists in zip(self.frame.rows, beside, strict=True)],
            card=card_of(self.inputs, self.device),
            notes=[*([health.training.said] if health.training else []), *self.notes],
            findings=[(f.level, f.parameter, f.said, f.advice) for f in health.findings],
            skipped=[(entry.name, entry.reason) for entry in self.skipped],
        )

    def health(self) -> Health:
        """What is worth a look, by the thresholds of `measures.health_checks`: nothing of differences, which are no
        weights.
        """
        return assess_rows(() if self.differences else self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: NaN and infinities are None; what could not be measured, or is no weight of its own, has its
        reason under `skipped`. What options left out is not there: the attribute `skipped` has all.
        """
        measured: dict[str, Any] = {name: finite(measures) for name, measures in self.items()}
        return measured | {entry.name: {"skipped": entry.reason} for entry in self.skipped if not entry.asked}

    def write(self, path: str | Path) -> None:
        """Write `path` as its suffix says (.json, .csv, .parquet), in one step; raises OptionError for another suffix,
        OutputError and JobError where the file cannot be written.
        """
        from netweight.output.result_file import write_file

        target = check_output(path)
        write_file(target, lambda file: write_results(self, file), [Path(i["path"]) for i in self.inputs])

    def __repr__(self) -> str:
        names = ", ".join(m.name for m in self.measures)
        return f"<scan of {printable(self.ref)!r}: {len(self.rows)} matrices, {names}>"


def finite(value: Any) -> Any:
    """`value` with NaN and infinities, at any depth, as None: what JSON and tables hold."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def assess_rows(rows: Sequence[ScanRow]) -> Health:
    """The health of a scan: every matrix once, and those inside a fused one beside their siblings."""
    shapes = {row.name: (row.rows, row.cols) for row in rows}
    return assess([(row.name, row.measures) for row in rows], shapes, {row.name for row in rows if row.fused})


CSV_COLUMNS = (
    Column("model_path", "", "the model as it was given", "text"),
    Column("model_id", "", "--model-id", "text"),
    Column("revision", "", "--revision", "text"),
    Column("param_name", "", "the parameter's name, a part of it in brackets", "text"),
    Column("layer_index", "", "number of its block, empty outside the blocks", "integer"),
    Column("block_type", "", "its role: q_proj, norm, embedding ...", "text"),
    Column("shape", "", "the tensor's shape", "integers"),
    Column("rows", "", "rows of the matrix: the first dimension", "integer"),
    Column("cols", "", "columns of the matrix: the other dimensions flattened", "integer"),
    Column("design_rank", "", "min(rows, cols)", "integer"),
    Column("actual_rank", "", "singular values above 1e-6 sigma_1; empty without spectral", "integer"),
    Column("rank_ratio", "", "actual_rank / design_rank", "number"),
    Column("svd_90_percent_rank", "", "least k whose singular values hold 90% of the sum of squares", "integer"),
    Column("svd_90_percent_ratio", "", "svd_90_percent_rank / design_rank", "number"),
    Column("mean", "", "mean of the elements", "number"),
    Column("std", "", "population standard deviation", "number"),
    Column("var", "", "population variance", "number"),
    Column("min", "", "least element", "number"),
    Column("max", "", "largest element", "number"),
    Column("sparsity", "", "share of elements with abs(x) <= 1e-8", "number"),
    Column("dtype", "", "element type", "text"),
    Column("created_at", "", "when the run began, ISO 8601 in UTC", "text"),
)
"""The columns of the CSV file."""

_SUFFIXES = (".json", ".csv", ".parquet")
_SPECTRAL = ("actual_rank", "rank_ratio", "svd_90_percent_rank", "svd_90_percent_ratio")
_BASIC = ("mean", "std", "var", "min", "max", "sparsity")


def check_output(path: str | os.PathLike[str]) -> Path:
    """`path`, whose suffix names a form that results are written in; raises OptionError otherwise."""
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise OptionError(
            f"--output {printable(str(path))}: expected a name that ends in {', '.join(_SUFFIXES)};"
            f" got {printable(repr(target.suffix))}"
        )
    return target


def check_file(path: str | os.PathLike[str], inputs: Sequence[Path]) -> None:
    """Raises OutputError where a result of the models `inputs` cannot be written to `path`; makes nothing there."""
    from netweight.output.result_file import ResultFile

    ResultFile(Path(path), inputs).check()


def write_results(result: ScanResults, path: Path) -> None:
    """Write the form that the suffix of `path` names; raises OSError where the disk refuses."""
    match path.suffix.lower():
        case ".json":
            write_json(path, result.to_dict())
        case ".csv":
            write_csv(path, CSV_COLUMNS, csv_rows(result))
        case _:
            skipped = [{"name": s.name, "reason": s.reason} for s in result.skipped]
            write_parquet(
                path,
                result.columns,
                result.frame.rows,
                inputs=list(result.inputs),
                metadata={
                    "netweight.skipped": _json(skipped),
                    "netweight.created_at": result.created_at,
                    "netweight.model_id": result.model_id or "",
                    "netweight.revision": result.revision or "",
                    "netweight.device": result.device,
                },
            )


def csv_rows(result: ScanResults) -> list[Row]:
    """The rows of the CSV file: by layer, in file order within one; what is outside the blocks comes last."""
    order = sorted(result.rows, key=lambda row: (row.parameter.layer is None, row.parameter.layer or 0))
    return [_csv_row(result, row) for row in order]


def print_csv(result: ScanResults, file: TextIO) -> None:
    """Write the CSV file's text to an open text file."""
    write_csv_to(file, CSV_COLUMNS, csv_rows(result))


def _csv_row(result: ScanResults, row: ScanRow) -> Row:

    spectral = row.measures.get("spectral", {})
    basic = row.measures.get("basic_stats") or {}
    if "sparsity" not in basic and "sparsity" in row.measures:
        basic = {**basic, "sparsity": row.measures["sparsity"]["sparsity"]}
    return (
        result.ref,
        result.model_id,
        result.revision,
        row.name,
        row.parameter.layer,
        row.parameter.role,
        list(row.shape),
        row.rows,
        row.cols,
        min(row.rows, row.cols),
        *(finite(spectral.get(field)) for field in _SPECTRAL),
        *(finite(basic.get(field)) for field in _BASIC),
        row.dtype,
        result.created_at,
    )


def _json(value: Any) -> str:
    import json

    return json.dumps(value, allow_nan=False)
