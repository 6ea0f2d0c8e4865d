"""The files of `scan`: the mapping as JSON, the published CSV columns, the whole table as Parquet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from netweight.errors import OptionError, printable
from netweight.output.table import Column, Row, write_csv, write_csv_to, write_json, write_parquet

if TYPE_CHECKING:
    from netweight.jobs.scan_result import ScanResults, ScanRow

__all__ = ["CSV_COLUMNS", "check_output", "print_csv", "write_results"]

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
    from netweight.jobs.scan_result import finite

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
