"""`merge`: one model of several, by a recipe or by weights that follow from the norms of the task vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.open import open_checkpoint
from netweight.errors import InputError, Interrupted, OptionError, OutputError, printable
from netweight.jobs.inputs import far_bytes, locations, stamps
from netweight.jobs.merge_request import Options, Request, Weights, make_request
from netweight.run.devices import Choice, choose_for
from netweight.run.executors import crew, planned_executor
from netweight.run.memory import FLOOR
from netweight.run.plan import digest_of
from netweight.run.progress import Progress, Silent, compiling
from netweight.run.spread import Placed, place, ready, told
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.merge_pass import Finished
    from netweight.jobs.merge_plan import MergePlan
    from netweight.jobs.merge_result import Merged
    from netweight.jobs.merge_weights import Weighting
    from netweight.kernels.merging import MergeKernels
    from netweight.merging.recipe import Recipe
    from netweight.merging.target import Target
    from netweight.output.folder import ResultFolder
    from netweight.output.shard_writer import ShardWriter
    from netweight.output.shards import Shard
    from netweight.run.execute import Executor
    from netweight.run.journal import Journal

__all__ = ["Options", "Prepared", "Weights", "foresee", "merge", "merge_request", "prepare"]

Reference = str | os.PathLike[str]


@dataclass(frozen=True)
class Prepared:
    """Checkpoints opened, parameters paired, the output laid out; no tensor data read. The plan's weights are equal
    ones where `request.weights` are still to be found.
    """

    request: Request
    options: Options
    plan: MergePlan
    shards: tuple[Shard, ...]
    workers: int
    memory: int
    digest: str
    choice: Choice

    @property
    def read(self) -> int:
        """Bytes to read for writing; measuring reads base and models once more."""
        return sum(i.nbytes for t in self.plan.targets for i in t.inputs)

    @property
    def written(self) -> int:
        """Bytes of the shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def measures(self) -> bool:
        """Whether norms must be measured before weights are known."""
        w = self.request.weights
        if w is None or w.explicit is not None or w.norms is not None or w.delta is not None:
            return False
        return w.mode != "equal" or w.granularity != "global"

    def names(self) -> list[str]:
        """The models' references without the base."""
        return [source.model for source in self.request.recipe.models]

    def locations(self) -> list[Path]:
        """The models' own paths, which no result may replace."""
        return locations(self.plan.checkpoints)


def prepare(request: Request, options: Options, stack: ExitStack, moved: Mapping[str, str] | None = None) -> Prepared:
    """Open everything and plan the merge; the checkpoints are closed with `stack`. Reads headers only.

    `moved`: where references of the recipe are to be found now. Raises OptionError for what cannot be, FormatError and
    ModelNotFoundError for what is no checkpoint, InputError for parameters that do not fit each other.
    """
    from netweight.jobs.merge_pass import working_bytes
    from netweight.jobs.merge_plan import PlanOptions, plan_merge
    from netweight.merging.recipe import write_recipe
    from netweight.output.safetensors_file import TensorEntry
    from netweight.output.shards import plan_shards

    places = moved or {}
    named = [places.get(ref, ref) for ref in request.recipe.references()]
    opened = [stack.enter_context(open_checkpoint(ref, download=not options.remote)) for ref in named]
    _each_once(opened)
    plan = plan_merge(request.recipe, opened, PlanOptions(options.vocab, options.missing, options.seed))
    shards = plan_shards({t.name: TensorEntry(t.dtype, t.shape) for t in plan.targets}, options.max_shard_size)
    choice = choose_for(options, "merge")
    each = working_bytes(plan.targets)
    fixed = FLOOR + choice.libraries + far_bytes(opened)
    workers, memory = crew(choice.fitted(options), each, fixed)
    digest = digest_of(
        {
            "job": "merge",
            "version": __version__,
            "inputs": [stamps(c) for c in opened],
            "recipe": write_recipe(request.recipe),
            "weights": request.weights.to_dict() if request.weights else None,
            "norms": request.weights.norms if request.weights else None,
            "options": [options.vocab, options.missing, options.seed, options.max_shard_size],
            "backend": choice.backend,
        }
    )
    return Prepared(request, options, plan, shards, workers, memory, digest, choice)


