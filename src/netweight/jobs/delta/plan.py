"""The plan of a delta: checkpoints opened, parameters paired, tasks listed; no tensor data read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import OptionError
from netweight.jobs.delta.names import model_names
from netweight.jobs.inputs import Reference, far_bytes, identity, locations, notes_of, path_of, references, stamps
from netweight.jobs.kinds import layout_of_base
from netweight.jobs.run_options import RunOptions
from netweight.params.layouts.fused import Layout
from netweight.params.opening import open_whole
from netweight.params.pairing import Alignment, align
from netweight.run.devices import Choice, choose_for
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import STRETCH, Plan, digest_of
from netweight.run.spread import all_kernels, kernels_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.passes.samples import Budget

__all__ = ["Options", "Prepared", "prepare"]


@dataclass(frozen=True)
class Options(RunOptions):
    """How `delta` runs: the fields of RunOptions; `pictured`: also gather the histograms that a page draws."""

    pictured: bool = False


@dataclass(frozen=True)
class Prepared:
    """Checkpoints opened, parameters paired, tasks listed; no tensor data read. `layout`: how the base's tensors are
    laid out; `sample`: what is read again at most, for the form of updates; `fixed`: bytes of memory beside the
    workers'.
    """

    base: Checkpoint
    models: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    alignment: Alignment
    plan: Plan
    notes: tuple[str, ...]
    choice: Choice
    layout: Layout
    sample: Budget
    fixed: int
    pictured: bool

    def inputs(self) -> list[dict[str, Any]]:
        """The identity of base and models."""
        return [identity(c) for c in (self.base, *self.models)]

    def locations(self) -> list[Path]:
        """The models' own paths, which no result may replace."""
        return locations((self.base, *self.models))


def prepare(base: Reference, models: Reference | Sequence[Reference], options: Options, stack: ExitStack) -> Prepared:
    """Open everything and plan the run; the checkpoints are closed with `stack`. Reads headers only.

    Raises OptionError for options that cannot be met, FormatError and ModelNotFoundError for what is not a checkpoint,
    InputError where a model shares nothing with the base.
    """
    from netweight.jobs.delta.result import RESERVED
    from netweight.kernels.choose import kernels_for
    from netweight.passes.differences import plan_tasks, scratch_bytes
    from netweight.passes.samples import SCRATCH, budget_of

    if not references(models):
        raise OptionError("--models: expected one or more fine-tuned models, got none")
    choice = choose_for(options, "statistics")
    named = (base, *references(models))
    remote = options.remote
    opened = [stack.enter_context(open_whole(base, download=not remote))]
    for ref in named[1:]:
        beside = opened[:1]
        opened.append(stack.enter_context(open_whole(ref, download=not remote, base=base, beside=beside)))
    alignment = align(opened[0], opened[1:], **options.selection)
    per_worker = max(kernels.working_bytes(len(named) - 1) for kernels in all_kernels(kernels_on(choice, kernels_for)))
    per_worker += scratch_bytes(alignment.parameters)
    fixed = FLOOR + choice.libraries + far_bytes(opened)
    fitted = choice.fitted(options)
    workers, memory = plan_workers(fitted, per_worker, fixed)
    memory = max(memory, fixed + SCRATCH * max(1, min(workers, matrix_budget(fitted, fixed) // SCRATCH)))
    tasks = plan_tasks(alignment.parameters)
    layout = layout_of_base(opened[0])
    digest = digest_of(
        {
            "job": "delta",
            "version": __version__,
            "inputs": [stamps(c) for c in opened],
            **options.selection,
            "stretch": STRETCH,
            "backend": choice.backend,
            "pictured": options.pictured,
        }
    )
    return Prepared(
        base=opened[0],
        models=tuple(opened[1:]),
        names=tuple(model_names([path_of(c) for c in opened[1:]], RESERVED)),
        alignment=alignment,
        plan=Plan(
            "delta",
            tasks,
            tensors=len(alignment.parameters),
            skipped=sum(len(s) for s in alignment.skipped),
            workers=workers,
            memory=memory,
            digest=digest,
            device=choice.name,
            device_reason=choice.why,
        ),
        notes=(*notes_of(opened), *alignment.notes),
        choice=choice,
        layout=layout,
        sample=budget_of(alignment.parameters, layout),
        fixed=fixed,
        pictured=options.pictured,
    )
