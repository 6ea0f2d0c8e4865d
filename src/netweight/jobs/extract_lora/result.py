"""The result of `extract_lora`: the adapter's folder, and a row for each tensor that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from math import sqrt
from pathlib import Path
from typing import Any

from netweight.columns import Column
from netweight.output.frame import Frame, Framed

__all__ = ["COLUMNS", "Extracted", "totals"]

COLUMNS = (
    Column("param", "", "the parameter's name in the base", "text"),
    Column(
        "kept",
        "",
        "how the adapter has its change: factors, module (kept whole), bias (in the place of the base's), or left out",
        "text",
    ),
    Column("shape", "", "its shape in the base", "integers"),
    Column("rank", "", "directions that the factors hold; empty where there are none", "integer"),
    Column("full_rank", "", "the shorter side, which no rank exceeds", "integer"),
    Column("l2", "", "Frobenius norm of the task vector, fine-tuned - base", "number"),
    Column(
        "relative_error",
        "",
        "||D - B A|| / ||D|| with the factors as stored, in Frobenius norms summed in float64; 1 where it is left out",
        "number",
    ),
    Column(
        "unrounded_error",
        "",
        "the same of factors that are not rounded; by less than 1e-4 of it above the least that any of this rank have",
        "number",
    ),
    Column("energy", "", "share of the squared norm that the factors hold: 1 - relative_error^2", "number"),
    Column("largest_singular_value", "", "of the directions found, at most that of the task vector", "number"),
    Column("method", "", "how the singular vectors were found: krylov, gram or svd", "text"),
    Column("readings", "", "times that the task vector was looked at", "integer"),
    Column("bytes", "bytes", "what the adapter holds of it", "integer"),
    Column("reason", "", "why it has no factors", "text"),
)


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole of these rows (as in the record): relative errors of the matrices with factors, and of all that
    changed and can be compared, what is left out with its whole norm.
    """
    factored = [row for row in rows if row["kept"] == "factors"]
    known = [row for row in rows if row["squares"] is not None]
    return {
        "matrices": len(factored),
        "relative_error": _relative(factored),
        "unrounded_error": _relative(factored, "unrounded_left"),
        "relative_error_of_all": _relative(known),
        "l2": sqrt(sum(row["squares"] for row in known)),
        "bytes": sum(row["bytes"] for row in rows),
    }


def _relative(rows: Sequence[Mapping[str, Any]], left: str = "left") -> float | None:
    squares = sum(row["squares"] for row in rows)
    return sqrt(sum(row[left] or 0.0 for row in rows) / squares) if squares else None


class Extracted(Framed):
    """The result of `netweight.extract_lora`. `record` is what netweight_extract_lora.json holds; `output` the
    adapter's folder.
    """

    def __init__(self, output: Path, record: Mapping[str, Any]) -> None:
        self.output = output
        self.record = record

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a line."""
        return tuple(self.record["notes"])

    @property
    def relative_error(self) -> float:
        """Of all matrices with factors together."""
        return float(self.record["whole"]["relative_error"])

    @cached_property
    def frame(self) -> Frame:
        """A row for each tensor that changed, in the base's order."""
        return Frame(COLUMNS, [_cells(name, row) for name, row in self.record["parameters"].items()])

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: the record."""
        return dict(self.record)

    def write(self, path: str | Path) -> None:
        """Write the record as JSON into the file `path`; the adapter itself is in `output` already."""
        from netweight.output.result_file import write_file
        from netweight.output.table import write_json

        write_file(Path(path), lambda file: write_json(file, self.to_dict()))

    def __repr__(self) -> str:
        whole = self.record["whole"]
        return (
            f"<Extracted into {str(self.output)!r}: {whole['matrices']} matrices, relative error"
            f" {whole['relative_error']:.4g}>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame._repr_html_()}"


def _cells(name: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    squares, left = row["squares"], row["left"]
    error = sqrt(left / squares) if squares else None
    unrounded = None if row["unrounded_left"] is None else sqrt(row["unrounded_left"] / squares)
    values = row["singular_values"]
    return (
        name,
        row["kept"],
        row["shape"],
        row["rank"],
        min(row["shape"]) if row["rank"] else None,
        None if squares is None else sqrt(squares),
        error,
        unrounded,
        None if error is None else 1 - left / squares,
        values[0] if values else None,
        row["method"],
        row["readings"],
        row["bytes"],
        row["reason"],
    )
