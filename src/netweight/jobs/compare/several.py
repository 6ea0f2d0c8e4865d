"""Several quantisations of one model side by side: each compared with the original, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.errors import OptionError, printable
from netweight.jobs.compare.job import compare
from netweight.jobs.compare.plan import Options
from netweight.jobs.compare.quantisation import Quantisation, quantisation_of
from netweight.jobs.compare.result import Comparison, check_output
from netweight.jobs.inputs import Reference
from netweight.jobs.scan.result import check_file, finite
from netweight.output.table import Row, write_csv, write_json, write_parquet
from netweight.run.progress import Progress, Silent

if TYPE_CHECKING:
    from netweight.run.execute import Executor

__all__ = ["SideBySide", "compare_to"]


class SideBySide:
    """The result of `compare_to`: `original`, and `models`, a Comparison of the original with each model by its
    reference; `quantisations` says of each what it did, the fewest bits first.
    """

    def __init__(self, original: str, models: Mapping[str, Comparison]) -> None:
        self.original = original
        self.models = dict(models)
        made = {ref: quantisation_of(result.parameters, always=True) for ref, result in models.items()}
        known = {ref: q for ref, q in made.items() if q is not None}
        ranked = sorted(known.items(), key=lambda item: item[1].total["bits_per_weight_b"])
        self.quantisations: dict[str, Quantisation] = dict(ranked)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, NaN and infinities None."""
        models = {
            ref: {
                **(self.quantisations[ref].to_dict() if ref in self.quantisations else {}),
                "parameters": result["layer_comparisons"],
                "only_in_original": result["only_in_model1"],
                "only_in_model": result["only_in_model2"],
                "skipped": [{"name": s.name, "reason": s.reason} for s in (*result.skipped, *result.failed)],
                "notes": list(result.notes),
                "inputs": list(result.inputs),
            }
            for ref, result in self.models.items()
        }
        return {"original": self.original, "models": {ref: finite(about) for ref, about in models.items()}}

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of a comparison, behind the model."""
        first = next(iter(self.models.values()))
        return (Column("model", "", "the model that is compared with the original", "text"), *first.columns)

    def rows(self) -> list[Row]:
        """A row for each parameter of each model."""
        return [(ref, *row) for ref, result in self.models.items() for row in result.frame.rows]

    def write(self, path: Path) -> None:
        """Write the form that the suffix of `path` names; raises OSError where the disk refuses."""
        match path.suffix.lower():
            case ".json":
                write_json(path, self.to_dict())
            case ".csv":
                write_csv(path, self.columns, self.rows())
            case _:
                inputs = [entry for result in self.models.values() for entry in result.inputs]
                write_parquet(path, self.columns, self.rows(), inputs=inputs, metadata={})


def compare_to(
    original: Reference,
    models: Sequence[Reference],
    *,
    output: Reference | None = None,
    plots: Reference | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> SideBySide:
    """Compare each of `models`, quantisations of one model as a rule, with their `original`.

    `output`: a .json, .csv or .parquet file of all; `plots`: a folder for pictures; both are put in place in one step
    at the end. The rest as for `compare`, which raises what this does; OptionError for a model that is named twice.
    """
    options = replace(options or Options(), **settings)
    references = [str(model) for model in models]
    if not references:
        raise OptionError("--to: expected the models that are compared with the original, got none")
    twice = next((ref for number, ref in enumerate(references) if ref in references[:number]), None)
    if twice is not None:
        raise OptionError(f"{printable(twice)}: is named twice; leave one out")
    progress = progress or Silent()
    target = None if output is None else check_output(output)
    if target is not None:  # before the work: a place that cannot take results ends the run here
        check_file(target, ())
    if plots is not None:
        from netweight.jobs.compare.plots import plots_folder

        plots_folder(plots, ()).check()
    with ExitStack() as stack:
        found = {
            ref: compare(original, ref, options=options, progress=progress, executor=executor) for ref in references
        }
        result = SideBySide(str(original), found)
        inputs = [Path(entry["path"]) for held in found.values() for entry in held.inputs]
        if target is not None:
            from netweight.output.result_file import ResultFile

            stack.enter_context(ResultFile(target, inputs)).commit(result.write)
        if plots is not None:
            from netweight.jobs.compare.plots import draw

            for note in draw([found[ref] for ref in result.quantisations], list(result.quantisations), plots, inputs):
                progress.note(note)
        return result
