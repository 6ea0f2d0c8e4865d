"""A delta as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from netweight.checkpoint.tensor import Skipped
from netweight.columns import Column
from netweight.jobs.pages import card_of, section_of
from netweight.measures import histogram
from netweight.measures.kind import Kind
from netweight.output.frame import Frame
from netweight.output.table import Row
from netweight.page.section import Bars, Section, Square

__all__ = ["group_bars", "section_of_delta"]


class _Model(Protocol):
    """What of a ModelDelta is on the page."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def skipped(self) -> tuple[Skipped, ...]: ...


def section_of_delta(
    frame: Frame,
    models: Sequence[_Model],
    cosines: Sequence[Sequence[float | None]],
    notes: Sequence[str],
    inputs: Sequence[Any],
    device: str,
    histograms: Sequence[Mapping[str, Any] | None] = (),
) -> Section:
    """Its section: a model at a time, the sums of its groups, and the cosines of all. `histograms`: those of the
    differences, for each row.
    """
    names = [model.name for model in models]
    columns: Sequence[Column] = frame.columns
    rows: Sequence[Row] = frame.rows
    if histograms:
        columns = (*columns, *(Column(f"histogram.{c.name}", c.unit, c.doc, c.type) for c in histogram.COLUMNS))
        lists = [[None if held is None else held[c.name] for c in histogram.COLUMNS] for held in histograms]
        rows = [(*row, *own) for row, own in zip(rows, lists, strict=True)]
    return section_of(
        "delta",
        ", ".join(names),
        columns,
        rows,
        card=[*((model.name, str(model.kind)) for model in models), *card_of(inputs, device)],
        notes=notes,
        skipped=[(f"{model.name}: {s.name}", s.reason) for model in models for s in model.skipped],
        models=names,
        bars=[group_bars(model.name, model.summary["groups"]) for model in models],
        square=Square("cosines", names, cosines),
    )


def group_bars(model: str, groups: Mapping[str, Any]) -> Bars:
    """L2 of the groups that have parameters."""
    held = {str(name): group["l2"] for name, group in groups.items() if group["param_count_approx"]}
    return Bars("groups", list(held), list(held.values()), model)
