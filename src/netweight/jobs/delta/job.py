"""`delta`: what each fine-tune changed in its base, where, and how alike the fine-tunes are, in one pass over the
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_tensors
from netweight.errors import printable
from netweight.jobs.delta.adapters import delta_of_adapters, with_factors
from netweight.jobs.delta.plan import Options, Prepared, prepare
from netweight.jobs.inputs import Reference
from netweight.jobs.journalled import Record, interruptible, journalled, note_resumed
from netweight.jobs.kinds import Updates, look_at_updates
from netweight.jobs.loops import compile_first
from netweight.params.pairing import Aligned
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, compiling, shown
from netweight.run.spread import DeviceKernels, device_notes, kernels_on, prepare_on

if TYPE_CHECKING:
    from netweight.jobs.delta.result import Delta, ParameterDelta
    from netweight.kernels.protocol import Kernels
    from netweight.run.execute import Executor

__all__ = ["delta"]


def delta(
    base: Reference | None,
    models: Reference | Sequence[Reference],
    outdir: Reference | None = None,
    *,
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Delta:
    """Measure the task vectors of `models` (fine-tuned - base); base and models are read once each, and a sample of the
    matrices that changed once more, for the kind of each fine-tune. Without a `base` (None) adapters alone are
    measured, by their factors: norms, inner products and singular values.

    `outdir`: where the result files go, put in place in one step at the end; None writes nothing. `resume` continues a
    run into `outdir` that was stopped, and gives the same bytes. `executor` runs the tasks (default: threads, as many
    as `options` allow). `settings` are the fields of Options by name.

    Differences are float32 of the upcast values (float64 where either side is float64); every statistic is exact or
    accumulated in float64, over the finite values; what could not be measured is listed with its reason. Raises
    InputError and its kin before any data is read, ReadError where bytes cannot be read or change meanwhile.
    """
    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    if base is None:
        return delta_of_adapters(models, outdir, options)
    with ExitStack() as stack:
        prepared = prepare(base, models, options, stack)
        plan = prepared.plan
        executor = executor or stack.enter_context(planned_executor(options, plan.workers, plan.memory))
        if outdir is None:
            return _run(prepared, progress, Record(), executor)
        from netweight.jobs.delta.result import preload, result_folder, write_delta

        folder = stack.enter_context(result_folder(outdir, prepared.locations(), prepared.names, resume=resume))
        writing = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="netweight-preload")).submit(preload)
        left = f"stopped; nothing in {printable(str(outdir))} was changed; run again with --resume to go on"
        with interruptible(lambda: left):
            with journalled(folder.journal_path, plan.digest, resume=resume) as record:
                if resume:
                    note_resumed(progress, len(record.done), plan.tensors)
                result = _run(prepared, progress, record, executor)
            writing.result()
            write_delta(result, folder.stage)
        for note in folder.commit():
            progress.note(note)
        return result


def _run(prepared: Prepared, progress: Progress, record: Record, executor: Executor) -> Delta:
    """Measure all parameters but those that `record` has."""
    from netweight.jobs.delta.result import Delta
    from netweight.kernels.choose import kernels_for

    kernels = kernels_on(prepared.choice, kernels_for, prepared.plan.workers, progress.note)
    parameters, plan = prepared.alignment.parameters, prepared.plan
    measured = {a.name: _restored(a, record.done[a.name]) for a in parameters if a.name in record.done}
    sample = prepared.sample
    total = plan.tensors + sample.matrices, plan.nbytes + sample.nbytes
    dtypes = {tensor.dtype for a in parameters for tensor in (a.base, *a.models) if tensor is not None}
    compile_first(["delta"], dtypes, prepared.choice, progress)
    with shown(progress, *total, len(measured), plan.bytes_of(measured)):
        if len(measured) < plan.tensors:
            announce_tensors(tensor for a in parameters if a.name not in measured for tensor in (a.base, *a.models))
            for parameter in _measure(prepared, set(measured), executor, kernels, progress):
                measured[parameter.aligned.name] = parameter
                entry = {
                    "rows": parameter.rows,
                    "gram": parameter.gram,
                    "spectra": parameter.spectra,
                    "pictures": parameter.pictures,
                }
                record.append(parameter.aligned.name, entry)
        updates = _look_at_updates(prepared, measured, executor, progress)
    for checkpoint in (prepared.base, *prepared.models):
        checkpoint.check_unchanged()
    return Delta(
        prepared.base.ref,
        prepared.names,
        [m.ref for m in prepared.models],
        [measured[a.name] for a in parameters],
        prepared.alignment.skipped,
        prepared.alignment.coverage,
        (*prepared.notes, *device_notes(kernels)),
        prepared.inputs(),
        device=plan.device,
        updates=updates,
    )


def _look_at_updates(
    prepared: Prepared, measured: Mapping[str, ParameterDelta], executor: Executor, progress: Progress
) -> Updates:
    """Of matrices that each model changed. They take seconds at most: a resumed run looks at them again."""
    changed = [
        {name for name, p in measured.items() if (row := p.rows[i]) is not None and row["unchanged_percentage"] != 100}
        for i in range(len(prepared.models))
    ]
    parameters, plan = prepared.alignment.parameters, prepared.plan
    memory = plan.memory - prepared.fixed
    layout, sample = prepared.layout, prepared.sample
    updates, _ = look_at_updates(parameters, changed, layout, sample, memory, executor, progress, resumable=True)
    return updates


def _restored(aligned: Aligned, record: dict[str, Any]) -> ParameterDelta:
    from netweight.jobs.delta.result import ParameterDelta

    rows, gram = tuple(record["rows"]), tuple(tuple(row) for row in record["gram"])
    return ParameterDelta(aligned, rows, gram, tuple(record["spectra"]), tuple(record["pictures"]))


def _measure(
    prepared: Prepared,
    done: set[str],
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    progress: Progress,
) -> Iterator[ParameterDelta]:
    from netweight.jobs.delta.result import ParameterDelta
    from netweight.measures.histogram import fields_of
    from netweight.measures.registry import find
    from netweight.passes.differences import measure_differences

    parameters = [a for a in prepared.alignment.parameters if a.name not in done]
    tasks = [t for t in prepared.plan.tasks if t.name not in done]
    drift = find("drift")
    with compiling(progress):
        types = {tuple(None if t is None else t.dtype for t in (a.base, *a.models)) for a in parameters}
        prepare_on(kernels, lambda on_device: on_device.prepare(types))
    pictured = prepared.pictured
    for aligned, statistics in measure_differences(parameters, tasks, executor, kernels, progress, pictured=pictured):
        base_l2 = statistics.base_l2()
        rows = tuple(
            None if tensor is None else drift.derive(statistics.distribution(i), base_l2)
            for i, tensor in enumerate(aligned.models)
        )
        pictures = tuple(
            None if tensor is None else fields_of(statistics.picture(i))
            for i, tensor in enumerate(aligned.models if pictured else ())
        )
        gram = tuple(tuple(map(float, row)) for row in statistics.gram())
        yield with_factors(ParameterDelta(aligned, rows, gram, pictures=pictures))
