"""`structure_many`: a folder of models analysed several at a time, each kept when done, and gathered at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.open import open_checkpoint
from netweight.errors import Interrupted, JobError, NetweightError, printable
from netweight.jobs.structure import Base, describe, name_of
from netweight.jobs.structure_files import read_earlier, summary_cells, write_many, write_model
from netweight.jobs.structure_folder import FoundModel, find_models
from netweight.jobs.structure_model import analyse, stamps
from netweight.jobs.structure_rows import LAYER_COLUMNS, SUMMARY_COLUMNS, ModelRow, boil_down, layer_cells
from netweight.output.folder import ResultFolder
from netweight.output.frame import Frame
from netweight.run.progress import Progress, Silent
from netweight.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["ModelResult", "Structures", "structure_many"]

Reference = str | os.PathLike[str]
_MOST_WORKERS = 8


@dataclass(frozen=True)
class ModelResult:
    """What became of one entry: `status` is "analysed", "kept" (an earlier result still fits), "failed" or "skipped";
    `row` are its counts, None for the last two; `error` says why.
    """

    name: str
    path: str
    kind: str
    status: str
    analysis: str
    row: ModelRow | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()


class Structures:
    """What `structure_many` returns: `models` in the order of their names, and what they were compared with."""

    def __init__(self, models_dir: str, base: Base | None, models: Sequence[ModelResult]) -> None:
        self.models_dir = models_dir
        self.models = tuple(models)
        self.timestamp = datetime.now().astimezone().replace(tzinfo=None).isoformat(timespec="seconds")
        self.base_name = base.found.name if base is not None else None
        self.base_ref = base.found.checkpoint.ref if base is not None else None
        self.base_row = boil_down(base.structure, None, str(self.base_ref)) if base is not None else None
        blocks = base.found.structure.blocks if base is not None else ()
        self.base_layers = tuple((block.stack, block.index) for block in blocks)

    def __repr__(self) -> str:
        done = sum(model.row is not None for model in self.models)
        return f"<Structures of {self.models_dir!r}: {done} models, {len(self.models) - done} without a result>"

    def to_dict(self) -> dict[str, Any]:
        """What batch_analysis_results.json holds."""
        return {
            "timestamp": self.timestamp,
            "models_dir": self.models_dir,
            "base_model": self.base_ref,
            "netweight": __version__,
            "counts": {
                status: sum(model.status == status for model in self.models)
                for status in ("analysed", "kept", "failed", "skipped")
            },
            "results": [self._result(model) for model in self.models],
        }

    def summary(self) -> dict[str, Any]:
        """What models_summary.json holds: every model with a result, then the others with their reasons."""
        return {
            "timestamp": self.timestamp,
            "models_dir": self.models_dir,
            "models": [_summary(model, model.row) for model in self.models if model.row is not None],
            "base_model": self.base_ref,
            "failed": [{"name": m.name, "error": m.error} for m in self.models if m.status == "failed"],
            "skipped": [{"name": m.name, "reason": m.error} for m in self.models if m.status == "skipped"],
        }

    @cached_property
    def frame(self) -> Frame:
        """A row for each layer of each model, and for each base layer that is gone."""
        rows = [layer_cells(m.name, row) for m in self.models if m.row is not None for row in m.row.rows]
        return Frame(LAYER_COLUMNS, rows)

    @cached_property
    def models_frame(self) -> Frame:
        """A row for each model."""
        return Frame(SUMMARY_COLUMNS, [summary_cells(model) for model in self.models])

    def to_pandas(self) -> pd.DataFrame:
        """The rows of `frame`; raises NetweightError where pandas is not installed."""
        return self.frame.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """The rows of `frame`; raises NetweightError where polars is not installed."""
        return self.frame.to_polars()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return self.models_frame._repr_html_()

    def write(self, folder: Reference) -> tuple[str, ...]:
        """Write the gathered files into `folder` in one step; returns notes. Raises OutputError and JobError."""
        inputs = [Path(model.path) for model in self.models if model.row is not None]
        with ResultFolder(Path(folder), inputs, "structure") as results:
            write_many(self, results.stage)
            return results.commit()

    def _result(self, model: ModelResult) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": model.name,
            "path": model.path,
            "type": model.kind,
            "status": model.status,
            "analysis": model.analysis,
        }
        if model.row is not None:
            entry |= {each.name: getattr(model.row, each.name) for each in fields(model.row) if each.name != "rows"}
        return entry | {"error": model.error, "notes": list(model.notes)}


def _summary(model: ModelResult, row: ModelRow) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": model.name,
        "total_params": row.total,
        "num_layers": row.layers,
        "layer_params": row.layer_params,
        "embedding_params": row.embedding,
        "lm_head_params": row.lm_head,
    }
    if row.original is not None:
        entry["pruning"] = {
            "original_params": row.original,
            "pruned_params": row.total,
            "reduction_ratio": row.reduction_ratio,
        }
        entry["removed_layers"] = list(row.removed or ())
    return entry | {
        "type": model.kind,
        "status": model.status,
        "zero_layers": row.zero_layers,
        "active_params": row.active,
        "config_disagreements": row.disagreements,
    }


def structure_many(
    models_dir: Reference,
    base: Reference | None = None,
    output_dir: Reference | None = None,
    *,
    merge_results: bool = False,
    reanalyze: bool = False,
    deep: bool = False,
    count_tied_twice: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Structures:
    """Analyse every model in `models_dir`, compare each with `base`, and gather the results in `output_dir`.

    Each model's own files go into its folder (`analysis/`) as soon as it is done; a later run keeps them where model,
    base and options are the same, unless `reanalyze`. `merge_results` only gathers what earlier runs left. A model
    that cannot be read is reported in its place and the others go on. `workers` models are analysed at a time (default:
    every core, at most 8); the results do not depend on it. `output_dir` None gathers nothing into files.

    Raises OptionError for a folder that is none, OutputError for an `output_dir` that cannot take results, what
    `open_checkpoint` raises for the base, JobError where no model at all could be analysed.
    """
    progress = progress or Silent()
    folder = Path(models_dir)
    found = find_models(folder, None if output_dir is None else Path(output_dir))
    with ExitStack() as stack:
        place = None
        if output_dir is not None:  # before any work: a place that cannot take results ends the run here
            inputs = [model.path for model in found if model.kind != "none"]
            place = stack.enter_context(ResultFolder(Path(output_dir), inputs, "structure"))
        original = None
        if base is not None:
            opened = stack.enter_context(open_checkpoint(base))
            original = Base(analyse(opened, name_of(base)), count_tied_twice=count_tied_twice)
        results: list[ModelResult | None] = [None] * len(found)

        def work(number: int) -> ModelResult:
            model = found[number]
            if model.kind == "none":
                return _without(model)
            if merge_results:
                return _gathered(model)
            return _one(model, original, reanalyze=reanalyze, deep=deep, count_tied_twice=count_tied_twice)

        progress.start(len(found), len(found))
        try:
            for number, result in _in_threads(work, len(found), workers or min(_MOST_WORKERS, os.cpu_count() or 1)):
                results[number] = result
                progress.advance(1, 1)
                if result.status == "failed":
                    progress.note(f"{printable(result.name)}: {result.error}")
        except KeyboardInterrupt:
            raise Interrupted("stopped; the models that were done are kept; run again to go on") from None
        finally:
            progress.stop()
        gathered = Structures(str(models_dir), original, [result for result in results if result is not None])
        if place is not None:
            write_many(gathered, place.stage)
            for note in place.commit():
                progress.note(note)
    failed = [model for model in gathered.models if model.status == "failed"]
    if failed and all(model.row is None for model in gathered.models):
        raise JobError(
            f"{printable(str(models_dir))}: none of its {len(failed)} models could be analysed; the first:"
            f" {printable(failed[0].name)}: {failed[0].error}"
        )
    return gathered


def _in_threads(work: Callable[[int], ModelResult], count: int, workers: int) -> Iterator[tuple[int, ModelResult]]:
    """(number, result) as they are done. Most of the work holds the interpreter's lock, and is best left to keep it:
    the executor of `run.threads` would hand it over every moment.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="netweight") as pool:
        numbers = {pool.submit(work, number): number for number in range(count)}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _without(model: FoundModel) -> ModelResult:
    status = "failed" if model.broken else "skipped"
    return ModelResult(
        model.name, str(model.path), model.kind, status, str(model.analysis), error=model.problem or "no model files"
    )


