"""The files of `delta`: tables, summaries and pictures, written into a folder that is put in place when all are
there.
"""

from __future__ import annotations

from functools import partial
from math import inf, nan
from pathlib import Path

from netweight.jobs.delta_result import COLUMNS, PER_PARAM, Delta
from netweight.measures import drift
from netweight.output.plots import cosine_heatmap, group_l2_bar
from netweight.output.table import Column, Row, write_csv, write_json, write_parquet

__all__ = ["RESERVED", "write_delta"]

RESERVED = ("pairwise_cosines.csv", "pairwise_cosines.png", "delta.parquet", ".netweight.json")
"""Names in the results' folder that no model may have."""

_TOP = 50


def preload() -> None:
    """Import what writing needs, so that it is there when the measuring is done."""
    from netweight.output.canvas import drawing

    with drawing():
        pass


def write_delta(result: Delta, folder: Path) -> None:
    """Write every file of specification `delta` into the empty `folder`; raises OSError where the disk refuses."""
    columns = [*(c for c in COLUMNS if c.name in ("param", "shape")), *drift.COLUMNS]
    assert tuple(c.name for c in columns) == PER_PARAM  # noqa: S101 - one list of names, two uses
    for number, model in enumerate(result.models):
        place = folder / model.name
        place.mkdir()
        rows = result.per_parameter(number)
        write_csv(place / "per_param_stats.csv", columns, rows)
        for key in ("l2", "maxabs"):
            at = PER_PARAM.index(key)
            top = sorted(rows, key=partial(_descending, at))
            write_csv(place / f"top{_TOP}_by_{key}.csv", columns, top[:_TOP])
        write_json(place / "summary.json", model.summary)
        groups = {
            name: nan if g["l2"] is None else g["l2"]
            for name, g in model.summary["groups"].items()
            if g["param_count_approx"]
        }
        relative = {name: model.summary["groups"][name]["relative_l2"] for name in groups}
        group_l2_bar(place / "group_l2_bar.png", model.name, groups, relative)
    names = [m.name for m in result.models]
    square = [Column("", "", "the model's name", "text"), *(Column(n, "", "cosine", "number") for n in names)]
    write_csv(folder / "pairwise_cosines.csv", square, [(n, *r) for n, r in zip(names, result.cosines, strict=True)])
    cosine_heatmap(folder / "pairwise_cosines.png", names, result.cosines)
    write_parquet(
        folder / "delta.parquet",
        COLUMNS,
        result.frame.rows,
        inputs=list(result.inputs),
        metadata={"netweight.device": result.device},
    )


def _descending(at: int, row: Row) -> float:
    """Largest first; a sum beyond float64 before all others."""
    value = row[at]
    return -inf if value is None else -float(value)
