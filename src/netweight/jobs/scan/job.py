"""`scan`: the statistics, spectrum, quantization risk and sparsity of every matrix of a checkpoint, each read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_parts
from netweight.checkpoint.tensor import Skipped
from netweight.errors import OptionError, printable
from netweight.jobs.inputs import Reference, identity, locations
from netweight.jobs.journalled import Record, interruptible, journalled, note_resumed
from netweight.jobs.loops import compile_first
from netweight.jobs.scan.plan import Options, Prepared, choose, prepare
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, compiling, shown
from netweight.run.spread import device_notes, kernels_on

if TYPE_CHECKING:
    from netweight.jobs.scan.result import ScanResults
    from netweight.measures.measure import Measure
    from netweight.passes.subjects import Subject
    from netweight.run.execute import Executor

__all__ = ["scan"]

_STARTED = ""  # the journal's key for when the run began: no matrix has an empty name


def scan(
    ref: Reference,
    *,
    base: Reference | None = None,
    methods: str | Sequence[str] | None = None,
    output: Reference | None = None,
    plots: Reference | None = None,
    plot_tensors: Sequence[str] = (),
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    model_id: str | None = None,
    revision: str | None = None,
    **settings: Any,
) -> ScanResults:
    """Measure every matrix of the model `ref`: {parameter: {measure: {field: value}}}.

    `base`: measure what the model has more than this one, in float32, instead of its weights: the spectra of what a
    fine-tune changed. `methods`: measures, or "all" (default: basic_stats; for CSV output also spectral). `output`: a
    .json, .csv or .parquet file, put in place in one step at the end; `plots`: a folder for pictures, `plot_tensors`:
    globs of the matrices that are drawn one by one there (default: the four most telling). `resume` continues a run
    into `output` that was stopped, and gives the same bytes. `model_id` and `revision` (default: the commit of a model
    of the hub) are recorded. `executor` runs the tasks (default: threads); `settings` are the fields of Options by
    name.

    A matrix whose bytes cannot be read is listed in the result's `failed`, and does not stop the others. Raises
    InputError and its kin before any data is read, ReadError where the file changes meanwhile.
    """
    from netweight.jobs.scan.result import check_output, write_results

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    measures = choose(methods, output)
    if resume and output is None:
        raise OptionError("--resume: goes on with a run that has an output file; give --output FILE as that run had it")
    with ExitStack() as stack:
        target = None if output is None else check_output(output)
        prepared = prepare(ref, measures, options, stack, base)
        if plot_tensors:
            from netweight.jobs.scan.plots import check_globs

            if plots is None:
                raise OptionError("--plot-tensors: chooses what is drawn; give --plots DIR as well")
            check_globs([subject.name for subject in prepared.subjects], plot_tensors)
        if plots is not None:  # before the work: a place that cannot take pictures ends the run here
            from netweight.jobs.scan.plots import plots_folder

            plots_folder(plots, locations(prepared.inputs), prepared.measures).check()
        plan = prepared.plan
        executor = executor or stack.enter_context(planned_executor(options, plan.workers, plan.memory))
        about = {"model_id": model_id, "revision": revision or prepared.checkpoint.revision}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if target is None:
            result = _run(prepared, options, progress, Record(), executor, now, about)
        else:
            from netweight.output.result_file import ResultFile

            file = stack.enter_context(ResultFile(target, locations(prepared.inputs), resume=resume))
            left = f"stopped; {printable(str(target))} was not changed; run again with --resume to go on"
            with interruptible(lambda: left), journalled(file.journal_path, plan.digest, resume=resume) as record:
                if resume:
                    note_resumed(progress, len(record.done.keys() - {_STARTED}), plan.tensors, "matrices")
                began = _began(record, now)
                result = _run(prepared, options, progress, record, executor, began, about)
            file.commit(lambda path: write_results(result, path))
        if plots is not None:
            _draw(result, prepared, Path(plots), plot_tensors, progress)
        return result


def _draw(
    result: ScanResults, prepared: Prepared, plots: Path, plot_tensors: Sequence[str], progress: Progress
) -> None:
    """Put the pictures into the folder `plots` in one step."""
    from netweight.jobs.scan.plots import plots_folder, write_plots

    with plots_folder(plots, locations(prepared.inputs), prepared.measures) as folder:
        notes = write_plots(result, prepared.subjects, folder.stage, plot_tensors)
        for note in (*notes, *folder.commit()):
            progress.note(note)


def _began(record: Record, now: str) -> str:
    """When the run began: what its journal says, else `now`, which is kept there."""
    if _STARTED not in record.done:
        record.append(_STARTED, {"at": now})
    return str(record.done.pop(_STARTED, {"at": now})["at"])


def _run(
    prepared: Prepared,
    options: Options,
    progress: Progress,
    record: Record,
    executor: Executor,
    began: str,
    about: dict[str, str | None],
) -> ScanResults:
    """Measure all matrices but those that `record` has."""
    from netweight.jobs.scan.result import ScanResults
    from netweight.kernels.choose import kernels_for
    from netweight.passes.scans import measure_subjects

    kernels = kernels_on(prepared.choice, kernels_for, note=progress.note)
    plan = prepared.plan
    fields = dict(record.done)  # {matrix: {measure: {field: value}}}
    failed: dict[str, Skipped] = {}
    loads = [load for load in prepared.loads if load.subject.name not in fields]
    announce_parts((load.subject.tensor, load.subject.part) for load in loads)
    done = len(plan.tasks) - len(loads)
    jobs = [f"scan {measure.name}" for measure in prepared.measures]
    compile_first(jobs, {load.subject.tensor.dtype for load in loads}, prepared.choice, progress)
    with shown(progress, plan.tensors, plan.nbytes, done, plan.bytes_of(fields)), compiling(progress):
        results = measure_subjects(
            loads,
            (*prepared.measures, *prepared.pictures),
            executor,
            kernels,
            budget=prepared.budget,
            leading=options.rank_k,
            seed=options.seed,
            exact=options.exact,
            note=progress.note,
        )
        for subject, measured in results:
            if isinstance(measured, Skipped):
                failed[subject.name] = measured
                progress.note(f"{printable(subject.name)}: {measured.reason}")
            else:
                fields[subject.name] = measured
                record.append(subject.name, measured)
            progress.advance(1, subject.nbytes)
    for checkpoint in prepared.inputs:
        checkpoint.check_unchanged()
    rows = [
        _row(subject, fields[subject.name], prepared.pictures)
        for subject in prepared.subjects
        if subject.name in fields
    ]
    return ScanResults(
        rows,
        prepared.measures,
        ref=prepared.checkpoint.ref,
        skipped=prepared.skipped,
        failed=[failed[subject.name] for subject in prepared.subjects if subject.name in failed],
        notes=(*prepared.notes, *device_notes(kernels), *_half_empty(prepared.subjects, fields)),
        inputs=[identity(checkpoint) for checkpoint in prepared.inputs],
        differences=prepared.differences,
        created_at=began,
        device=plan.device,
        pictures=prepared.pictures,
        **about,
    )


def _half_empty(subjects: Sequence[Subject], fields: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """A note where float32 matrices hold values of bfloat16 alone, whose leading 16 bits are all there is."""
    from netweight.passes.matrices import FEW

    wide = [s for s in subjects if s.tensor.stored == "F32" and s.part.size > FEW and not s.fused]
    known = [fields[s.name]["basic_stats"] for s in wide if "basic_stats" in fields.get(s.name, ())]
    empty = sum(stats["distinct_values"] is not None and stats["maxabs"] > 0 for stats in known)
    if not empty:
        return ()
    which = f"all {empty}" if empty == len(known) else f"{empty} of {len(known)}"
    said = f"{which} float32 matrices of more than {FEW:,} elements hold values of bfloat16 alone"
    return (f"{said}: stored as bfloat16 they take half, and lose nothing",)


def _row(subject: Subject, measured: dict[str, dict[str, Any]], pictures: Sequence[Measure]) -> Any:
    from netweight.jobs.scan.result import ScanRow

    drawn = {measure.name for measure in pictures}

    rows, cols = subject.part.stored_shape
    return ScanRow(
        subject.name,
        subject.parameter,
        subject.tensor.shape,
        rows,
        cols,
        subject.tensor.dtype.name,
        subject.part.size,
        {name: fields for name, fields in measured.items() if name not in drawn},
        subject.fused,
        {name: measured[name] for name in drawn},
    )
