"""The file of `compare`: the mapping as JSON, the table as CSV or Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from netweight.jobs.scan_files import check_output
from netweight.output.table import write_csv, write_json, write_parquet

if TYPE_CHECKING:
    from netweight.jobs.compare_result import Comparison

__all__ = ["check_output", "write_comparison"]


def write_comparison(result: Comparison, path: Path) -> None:
    """Write the form that the suffix of `path` names; raises OSError where the disk refuses."""
    match path.suffix.lower():
        case ".json":
            write_json(path, result.to_dict())
        case ".csv":
            write_csv(path, result.columns, result.frame.rows)
        case _:
            about = result.to_dict()
            kept = ("only_in_model1", "only_in_model2", "skipped", "device", "notes", "totals")
            write_parquet(
                path,
                result.columns,
                result.frame.rows,
                inputs=list(result.inputs),
                metadata={f"netweight.{key}": json.dumps(about[key], allow_nan=False) for key in kept},
            )
