"""The plan of a merge: models opened, the output laid out, memory counted; no tensor data read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import InputError, OptionError, printable
from netweight.jobs.inputs import far_bytes, locations, stamps
from netweight.jobs.loops import compile_first
from netweight.jobs.merge.request import Options, Request
from netweight.params.opening import open_whole
from netweight.run.devices import Choice, choose_for
from netweight.run.executors import plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import digest_of
from netweight.run.progress import Progress, compiling
from netweight.run.spread import DeviceKernels, kernels_on, prepare_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.merge.targets import MergePlan
    from netweight.kernels.merging import MergeKernels
    from netweight.merging.target import Target
    from netweight.output.shards import Shard

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Checkpoints opened, parameters paired, the output laid out; no tensor data read. The plan's weights are equal
    ones as long as `request.weights` are to be computed. `stages` is what the record says of the models that were made
    for it.
    """

    request: Request
    options: Options
    plan: MergePlan
    shards: tuple[Shard, ...]
    workers: int
    memory: int
    digest: str
    choice: Choice
    stages: tuple[Mapping[str, Any], ...] = ()

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


def prepare(
    request: Request,
    options: Options,
    stack: ExitStack,
    moved: Mapping[str, str] | None = None,
    given: Mapping[str, Checkpoint] | None = None,
) -> Prepared:
    """Open everything and plan the merge; the checkpoints are closed with `stack`. Reads headers only.

    `moved`: where references of the recipe are to be found now; `given`: those that are open already. Raises
    OptionError for what cannot be, FormatError and ModelNotFoundError for what is no checkpoint, InputError for
    parameters that do not fit each other.
    """
    from netweight.jobs.merge.like import with_files_of
    from netweight.jobs.merge.targets import plan_merge
    from netweight.merging.recipe.recipe import write_recipe
    from netweight.output.safetensors_file import TensorEntry
    from netweight.output.shards import plan_shards
    from netweight.passes.merge_blocks import working_bytes

    moved_to = moved or {}
    named = [moved_to.get(ref, ref) for ref in request.recipe.references()]
    opened = _open(named, request.recipe.base, moved_to, given or {}, stack, download=not options.remote)
    _refuse_repeated(opened)
    plan = plan_merge(request.recipe, opened, options.planning)
    if request.alone and request.like is None and opened[0].config_lacks:
        raise InputError(
            f"{printable(opened[0].ref)}: {opened[0].config_lacks}; give --like MODEL, the model whose config.json and"
            " tokenizer fit it"
        )
    if request.like is not None:
        like = stack.enter_context(open_whole(request.like, download=not options.remote))
        plan = with_files_of(like, plan)
    shards = plan_shards({t.name: TensorEntry(t.dtype, t.shape) for t in plan.targets}, options.max_shard_size)
    choice = choose_for(options, "merge")
    per_worker = working_bytes(plan.targets)
    fixed = FLOOR + choice.libraries + far_bytes(opened)
    workers, memory = plan_workers(choice.fitted(options), per_worker, fixed)
    digest = digest_of(
        {
            "job": "merge",
            "version": __version__,
            "inputs": [stamps(c) for c in opened],
            "recipe": write_recipe(request.recipe),
            "weights": request.weights.to_dict() if request.weights else None,
            "norms": request.weights.norms if request.weights else None,
            "like": request.like,
            "tokens": plan.tokens.digest if plan.tokens else None,
            "options": [options.vocab, options.missing, options.seed, options.max_shard_size],
            "backend": choice.backend,
        }
    )
    return Prepared(request, options, plan, shards, workers, memory, digest, choice)


def _open(
    named: Sequence[str],
    base: str | None,
    moved: Mapping[str, str],
    given: Mapping[str, Checkpoint],
    stack: ExitStack,
    *,
    download: bool,
) -> list[Checkpoint]:
    """The models of a recipe; an adapter alone is read on the recipe's base, where there is one."""
    at = None if base is None else moved.get(base, base)
    opened = list(given.values())
    for ref in sorted(set(named) - given.keys(), key=lambda ref: (ref != at, named.index(ref))):
        above = at if ref != at else None
        opened.append(stack.enter_context(open_whole(ref, download=download, base=above, beside=opened)))
    return [next(model for model in opened if model.ref == ref) for ref in named]


def _refuse_repeated(checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for checkpoint in checkpoints:
        files = tuple(sorted(os.path.realpath(file.path) for file in checkpoint.files))
        earlier = seen.setdefault(files, checkpoint.ref)
        if files and earlier != checkpoint.ref:
            raise OptionError(
                f"{printable(checkpoint.ref)}: is the same model as {printable(earlier)}; name each model once, and"
                " everywhere in the same way"
            )


def merge_kernels(prepared: Prepared, progress: Progress) -> MergeKernels | DeviceKernels[MergeKernels]:
    """The kernels of the chosen devices; notes on them go to `progress`."""
    from netweight.kernels.choose import merge_kernels_for

    return kernels_on(prepared.choice, merge_kernels_for, prepared.workers, progress.note)


def prepare_kernels(
    prepared: Prepared,
    plan: MergePlan,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    progress: Progress,
    *,
    measured: bool = False,
) -> None:
    """Make the kernels ready for the methods of a plan, or (`measured`) for the norms of its task vectors."""
    dtypes = {p.tensor.dtype for t in plan.targets if t.subject for i in t.inputs for p in i.pieces}
    dtypes |= {t.dtype for t in plan.targets if t.subject}
    if not prepared.choice.gpu:
        methods = {t.method for t in plan.targets if t.method}
        jobs = ["merge by norms"] if measured else [f"merge {method}" for method in sorted(methods)]
        compile_first(jobs, dtypes, prepared.choice, progress)
        return
    with compiling(progress):
        bits = {t.subject.bits for t in plan.targets if t.subject}
        prepare_on(kernels, lambda on_device: on_device.prepare(dtypes, bits))


def course_of(target: Target) -> Any:
    """The course that a target's method takes with it; what has no method is copied."""
    from netweight.merging.course import Copy, without_looks
    from netweight.merging.registry import find

    if target.method is None or target.subject is None:
        return without_looks(Copy(0))
    return find(target.method).course(target.subject)