def _each_once(checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for checkpoint in checkpoints:
        files = tuple(sorted(os.path.realpath(file.path) for file in checkpoint.files))
        other = seen.setdefault(files, checkpoint.ref)
        if files and other != checkpoint.ref:
            raise OptionError(
                f"{printable(checkpoint.ref)}: is the same model as {printable(other)}; name each model once, and"
                " everywhere in the same way"
            )


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
) -> Merged:
    """`merge` for a request that stands; raises as it does."""
    progress = progress or Silent()
    with ExitStack() as stack:
        prepared = prepare(request, options, stack)
        executor = executor or stack.enter_context(planned_executor(options, prepared.workers, prepared.memory))
        folder = result_folder(prepared, output, resume=resume)
        try:
            with folder:
                return _merge(prepared, folder, Path(output), resume=resume, progress=progress, executor=executor)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{printable(str(output), 300)}: stopped; {folder.outcome()}; run again with --resume to go on"
            ) from None


def result_folder(prepared: Prepared, output: Reference, *, resume: bool = False) -> ResultFolder:
    """The place of the merged model, not entered yet; raises OutputError where `output` is empty."""
    from netweight.output.folder import ResultFolder

    if not os.fspath(output):
        raise OutputError("--output: expected the folder that the merged model goes into, got an empty name")
    return ResultFolder(
        Path(output),
        prepared.locations(),
        "merge",
        resume=resume,
        keep_stage=True,
        sync=prepared.options.sync,
        replace=prepared.options.overwrite,
    )


def _merge(
    prepared: Prepared,
    folder: ResultFolder,
    output: Path,
    *,
    resume: bool,
    progress: Progress,
    executor: Executor,
) -> Merged:
    from netweight.jobs.merge_record import write_records
    from netweight.output.shard_writer import ShardWriter
    from netweight.run.journal import Journal

    options = prepared.options
    done: dict[str, dict[str, Any]] = {}
    if resume:
        journal, done = Journal.resume(folder.journal_path, prepared.digest)
    else:
        journal = Journal.create(folder.journal_path, prepared.digest)
    kernels = merge_kernels(prepared, progress)
    try:
        # room is made first: a disk that is too small is found before anything is read
        with journal, ShardWriter(folder.stage, prepared.shards, keep=resume, sync=options.sync) as writer:
            weighting, plan = _weighted(prepared, executor, kernels, progress, journal, done)
            finished = _restored(plan, writer, done, executor, progress) if resume else {}
            _write(plan, writer, finished, executor, kernels, progress, journal)
            writer.finish()
    except InputError:  # no room, or norms that the mode cannot use: a run with --resume would end as this one
        if not resume:
            folder.discard()
        raise
    for checkpoint in plan.checkpoints:
        checkpoint.check_unchanged()
    done_in_order = [finished[t.name] for t in plan.targets]
    result = write_records(folder.stage, prepared, plan, weighting, done_in_order, output, told(kernels))
    for note in (*result.notes, *folder.commit()):
        progress.note(note)
    return result


def _weighted(
    prepared: Prepared,
    executor: Executor,
    kernels: MergeKernels | Placed[MergeKernels],
    progress: Progress,
    journal: Journal | None,
    done: Mapping[str, Any],
) -> tuple[Weighting | None, MergePlan]:
    """The weights, measured where they must be, and the plan with them."""
    from netweight.jobs.merge_plan import PlanOptions, plan_merge
    from netweight.jobs.merge_weights import measure_grams, read_grams, weigh

    request, plan, options = prepared.request, prepared.plan, prepared.options
    if request.weights is None:
        return None, plan
    grams = None
    if request.weights.delta is not None:
        grams = read_grams(request.weights.delta, plan.checkpoints, plan.targets)
    elif prepared.measures:
        prepare_kernels(plan, kernels, progress)
        known = {key.removeprefix("gram "): value["gram"] for key, value in done.items() if key.startswith("gram ")}
        grams = measure_grams(plan.targets, executor, kernels, progress, journal, known)
    weighting = weigh(request.weights, prepared.names(), plan.targets, grams)
    recipe = request.with_weights(weighting.weights)
    return weighting, plan_merge(recipe, plan.checkpoints, PlanOptions(options.vocab, options.missing, options.seed))


