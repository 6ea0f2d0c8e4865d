"""`merge`: one model of several, by a recipe or by weights that follow from the norms of the task vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import InputError
from netweight.jobs.inputs import Reference
from netweight.jobs.journalled import Record, journalled, note_resumed
from netweight.jobs.merge.chain import Stages, merged_stages
from netweight.jobs.merge.plan import Prepared, course_of, merge_kernels, prepare, prepare_kernels
from netweight.jobs.merge.request import Options, Request, Weights, make_request
from netweight.jobs.output_folder import output_folder, under_way
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, shown
from netweight.run.spread import DeviceKernels, device_notes

if TYPE_CHECKING:
    from netweight.jobs.merge.chat_template import ChosenTemplate
    from netweight.jobs.merge.result import Merged
    from netweight.jobs.merge.targets import MergePlan
    from netweight.jobs.merge.weights import Weighting
    from netweight.kernels.merging import MergeKernels
    from netweight.merging.recipe.recipe import Recipe
    from netweight.output.folder import ResultFolder
    from netweight.output.shard_writer import ShardWriter
    from netweight.passes.merge_samples import MergeSample
    from netweight.passes.merges import Finished
    from netweight.run.execute import Executor

__all__ = ["Options", "Weights", "merge", "merge_request", "preview"]


def merge(
    recipe: Reference | Recipe | None,
    output: Reference,
    *,
    base: Reference | None = None,
    models: Reference | Sequence[Reference] = (),
    method: str | None = None,
    weights: Weights | Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **more: Any,
) -> Merged:
    """Merge models into the folder `output`, which appears whole, in one step, at the end.

    Either `recipe` (a file in mergekit's YAML, or a Recipe), or `base` and `models` with `method` (task_arithmetic),
    `weights` (numbers, one a model, or how they follow from norms; exp of the measured norms) and further `settings` of
    the method. `resume` goes on with a run that was stopped and gives the same bytes. `more` are the fields of Options
    by name. Arithmetic is float32 (float64 where an input or the output is float64), rounded once.

    Raises InputError and its kin before any data is read, ReadError where bytes cannot be read or change meanwhile,
    JobError where the disk refuses; an earlier result stays until the new one is whole.
    """
    options = replace(options or Options(), **more)
    request = make_request(
        os.fspath(recipe) if isinstance(recipe, str | os.PathLike) else recipe,
        base=None if base is None else os.fspath(base),
        models=[os.fspath(m) for m in ([models] if isinstance(models, str | os.PathLike) else models)],
        method=method,
        weights=weights if weights is None or isinstance(weights, Weights) else Weights(explicit=tuple(weights)),
        settings=settings or {},
        dtype=dtype,
    )
    return merge_request(request, output, options=options, resume=resume, progress=progress, executor=executor)


def merge_request(
    request: Request,
    output: Reference,
    *,
    options: Options,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    before: Stages | None = None,
) -> Merged:
    """`merge` of a `Request`; `before`: what was made for it, where it is a stage itself. Raises as `merge` does."""
    progress = progress or Silent()
    how: dict[str, Any] = {"resume": resume, "progress": progress, "executor": executor}

    def of_stage(stage: Request, folder: Path, own: Options, earlier: Stages) -> Merged:
        return merge_request(stage, folder, options=own, before=earlier, **how)

    with merged_stages(request, output, options, of_stage, progress, resume=resume) as made, ExitStack() as stack:
        stages, recipe = before or made, request.recipe
        prepared = prepare(request, options, stack, stages.moved(recipe), stages.given_to(recipe))
        prepared = replace(prepared, stages=tuple(stages.records))
        executor = executor or stack.enter_context(planned_executor(options, prepared.workers, prepared.memory))
        folder = result_folder(prepared, output, resume=resume)
        with under_way(folder, output):
            template = _template(prepared)
            return _merge(prepared, folder, Path(output), template, resume=resume, progress=progress, executor=executor)


def result_folder(prepared: Prepared, output: Reference, *, resume: bool = False) -> ResultFolder:
    """The folder of the merged model, not entered yet; raises OutputError where `output` is empty."""
    return output_folder(output, "merged model", prepared.locations(), "merge", prepared.options, resume=resume)


def _merge(
    prepared: Prepared,
    folder: ResultFolder,
    output: Path,
    template: ChosenTemplate,
    *,
    resume: bool,
    progress: Progress,
    executor: Executor,
) -> Merged:
    from netweight.jobs.merge.record import write_records
    from netweight.output.shard_writer import ShardWriter

    kernels = merge_kernels(prepared, progress)
    try:
        # room is made first: a disk that is too small is found before anything is read
        with (
            journalled(folder.journal_path, prepared.digest, resume=resume) as record,
            ShardWriter(folder.stage, prepared.shards, keep=resume, sync=prepared.options.sync) as writer,
        ):
            weighting, plan = _weighted(prepared, executor, kernels, progress, record)
            finished = _restored(plan, writer, record, executor, progress) if resume else {}
            prepare_kernels(prepared, plan, kernels, progress)
            _write(plan, writer, finished, executor, kernels, progress, record)
            writer.finish()
    except InputError:  # no room, or norms that the mode cannot use: a run with --resume would end as this one
        if not resume:
            folder.discard()
        raise
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    done_in_order = [finished[t.name] for t in plan.targets]
    result = write_records(
        folder.stage, prepared, plan, weighting, done_in_order, output, template, device_notes(kernels)
    )
    for note in (*result.notes, *folder.commit()):
        progress.note(note)
    if prepared.options.pictured:
        result.samples = _samples(plan, output)
    return result


def _samples(plan: MergePlan, output: Path) -> dict[str, MergeSample]:
    """Of every parameter that has a base; a few thousand elements of each are read again."""
    from netweight.checkpoint.open import open_checkpoint
    from netweight.jobs.merge.weights import difference_targets
    from netweight.kernels.cpu.merging import CpuMergeKernels
    from netweight.passes.merge_samples import MergeSampler

    sampler = MergeSampler(CpuMergeKernels())
    with open_checkpoint(output) as merged:
        return {t.name: sampler(t, merged[t.name]) for t in difference_targets(plan.targets) if t.size}


def _template(prepared: Prepared) -> ChosenTemplate:
    """What the recipe's chat_template stands for."""
    from netweight.jobs.merge.chat_template import choose_template

    plan = prepared.plan
    return choose_template(
        plan.recipe.chat_template, plan.checkpoints, plan.like or plan.checkpoints[plan.tokenizer_from]
    )


def _weighted(
    prepared: Prepared,
    executor: Executor,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    progress: Progress,
    record: Record,
) -> tuple[Weighting | None, MergePlan]:
    """The weights, measured where they must be, and the plan with them."""
    from netweight.jobs.merge.weights import measure_grams, read_grams, weigh

    request, plan = prepared.request, prepared.plan
    if request.weights is None:
        return None, plan
    grams = None
    if request.weights.delta is not None:
        grams = read_grams(request.weights.delta, plan.checkpoints, plan.targets)
    elif prepared.measures:
        prepare_kernels(prepared, plan, kernels, progress, measured=True)
        grams = measure_grams(plan.targets, executor, kernels, progress, record)
    weighting = weigh(request.weights, prepared.names(), plan.targets, grams)
    return weighting, _with_weights(prepared, weighting)


def _with_weights(prepared: Prepared, weighting: Weighting) -> MergePlan:
    from netweight.jobs.merge.targets import plan_merge

    if prepared.request.weights is not None and prepared.request.weights.explicit is not None:
        return prepared.plan  # it has them already
    recipe = prepared.request.with_weights(weighting.weights)
    return plan_merge(recipe, prepared.plan.checkpoints, prepared.options.planning)


def preview(
    prepared: Prepared, *, progress: Progress | None = None, executor: Executor | None = None
) -> tuple[Weighting | None, MergePlan]:
    """Compute what the merge will do, without writing: weights, norms, cosines and the norm of the weighted sum.
    Where base and models have task vectors, they are read once for it, unless a `delta` result has their norms.
    """
    template = _template(prepared)
    weighting, plan = _foreseen(prepared, progress or Silent(), executor)
    return weighting, replace(plan, notes=(*plan.notes, *template.notes))


def _foreseen(prepared: Prepared, progress: Progress, executor: Executor | None) -> tuple[Weighting | None, MergePlan]:
    from netweight.jobs.merge.weights import described, difference_targets, measure_grams, read_grams, weigh
    from netweight.run.threads import ThreadExecutor

    request, plan = prepared.request, prepared.plan
    kernels = merge_kernels(prepared, progress)
    if not difference_targets(plan.targets):
        return _weighted(prepared, ThreadExecutor(1), kernels, progress, Record())
    if request.weights is not None and request.weights.delta is not None:
        grams = read_grams(request.weights.delta, plan.checkpoints, plan.targets)
    else:
        prepare_kernels(prepared, plan, kernels, progress, measured=True)
        with ExitStack() as stack:
            own_executor = planned_executor(prepared.options, prepared.workers, prepared.memory)
            grams = measure_grams(
                plan.targets, executor or stack.enter_context(own_executor), kernels, progress, Record()
            )
    if request.weights is None:
        return described(plan.targets, grams), plan
    weighting = weigh(request.weights, prepared.names(), plan.targets, grams)
    return weighting, _with_weights(prepared, weighting)


def _restored(
    plan: MergePlan, writer: ShardWriter, record: Record, executor: Executor, progress: Progress
) -> dict[str, Finished]:
    """The parameters that a stopped run has finished, and that the disk holds as they were written."""
    from netweight.jobs.merge.check import stored_digest
    from netweight.passes.merges import Finished

    waiting = (t for t in plan.targets if f"done {t.name}" in record.done)
    finished: dict[str, Finished] = {}
    for target, digest in executor.run(lambda: next(waiting, None), partial(stored_digest, read=writer.read)):
        recorded = record.done[f"done {target.name}"]
        if digest == recorded["digest"]:
            finished[target.name] = Finished(target, digest, tuple(recorded["inputs"]), recorded["nonfinite"])
    note_resumed(progress, len(finished), len(plan.targets))
    return finished


def _write(
    plan: MergePlan,
    writer: ShardWriter,
    finished: dict[str, Finished],
    executor: Executor,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    progress: Progress,
    record: Record,
) -> None:
    from netweight.passes.merges import run_courses

    rest = [t for t in plan.targets if t.name not in finished]
    total = sum(i.nbytes for t in plan.targets for i in t.inputs)
    left = sum(i.nbytes for t in rest for i in t.inputs)
    with shown(progress, len(plan.targets), total, len(finished), total - left):
        for parameter in run_courses(rest, course_of, executor, kernels, writer, progress):
            finished[parameter.target.name] = parameter
            entry = {"digest": parameter.digest, "inputs": list(parameter.inputs), "nonfinite": parameter.nonfinite}
            record.append(f"done {parameter.target.name}", entry)
