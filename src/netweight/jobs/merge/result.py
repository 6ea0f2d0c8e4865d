"""The result of `merge`: the model's folder, the weights and their reasons, a row for each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.jobs.merge.columns import COLUMNS, cells
from netweight.jobs.merge.page import section_of_merge
from netweight.jobs.pages import Reported
from netweight.output.frame import Frame, Framed
from netweight.page.section import Section

if TYPE_CHECKING:
    from netweight.passes.merge_samples import MergeSample

__all__ = ["Merged", "weight_text", "weighting_lines"]


class Merged(Reported, Framed):
    """The result of `netweight.merge`. `record` is what netweight_merge.json holds; `output` the model's folder;
    `samples`: of the task vectors by parameter, for a page, where they were asked for.
    """

    samples: Mapping[str, MergeSample] | None = None

    def __init__(self, output: Path, record: Mapping[str, Any], notes: Sequence[str]) -> None:
        self.output = output
        self.record = record
        self.notes = tuple(notes)
        self.inputs = tuple(record["inputs"])

    @property
    def recipe(self) -> str:
        """The recipe that was run, in YAML."""
        return str(self.record["recipe"])

    @property
    def weights(self) -> Mapping[str, Any]:
        """The weights and their reasons: mode, norms, cosines; empty where a recipe gave them."""
        weights: Mapping[str, Any] = self.record["weights"] or {}
        return weights

    @cached_property
    def frame(self) -> Frame:
        """A row for each parameter of the merged model, in its files' order."""
        rows = [cells(name, parameter) for name, parameter in self.record["parameters"].items()]
        return Frame(COLUMNS, rows)

    def section(self) -> Section:
        """See Reported."""
        return section_of_merge(self.output.name, self.record, self.notes, self.samples)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: the record."""
        return dict(self.record)

    def write(self, path: str | Path) -> None:
        """Write the record as JSON into the file `path`; the model itself is in `output` already."""
        from netweight.output.result_file import write_file
        from netweight.output.table import write_json

        write_file(Path(path), lambda file: write_json(file, self.to_dict()))

    def __repr__(self) -> str:
        return f"<Merged into {str(self.output)!r}: {len(self.record['parameters'])} parameters>"


def weight_text(weight: float) -> str:
    """A weight in six decimals, or in six figures where those would be all zeros or digits without end."""
    return f"{weight:.6f}" if not weight or 1e-3 <= abs(weight) < 1e6 else f"{weight:.6g}"


def weighting_lines(weights: Mapping[str, Any]) -> list[str]:
    """One line a model: weight and norm; then the norm of the sum."""
    lines = []
    for model in weights.get("models", ()):
        weight = "by parameter" if model["weight"] is None else weight_text(model["weight"])
        norm = "" if model["l2"] is None else f", L2 {model['l2']:.6g}"
        lines.append(f"{model['model']}: weight {weight}{norm}")
    if weights.get("merged_l2") is not None:
        lines.append(f"norm of the weighted sum of the task vectors: {weights['merged_l2']:.6g}")
    return lines