def foresee(
    prepared: Prepared, *, progress: Progress | None = None, executor: Executor | None = None
) -> tuple[Weighting | None, MergePlan]:
    """What the merge will do, without writing anything: weights, norms, cosines and the norm of the weighted sum.
    Where base and models have task vectors, they are read once for it, unless a `delta` result has their norms.
    """
    from netweight.jobs.merge_weights import described, difference_targets, measure_grams, read_grams, weigh
    from netweight.run.threads import ThreadExecutor

    request, plan = prepared.request, prepared.plan
    progress = progress or Silent()
    kernels = merge_kernels(prepared, progress)
    if not difference_targets(plan.targets):
        return _weighted(prepared, ThreadExecutor(1), kernels, progress, None, {})
    if request.weights is not None and request.weights.delta is not None:
        grams = read_grams(request.weights.delta, plan.checkpoints, plan.targets)
    else:
        prepare_kernels(plan, kernels, progress)
        with ExitStack() as stack:
            wanted = planned_executor(prepared.options, prepared.workers, prepared.memory)
            grams = measure_grams(plan.targets, executor or stack.enter_context(wanted), kernels, progress)
    if request.weights is None:
        return described(plan.targets, grams), plan
    return weigh(request.weights, prepared.names(), plan.targets, grams), plan


def merge_kernels(prepared: Prepared, progress: Progress) -> MergeKernels | Placed[MergeKernels]:
    """The kernels of the devices chosen, which are said on `progress`."""
    from netweight.kernels.choose import merge_kernels_for

    for note in prepared.choice.notes:
        progress.note(note)
    return place(prepared.choice, merge_kernels_for, prepared.workers)


def prepare_kernels(plan: MergePlan, kernels: MergeKernels | Placed[MergeKernels], progress: Progress) -> None:
    dtypes = {p.tensor.dtype for t in plan.targets if t.subject for i in t.inputs for p in i.pieces}
    dtypes |= {t.dtype for t in plan.targets if t.subject}
    with compiling(progress):
        bits = {t.subject.bits for t in plan.targets if t.subject}
        ready(kernels, lambda one: one.prepare(dtypes, bits))


def course_of(target: Target) -> Any:
    """The course that a target's method takes with it; what has no method is copied."""
    from netweight.merging.course import Copy
    from netweight.merging.registry import find

    if target.method is None or target.subject is None:
        return _done(Copy(0))
    return find(target.method).course(target.subject)


def _done(value: Any) -> Any:
    """A course that asks for nothing."""
    yield from ()
    return value


def _restored(
    plan: MergePlan, writer: ShardWriter, done: Mapping[str, Any], executor: Executor, progress: Progress
) -> dict[str, Finished]:
    """What a run that was stopped has finished, and what the disk still holds as it was written."""
    from netweight.jobs.merge_check import stored_digest
    from netweight.jobs.merge_pass import Finished

    targets = [t for t in plan.targets if f"done {t.name}" in done]
    waiting = iter(targets)
    found: dict[str, Finished] = {}
    check: Callable[[Target], str] = lambda target: stored_digest(target, writer.read)  # noqa: E731
    for target, digest in executor.run(lambda: next(waiting, None), check):
        record = done[f"done {target.name}"]
        if digest == record["digest"]:
            found[target.name] = Finished(target, digest, tuple(record["inputs"]), record["nonfinite"])
    progress.note(
        f"resuming: {len(found)} of {len(plan.targets)} parameters are done"
        if found
        else "nothing to resume: starting anew"
    )
    return found


def _write(
    plan: MergePlan,
    writer: ShardWriter,
    finished: dict[str, Finished],
    executor: Executor,
    kernels: MergeKernels | Placed[MergeKernels],
    progress: Progress,
    journal: Journal,
) -> None:
    from netweight.jobs.merge_pass import run_courses

    rest = [t for t in plan.targets if t.name not in finished]
    total = sum(i.nbytes for t in plan.targets for i in t.inputs)
    left = sum(i.nbytes for t in rest for i in t.inputs)
    prepare_kernels(plan, kernels, progress)
    progress.start(len(plan.targets), total, len(finished), total - left)
    try:
        for one in run_courses(rest, course_of, executor, kernels, writer, progress):
            finished[one.target.name] = one
            record = {"digest": one.digest, "inputs": list(one.inputs), "nonfinite": one.nonfinite}
            journal.append(f"done {one.target.name}", record)
    finally:
        progress.stop()
