"""A delta as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from netweight.checkpoint.tensor import Skipped
from netweight.jobs.pages import card_of, section_of
from netweight.measures.kind import Kind
from netweight.output.frame import Frame
from netweight.page.section import Section

__all__ = ["section_of_delta"]


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
) -> Section:
    """Its section: a model at a time, the sums of its groups, and the cosines of all."""
    names = [model.name for model in models]
    return section_of(
        "delta",
        ", ".join(names),
        frame.columns,
        frame.rows,
        card=[*((model.name, str(model.kind)) for model in models), *card_of(inputs, device)],
        notes=notes,
        skipped=[(f"{model.name}: {s.name}", s.reason) for model in models for s in model.skipped],
        models=names,
        groups=[_sums(model.name, model.summary["groups"]) for model in models],
        cosines={"names": names, "values": cosines},
    )


def _sums(model: str, groups: Mapping[str, Any]) -> dict[str, Any]:
    """L2 of the groups that have parameters, for a picture."""
    held = {name: group["l2"] for name, group in groups.items() if group["param_count_approx"]}
    return {"model": model, "names": list(held), "values": list(held.values())}