def _gathered(model: FoundModel) -> ModelResult:
    """What an earlier run left of `model`."""
    place = str(model.analysis)
    try:
        structure, comparison = read_earlier(model.analysis)
        if structure is None:
            return ModelResult(
                model.name, str(model.path), model.kind, "skipped", place, error="not analysed yet: nothing to gather"
            )
        row = boil_down(structure, comparison, place)
    except (NetweightError, OSError) as error:
        return ModelResult(model.name, str(model.path), model.kind, "failed", place, error=_line(error))
    return ModelResult(model.name, str(model.path), _kind_said(structure, model.kind), "kept", place, row)


def _one(
    model: FoundModel,
    base: Base | None,
    *,
    reanalyze: bool,
    deep: bool,
    count_tied_twice: bool,
) -> ModelResult:
    place, kind = str(model.analysis), model.kind
    try:
        with open_checkpoint(model.path) as checkpoint:
            if not reanalyze:
                now = {"netweight": __version__, "count_tied_twice": count_tied_twice, "files": stamps(checkpoint)}
                kept = _kept(model, base, now, deep=deep)
                if kept is not None:
                    return kept
            made = describe(checkpoint, model.name, base, deep=deep, count_tied_twice=count_tied_twice, workers=1)
        kind = made.structure["model_type"]
        row = boil_down(made.structure, made.comparison, place)
    except (NetweightError, OSError) as error:
        return ModelResult(model.name, str(model.path), kind, "failed", place, error=_line(error))
    notes: tuple[str, ...] = (*made.structure["notes"], *(made.comparison["notes"] if made.comparison else ()))
    try:
        notes += write_model(model.analysis, made.structure, made.comparison)
    except (NetweightError, OSError) as error:
        notes += (f"its own files were not written: {_line(error)}",)
    return ModelResult(model.name, str(model.path), kind, "analysed", place, row, notes=notes)


def _kept(model: FoundModel, base: Base | None, now: dict[str, Any], *, deep: bool) -> ModelResult | None:
    """The earlier result, where it is of these very files, this base and these options."""
    try:
        structure, comparison = read_earlier(model.analysis)
    except (NetweightError, OSError):
        return None  # it is made anew
    source = structure.get("source") if structure else None
    if structure is None or not isinstance(source, dict):
        return None
    if any(source.get(key) != value for key, value in now.items()) or (deep and source.get("deep") is not True):
        return None
    if base is not None:
        against = comparison.get("source") if comparison else None
        if not isinstance(against, dict) or against.get("base_files") != base.files:
            return None
    try:
        row = boil_down(structure, comparison if base is not None else None, str(model.analysis))
    except NetweightError:
        return None  # it is made anew
    notes = [note for note in structure.get("notes", ()) if isinstance(note, str)]
    return ModelResult(
        model.name,
        str(model.path),
        _kind_said(structure, model.kind),
        "kept",
        str(model.analysis),
        row,
        notes=tuple(notes),
    )


def _kind_said(structure: dict[str, Any], kind: str) -> str:
    said = structure.get("model_type")
    return said if said in {"standard", "bin", "slicegpt"} else kind


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, NetweightError):
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split())
