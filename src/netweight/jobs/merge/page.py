"""A merge as a page shows it: what every parameter was made of, by which settings, and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.jobs.merge.columns import COLUMNS, cells
from netweight.jobs.pages import card_of, section_of
from netweight.page.section import Bars, Section, Square
from netweight.params.role import classify_all
from netweight.passes.merge_samples import STRETCH, STRETCHES

if TYPE_CHECKING:
    from netweight.passes.merge_samples import MergeSample

__all__ = ["section_of_merge"]

_ROLE = Column("role", "", "its role: q_proj, norm, embedding ...", "text")


def section_of_merge(
    title: str, record: Mapping[str, Any], notes: Sequence[str], samples: Mapping[str, MergeSample] | None = None
) -> Section:
    """The section of what netweight_merge.json holds: settings and weights of every parameter, norms and cosines of the
    task vectors where they were measured, and the recipe; and `samples` of the task vectors where there are some.
    """
    parameters: Mapping[str, Mapping[str, Any]] = record["parameters"]
    refs = [str(entry["ref"]) for entry in record["inputs"]]
    roles = classify_all({name: tuple(p["shape"]) for name, p in parameters.items()})
    settings = {key for p in parameters.values() for key in p["settings"]}
    own = sorted({(key, number) for p in parameters.values() for key, number, _ in _own(p)})
    whole = [Column(key, "", "a setting of the method", "number") for key in sorted(settings)]
    each = [Column(f"{key} of {refs[number]}", "", f"{key} of this model", "number") for key, number in own]
    sampled = _sampled(samples or {}, refs)
    rows = []
    for name, p in parameters.items():
        held = {(key, number): value for key, number, value in _own(p)}
        settings_of = (_number(p["settings"].get(column.name)) for column in whole)
        settings_of_each = (_number(held.get(key)) for key in own)
        found = _sample_cells(samples[name], p, len(refs)) if samples and name in samples else [None] * len(sampled)
        rows.append((*cells(name, p), roles[name].role, *settings_of, *settings_of_each, *found))
    weights = record.get("weights") or {}
    models = weights.get("models") or []
    names = [str(model["model"]) for model in models]
    measured = [model["l2"] for model in models]
    card = [("method", ", ".join(sorted({str(p["method"]) for p in parameters.values() if p["method"]})))]
    card += [(f"weight of {m['model']}", f"{m['weight']:.6g}") for m in models if m["weight"] is not None]
    card += [(f"L2 of {m['model']}", f"{m['l2']:.6g}") for m in models if m["l2"] is not None]
    if weights.get("merged_l2") is not None:
        card.append(("L2 of the weighted sum", f"{weights['merged_l2']:.6g}"))
    card += [*card_of(record["inputs"], str(record.get("device", ""))), ("recipe", str(record["recipe"]))]
    square = weights.get("cosines")
    return section_of(
        "merge",
        title,
        (*COLUMNS, _ROLE, *whole, *each, *sampled),
        rows,
        card=card,
        notes=notes,
        skipped=[(str(entry["name"]), str(entry["reason"])) for entry in record["dropped"]],
        bars=[Bars("norms", names, measured)] if names and None not in measured else [],
        square=Square("cosines", names, square) if square and names else None,
    )


def _sampled(samples: Mapping[str, MergeSample], refs: Sequence[str]) -> list[Column]:
    """The columns of a sample; none where there is none."""
    if not samples:
        return []
    how = f"of {STRETCHES} x {STRETCH} elements that lie evenly over the parameter"
    conflicts = f"share {how} that one task vector raises and another lowers, of those that any changes"
    return [
        Column("conflicts", "", conflicts, "number"),
        Column("moved", "", f"root mean square {how}: the merged ones less the base's", "number"),
        *(
            Column(f"moved of {ref}", "", f"root mean square {how}: this model's less the base's", "number")
            for ref in refs
        ),
    ]


def _sample_cells(sample: MergeSample, parameter: Mapping[str, Any], count: int) -> list[Any]:
    """The cells of a sample, those of models by the numbers of the recipe's inputs."""
    moved = dict(zip((entry["model"] for entry in parameter["inputs"][1:]), sample.rms, strict=True))
    cells = [sample.conflicts, sample.merged, *(moved.get(number) for number in range(count))]
    return [cell if cell is not None and isfinite(cell) else None for cell in cells]


def _own(parameter: Mapping[str, Any]) -> list[tuple[str, int, Any]]:
    """(setting, number of the model's input, value) of a parameter's own settings of each model."""
    inputs = [entry["model"] for entry in parameter["inputs"]]
    behind = inputs[len(inputs) - len(parameter["each"]) :]
    return [
        (key, number, value)
        for number, each in zip(behind, parameter["each"], strict=True)
        for key, value in each.items()
    ]


def _number(value: Any) -> float | None:
    """Flags as 1 and 0, so that a map can show them."""
    return None if value is None else float(value)
