"""`compare`: what differs between two models, from the weights themselves, in one pass over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_tensors
from netweight.checkpoint.tensor import Skipped
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.errors import OptionError, printable
from netweight.jobs.compare.plan import Options, Prepared, prepare
from netweight.jobs.compare.scans import compare_results
from netweight.jobs.inputs import Reference, identity, locations
from netweight.jobs.journalled import interruptible
from netweight.jobs.kinds import look_at_updates, side_by_side
from netweight.jobs.loops import compile_first
from netweight.params.pairing import Pair
from netweight.run.executors import planned_executor
from netweight.run.memory import FLOOR
from netweight.run.progress import Progress, Silent, compiling, shown
from netweight.run.spread import DeviceKernels, device_notes, kernels_on, prepare_on

if TYPE_CHECKING:
    from netweight.jobs.compare.result import Comparison
    from netweight.kernels.protocol import Kernels
    from netweight.run.execute import Executor
    from netweight.statistics.pairs import PairStatistics

__all__ = ["compare", "compare_results"]


def compare(
    a: Reference,
    b: Reference,
    *,
    methods: str | Sequence[str] = ("basic_stats",),
    output: Reference | None = None,
    plots: Reference | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Comparison:
    """Compare the models `a` and `b` from their weights: {common_layers, only_in_model1, only_in_model2,
    layer_comparisons: {parameter: {field: value}}}.

    `methods`: measures of a scan, or "all"; basic_stats reads each model once, the others read each side's matrices
    once more and add the differences of what `scan` says of them. `output`: a .json, .csv or .parquet file, and `plots`
    a folder for pictures of what a quantisation did, put in place in one step at the end. `executor` runs the tasks
    (default: threads); `settings` are the fields of Options by name.

    Differences b - a are float32 of the upcast values (float64 where either side is float64), everything else is
    accumulated in float64 over the finite pairs. A parameter that cannot be compared, of another shape or unreadable,
    is listed with its reason. Raises InputError and its kin before any data is read, ReadError where a file changes
    meanwhile.
    """
    from netweight.jobs.compare.result import check_output, write_comparison

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    with ExitStack() as stack:
        target = None if output is None else check_output(output)
        prepared = prepare(a, b, methods, options, stack)
        if plots is not None:  # before the work: a place that cannot take pictures ends the run here
            _check_plots(prepared, plots)
        plan = prepared.plan
        executor = executor or stack.enter_context(planned_executor(options, plan.workers, plan.memory))
        if target is None:
            result = _run(prepared, progress, executor)
            _draw(result, prepared, plots, progress)
            return result
        from netweight.output.result_file import ResultFile

        file = stack.enter_context(ResultFile(target, locations((prepared.a, prepared.b))))
        with interruptible(lambda: f"stopped; {printable(str(target))} was not changed"):
            result = _run(prepared, progress, executor)
        file.commit(lambda path: write_comparison(result, path))
        _draw(result, prepared, plots, progress)
        return result


def _check_plots(prepared: Prepared, plots: Reference) -> None:
    from netweight.jobs.compare.plots import plots_folder

    sides = [side for pair in prepared.pairing.pairs if not pair.reason for side in (pair.a, pair.b)]
    if not any(side.quantised for side in sides):
        raise OptionError("--plots: pictures are of what a quantisation did, and neither model is quantised")
    plots_folder(plots, locations((prepared.a, prepared.b))).check()


def _draw(result: Comparison, prepared: Prepared, plots: Reference | None, progress: Progress) -> None:
    """Put the pictures into the folder `plots`, if there is one."""
    if plots is None:
        return
    from netweight.jobs.compare.plots import draw

    for note in draw([result], [prepared.b.ref], plots, locations((prepared.a, prepared.b))):
        progress.note(note)


def _run(prepared: Prepared, progress: Progress, executor: Executor) -> Comparison:
    from netweight.jobs.compare.result import Comparison
    from netweight.kernels.choose import kernels_for

    by_pairs, on_sides = prepared.choice
    for note in dict.fromkeys((*by_pairs.notes, *on_sides.notes)):
        progress.note(note)
    kernels = kernels_on(by_pairs, kernels_for, prepared.plan.workers)
    sides_kernels = kernels_on(on_sides, kernels_for)
    matrices = len(prepared.sides.subjects) if prepared.sides is not None else 0
    sample = prepared.sample
    dtypes = {side.dtype for pair in prepared.pairing.pairs if not pair.reason for side in (pair.a, pair.b)}
    compile_first(["compare"], dtypes, by_pairs, progress)
    with shown(progress, prepared.plan.tensors + matrices + sample.matrices, prepared.nbytes + sample.nbytes):
        statistics, failed = _measure(prepared, executor, kernels, progress)
        updates, unseen = _look_at_updates(prepared, statistics, executor, progress)
        failed |= {name: entry for name, entry in unseen.items() if name not in failed}
        between: dict[str, dict[str, Any]] = {}
        if prepared.sides is not None:
            from netweight.jobs.compare.sides import measure_sides

            with compiling(progress):
                between, unread = measure_sides(
                    prepared.sides, executor, sides_kernels, progress, budget=prepared.budget, methods=prepared.methods
                )
            failed |= {name: entry for name, entry in unread.items() if name not in failed}
    for checkpoint in (prepared.a, prepared.b):
        checkpoint.check_unchanged()
    pairs = prepared.pairing.pairs
    return Comparison(
        prepared.a.ref,
        prepared.b.ref,
        [
            _entry(p, statistics.get(p.name), failed.get(p.name), between.get(p.name, {}) | updates.get(p.name, {}))
            for p in pairs
        ],
        methods=prepared.methods,
        only_in_a=prepared.pairing.only_in_a,
        only_in_b=prepared.pairing.only_in_b,
        skipped=(*prepared.pairing.skipped, *(Skipped(p.name, p.reason) for p in pairs if p.reason)),
        failed=[failed[p.name] for p in pairs if p.name in failed],
        notes=(*prepared.notes, *device_notes(kernels), *device_notes(sides_kernels)),
        inputs=[identity(c) for c in (prepared.a, prepared.b)],
        device=prepared.plan.device,
        updates=any(isinstance(p.a, UpdateTensor) for p in pairs),
        coverage=prepared.pairing.coverage.without(prepared.pairing.share_of(p for p in pairs if p.name in failed)),
    )


def _measure(
    prepared: Prepared, executor: Executor, kernels: Kernels | DeviceKernels[Kernels], progress: Progress
) -> tuple[dict[str, PairStatistics], dict[str, Skipped]]:
    from netweight.passes.pairs import measure_pairs, warm_up

    with compiling(progress):
        prepare_on(kernels, lambda on_device: warm_up(prepared.pairing.pairs, on_device))
    announce_tensors(side for pair in prepared.pairing.pairs if not pair.reason for side in (pair.a, pair.b))
    statistics: dict[str, PairStatistics] = {}
    failed: dict[str, Skipped] = {}
    for pair, result in measure_pairs(prepared.pairing.pairs, prepared.plan.tasks, executor, kernels, progress):
        if isinstance(result, Skipped):
            failed[pair.name] = result
            progress.note(f"{printable(pair.name)}: {result.reason}")
        else:
            statistics[pair.name] = result
    return statistics, failed


def _look_at_updates(
    prepared: Prepared, statistics: Mapping[str, PairStatistics], executor: Executor, progress: Progress
) -> tuple[dict[str, dict[str, Any]], dict[str, Skipped]]:
    """{parameter: fields of measures.update} of a sample of the matrices that are not the same, and what could not be
    read.
    """
    changed = {name for name, pairs in statistics.items() if pairs.n_identical < pairs.n + pairs.n_nonfinite}
    plan, parameters = prepared.plan, side_by_side(prepared.pairing.pairs)
    memory = plan.memory - FLOOR
    layout, sample = prepared.layout, prepared.sample
    updates, failed = look_at_updates(
        parameters, [changed], layout, sample, memory, executor, progress, resumable=False
    )
    return {name: dict(by_model[0]) for name, by_model in updates.items()}, failed


def _entry(pair: Pair, statistics: PairStatistics | None, failure: Skipped | None, between: dict[str, Any]) -> Any:
    from netweight.jobs.compare.result import ParameterComparison
    from netweight.jobs.compare.updates import from_factors
    from netweight.measures.change import without_comparison
    from netweight.measures.registry import find

    if statistics is None:
        metrics = without_comparison(pair.reason or (failure.reason if failure else "not measured"))
    else:
        statistics, overlaps = from_factors(pair, statistics)
        metrics = {**find("change").derive(statistics), **overlaps, **between}
    return ParameterComparison(
        pair.parameter,
        pair.name_b,
        metrics,
        statistics,
        pair.a.shape,
        pair.b.shape,
        pair.a.dtype.name,
        pair.b.dtype.name,
        pair.a.stored,
        pair.b.stored,
        pair.a.file_bytes,
        pair.b.file_bytes,
        (pair.a.quantised, pair.b.quantised),
    )
