"""`structure_many`: analyses a folder of models, several at a time, keeps each result when it is done, gathers all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import Interrupted, JobError, NetweightError, OptionError, printable
from netweight.jobs.inputs import Reference
from netweight.jobs.pages import Reported, as_table
from netweight.jobs.structure.files import read_earlier
from netweight.jobs.structure.folder import find_models
from netweight.jobs.structure.job import Base, name_of, workers_within
from netweight.jobs.structure.member import Member, ModelResult
from netweight.jobs.structure.model import analyse
from netweight.jobs.structure.page import section_of_structures
from netweight.jobs.structure.rows import LAYER_COLUMNS, SUMMARY_COLUMNS, ModelRow, layer_cells, summary_row
from netweight.output.folder import ResultFolder
from netweight.output.frame import Frame, Framed
from netweight.output.table import Row, write_csv, write_json, write_parquet
from netweight.page.section import Section
from netweight.params.opening import open_whole
from netweight.run.progress import Progress, Silent
from netweight.run.threads import ThreadExecutor
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.structure.member import ModelResult

__all__ = ["Structures", "structure_many", "summary_cells", "write_many"]

_MOST_WORKERS = 8
_KIND = "structures"  # of the gathered files, told from those of one model in the same folder
_REDUCTION = "reduction_by_layer.png"
_GATHERED = (
    "batch_analysis_results.json",
    "models_summary.json",
    "models_summary.csv",
    "structure.csv",
    "structure.parquet",
    "parameters_by_part.png",
)


class Structures(Reported, Framed):
    """The result of `structure_many`: `models` in the order of their names, and what they were compared with."""

    def __init__(self, models_dir: str, base: Base | None, models: Sequence[ModelResult]) -> None:
        self.models_dir = models_dir
        self.models = tuple(models)
        self.timestamp = datetime.now().astimezone().replace(tzinfo=None).isoformat(timespec="seconds")
        self.base_name: str | None = None
        self.base_ref: str | None = None
        self.base_row: ModelRow | None = None
        self.base_layers: tuple[tuple[str, int], ...] = ()
        if base is not None:
            self.base_name, self.base_ref = base.model.name, base.model.checkpoint.ref
            self.base_row = summary_row(base.structure, None, self.base_ref)
            self.base_layers = tuple((block.stack, block.index) for block in base.model.structure.blocks)
        else:
            self._take_base_from_models()

    def __repr__(self) -> str:
        done = sum(model.row is not None for model in self.models)
        return f"<Structures of {self.models_dir!r}: {done} models, {len(self.models) - done} without a result>"

    def _take_base_from_models(self) -> None:
        """Where earlier results are gathered without their base: what they were compared with, if all with one."""
        rows = [model.row for model in self.models if model.row is not None and model.row.original is not None]
        if len({(row.base_name, row.base_ref, row.original) for row in rows}) != 1:
            return
        self.base_name, self.base_ref = rows[0].base_name, rows[0].base_ref
        layers = {(layer.stack, layer.base_layer) for row in rows for layer in row.rows if layer.base_layer is not None}
        self.base_layers = tuple(sorted(layers, key=lambda layer: (layer[0] == "decoder", *layer)))

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

    def locations(self) -> list[Path]:
        """See Reported."""
        return [Path(model.path) for model in self.models if model.row is not None]

    def section(self) -> Section:
        """See Reported: the models beside each other, and the layers of each from its own files."""
        found, missing = [], [(model.name, model.error or "") for model in self.models if model.row is None]
        for model in (model for model in self.models if model.row is not None):
            try:
                structure, comparison = read_earlier(Path(model.analysis))
            except (NetweightError, OSError) as error:
                missing.append((model.name, f"its layers: {error}"))
                continue
            if structure is None:
                missing.append((model.name, f"its layers: {model.elsewhere or 'its own files are gone'}"))
            else:
                compared = model.row is not None and model.row.original is not None
                found.append((structure | {"model_name": model.name}, comparison if compared else None))
        beside = as_table("models", SUMMARY_COLUMNS, self.models_frame.rows)
        return section_of_structures(self.models_dir, found, [beside], missing)

    def write(self, folder: Reference) -> tuple[str, ...]:
        """Write the gathered files into `folder` in one step; returns notes. Raises OutputError and JobError."""
        with gathered_folder(folder, self.locations(), compared=bool(self.base_layers)) as results:
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
            entry |= {field.name: getattr(model.row, field.name) for field in fields(model.row) if field.name != "rows"}
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
    memory: int | None = None,
    progress: Progress | None = None,
) -> Structures:
    """Analyse every model in `models_dir`, compare each with `base`, and gather the results in `output_dir`.

    Each model's own files go into its folder (`analysis/`) as soon as it is done, or below `output_dir` where that
    folder cannot be written; a later run keeps them where model, base and options are the same, unless `reanalyze`.
    `merge_results` only gathers what earlier runs left. A model that cannot be read is reported in its place and the
    others go on. `workers` models are analysed at a time (default: every core, at most 8; fewer within `memory` bytes);
    the results do not depend on it. `output_dir` None gathers nothing into files.

    Raises OptionError for a folder that is none, OutputError for an `output_dir` that cannot take results, what
    `open_whole` raises for the base, JobError where no model at all could be analysed.
    """
    progress = progress or Silent()
    if merge_results and (reanalyze or deep):
        raise OptionError(
            f"--merge-results only gathers earlier results: leave it out, or --{'reanalyze' if reanalyze else 'deep'}"
        )
    target = None if output_dir is None else Path(output_dir)
    models = find_models(models_dir, target)
    if not models:
        raise OptionError(
            f"--models-dir {printable(str(models_dir))}: holds no folders and no weight files;"
            " give the folder of the models"
        )
    with ExitStack() as stack:
        results_folder = None
        if target is not None:  # before any work: a place that cannot take results ends the run here
            inputs = [model.path for model in models if model.kind != "none"]
            results_folder = stack.enter_context(gathered_folder(target, inputs, compared=base is not None))
        original = None
        if base is not None:
            opened = stack.enter_context(open_whole(base))
            original = Base(analyse(opened, name_of(base)), count_tied_twice=count_tied_twice)

        def work(number: int) -> ModelResult:
            member = Member(models[number], original, target, deep=deep, count_tied_twice=count_tied_twice)
            if merge_results:
                return member.gather()
            return member.unanalysed() if member.model.kind == "none" else member.analyse(again=reanalyze)

        at_a_time = workers_within(workers or min(_MOST_WORKERS, os.cpu_count() or 1), memory)
        gathered = Structures(str(models_dir), original, _results(work, len(models), at_a_time, progress))
        if results_folder is not None:
            write_many(gathered, results_folder.stage)
            for note in results_folder.commit():
                progress.note(note)
    _check_any_analysed(gathered)
    return gathered


def _check_any_analysed(gathered: Structures) -> None:
    failed = [model for model in gathered.models if model.status == "failed"]
    if failed and all(model.row is None for model in gathered.models):
        raise JobError(
            f"{printable(gathered.models_dir)}: none of its {len(failed)} models could be analysed; the first:"
            f" {printable(failed[0].name)}: {failed[0].error}"
        )


def _results(work: Callable[[int], ModelResult], count: int, workers: int, progress: Progress) -> list[ModelResult]:
    """The results of models 0 to `count`, in their order."""
    results: dict[int, ModelResult] = {}
    left = iter(range(count))
    # most of the work holds the interpreter's lock, and is faster if it keeps it
    executor = ThreadExecutor(workers, handover=inf)
    progress.start(count, count)
    try:
        for number, result in executor.run(lambda: next(left, None), work):
            results[number] = result
            progress.advance(1, 1)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the models that were done are kept; run again to go on") from None
    finally:
        progress.stop()
    return [results[number] for number in range(count)]


def gathered_folder(folder: Reference, inputs: Sequence[Path], *, compared: bool) -> ResultFolder:
    """The folder of the gathered files, not entered yet; `compared`: with a base."""
    planned = [*_GATHERED, *([_REDUCTION] if compared else [])]
    return ResultFolder(Path(folder), inputs, _KIND, planned=planned)


def write_many(result: Structures, folder: Path) -> None:
    """Write the gathered files into the empty `folder`; raises OSError where the disk refuses."""
    from netweight.figures.structure import parameters_by_part, reduction_by_layer

    write_json(folder / "batch_analysis_results.json", result.to_dict())
    write_json(folder / "models_summary.json", result.summary())
    write_csv(folder / "models_summary.csv", SUMMARY_COLUMNS, [summary_cells(m) for m in result.models])
    rows = [layer_cells(m.name, row) for m in result.models if m.row for row in m.row.rows]
    write_csv(folder / "structure.csv", LAYER_COLUMNS, rows)
    inputs = [{"name": m.name, "path": m.path, "type": m.kind} for m in result.models]
    write_parquet(folder / "structure.parquet", LAYER_COLUMNS, rows, inputs=inputs)
    parameters_by_part(folder / "parameters_by_part.png", *_parts(result))
    if result.base_layers:
        reduction_by_layer(folder / _REDUCTION, *_reductions(result))


def summary_cells(model: ModelResult) -> Row:
    """One model under SUMMARY_COLUMNS."""
    row = model.row
    if row is None:
        return (model.name, model.kind, model.status, *([None] * 18), model.path, model.error)
    removed = None if row.removed is None else " ".join(str(label) for label in row.removed)
    return (
        model.name, model.kind, model.status, row.total, row.layers, row.layer_params, row.embedding, row.lm_head,
        row.attention, row.mlp, row.norm, row.rotation, row.active, row.buffers, row.bytes, row.zero_layers,
        row.zero_share, row.original, row.reduction_ratio, removed, row.disagreements, model.path, model.error,
    )  # fmt: skip


def _parts(result: Structures) -> tuple[list[str], list[dict[str, int]]]:
    """(names, elements by part) of the base and of every model that was analysed."""
    names, parts = [], []
    if result.base_row is not None:
        names.append(f"{result.base_name} (base)")
        parts.append(_by_part(result.base_row))
    for model in result.models:
        if model.row is not None:
            names.append(model.name)
            parts.append(_by_part(model.row))
    return names, parts


def _by_part(row: Any) -> dict[str, int]:
    if row.attention is None:  # files of the tool that netweight replaces
        parts = {"embedding": row.embedding, "layers": row.layer_params, "lm_head": row.lm_head}
    else:
        parts = {
            "embedding": row.embedding,
            "attention": row.attention,
            "mlp": row.mlp,
            "norm": row.norm,
            "rotation": row.rotation,
            "lm_head": row.lm_head,
        }
    return parts | {"other": row.total - sum(parts.values())}


def _reductions(result: Structures) -> tuple[list[str], list[str], list[list[float | None]]]:
    """(names, labels of the base's layers, reduction ratios)."""
    column = {key: i for i, key in enumerate(result.base_layers)}
    names: list[str] = []
    cells: list[list[float | None]] = []
    for model in result.models:
        if model.row is None or model.row.original is None:
            continue
        line: list[float | None] = [None] * len(column)
        for row in model.row.rows:
            at = column.get((row.stack, row.base_layer)) if row.base_layer is not None else None
            if at is not None:
                line[at] = row.reduction_ratio
        names.append(model.name)
        cells.append(line)
    labels = [f"{stack}.{index}" if stack else str(index) for stack, index in result.base_layers]
    return names, labels, cells
