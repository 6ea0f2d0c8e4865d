"""`delta`: what each fine-tune changed in its base, where, and how alike the fine-tunes are, in one pass over the
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_tensors
from netweight.errors import Interrupted, printable
from netweight.jobs.delta.plan import Options, Prepared, Reference, prepare
from netweight.params.align import Aligned
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, compiling
from netweight.run.spread import Placed, place, ready, told

if TYPE_CHECKING:
    from netweight.jobs.delta.result import Delta, ParameterDelta
    from netweight.kernels.protocol import Kernels
    from netweight.run.execute import Executor
    from netweight.run.journal import Journal

__all__ = ["delta"]


def delta(
    base: Reference,
    models: Reference | Sequence[Reference],
    outdir: Reference | None = None,
    *,
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Delta:
    """Measure the task vectors of `models` (fine-tuned - base); base and models are read once each.

    `outdir`: where the result files go, put in place in one step at the end; None writes nothing. `resume` continues a
    run into `outdir` that was stopped, and gives the same bytes. `executor` runs the tasks (default: threads, as many
    as `options` allow). `settings` are the fields of Options by name.

    Differences are float32 of the upcast values (float64 where either side is float64); every statistic is exact or
    accumulated in float64, over the finite values; what could not be measured is listed with its reason. Raises
    InputError and its kin before any data is read, ReadError where bytes cannot be read or change meanwhile.
    """
    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    with ExitStack() as stack:
        prepared = prepare(base, models, options, stack)
        plan = prepared.plan
        executor = executor or stack.enter_context(planned_executor(options, plan.workers, plan.memory))
        if outdir is None:
            return _run(prepared, progress, None, {}, executor)
        from netweight.jobs.delta.result import preload, write_delta
        from netweight.output.folder import ResultFolder
        from netweight.run.journal import Journal

        folder = stack.enter_context(ResultFolder(Path(outdir), prepared.locations(), "delta", resume=resume))
        done: dict[str, dict[str, Any]] = {}
        if resume:
            journal, done = Journal.resume(folder.journal_path, prepared.plan.digest)
            progress.note(
                f"resuming: {len(done)} of {prepared.plan.tensors} parameters are done"
                if done
                else "nothing to resume: starting anew"
            )
        else:
            journal = Journal.create(folder.journal_path, prepared.plan.digest)
        writing = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="netweight-preload")).submit(preload)
        try:
            with journal:
                result = _run(prepared, progress, journal, done, executor)
            writing.result()
            write_delta(result, folder.stage)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; nothing in {printable(str(outdir))} was changed; run again with --resume to go on"
            ) from None
        for note in folder.commit():
            progress.note(note)
        return result


def _run(
    prepared: Prepared,
    progress: Progress,
    journal: Journal | None,
    done: dict[str, dict[str, Any]],
    executor: Executor,
) -> Delta:
    """The measuring itself; what `journal` holds already (`done`) is not measured again."""
    from netweight.jobs.delta.result import Delta
    from netweight.kernels.choose import kernels_for

    for note in prepared.choice.notes:
        progress.note(note)
    kernels = place(prepared.choice, kernels_for, prepared.plan.workers)
    found = {}
    for a in prepared.alignment.parameters:
        if a.name in done:
            found[a.name] = _restored(a, done[a.name])
    with _shown(progress, prepared, found):
        if len(found) < prepared.plan.tensors:
            left = [a for a in prepared.alignment.parameters if a.name not in found]
            announce_tensors(tensor for a in left for tensor in (a.base, *a.models))
            for measured in _measure(prepared, set(found), executor, kernels, progress):
                name = measured.aligned.name
                found[name] = measured
                if journal is not None:
                    journal.append(name, {"rows": measured.rows, "gram": measured.gram})
    for checkpoint in (prepared.base, *prepared.models):
        checkpoint.check_unchanged()
    return Delta(
        prepared.base.ref,
        prepared.names,
        [m.ref for m in prepared.models],
        [found[a.name] for a in prepared.alignment.parameters],
        prepared.alignment.skipped,
        (*prepared.notes, *told(kernels)),
        prepared.inputs(),
        device=prepared.plan.device,
    )


@contextmanager
def _shown(progress: Progress, prepared: Prepared, found: dict[str, ParameterDelta]) -> Iterator[None]:
    ready = [t for t in prepared.plan.tasks if t.name in found]
    progress.start(prepared.plan.tensors, prepared.plan.nbytes, len(found), sum(t.nbytes for t in ready))
    try:
        yield
    finally:
        progress.stop()


def _restored(aligned: Aligned, record: dict[str, Any]) -> ParameterDelta:
    from netweight.jobs.delta.result import ParameterDelta

    return ParameterDelta(aligned, tuple(record["rows"]), tuple(tuple(row) for row in record["gram"]))


def _measure(
    prepared: Prepared,
    done: set[str],
    executor: Executor,
    kernels: Kernels | Placed[Kernels],
    progress: Progress,
) -> Iterator[ParameterDelta]:
    from netweight.jobs.delta.result import ParameterDelta
    from netweight.measures.registry import find
    from netweight.passes.differences import measure_differences

    parameters = [a for a in prepared.alignment.parameters if a.name not in done]
    tasks = [t for t in prepared.plan.tasks if t.name not in done]
    drift = find("drift")
    with compiling(progress):
        types = {tuple(None if t is None else t.dtype for t in (a.base, *a.models)) for a in parameters}
        ready(kernels, lambda one: one.prepare(types))
    for aligned, statistics in measure_differences(parameters, tasks, executor, kernels, progress):
        base_l2 = statistics.base_l2()
        rows = tuple(
            None if tensor is None else drift.derive(statistics.distribution(i), base_l2)
            for i, tensor in enumerate(aligned.models)
        )
        gram = tuple(tuple(float(v) for v in row) for row in statistics.gram())
        yield ParameterDelta(aligned, rows, gram)
