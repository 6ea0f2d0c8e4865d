"""The plan of a scan: the model opened, its matrices listed and put in order; no tensor data read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.errors import OptionError
from netweight.jobs.inputs import Reference, far_bytes, notes_of, stamps
from netweight.jobs.run_options import RunOptions
from netweight.measures import registry
from netweight.measures.registry import Measure
from netweight.params.differences import differences
from netweight.params.opening import open_model, open_whole
from netweight.params.updates import as_updates
from netweight.run.devices import Choice, choose_for
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import Plan, PlannedTask, digest_of
from netweight.run.spread import all_kernels, kernels_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.passes.scans import Load
    from netweight.passes.subjects import Subject

__all__ = ["DEFAULT", "Options", "Prepared", "choose", "prepare"]

DEFAULT = ("basic_stats",)

_WITH_CSV = ("basic_stats", "spectral")  # whose ranks are among the CSV's columns


@dataclass(frozen=True)
class Options(RunOptions):
    """How `scan` runs: the fields of RunOptions, and `weights_only`: no vectors, biases and scales; `split`: also the
    projections inside fused ones; `rank_k`: only so many leading singular values; `pictured`: also gather what a page
    draws of each matrix, its histogram and spectrum, from what is counted and computed anyway; `seed`: of the random
    orders of `randomize`; `exact`: all rows where a measure takes a sample.
    """

    weights_only: bool = False
    split: bool = True
    rank_k: int | None = None
    pictured: bool = False
    seed: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Prepared:
    """A checkpoint opened, its matrices listed, `loads` in the order of measuring; no tensor data read. `pictures`: the
    measures beside those asked for, which are only drawn; `inputs`: the model, and the base that is taken off it.
    """

    checkpoint: Checkpoint
    measures: tuple[Measure, ...]
    pictures: tuple[Measure, ...]
    subjects: tuple[Subject, ...]
    loads: tuple[Load, ...]
    skipped: tuple[Skipped, ...]
    plan: Plan
    budget: int
    notes: tuple[str, ...]
    choice: Choice
    inputs: tuple[Checkpoint, ...]

    @property
    def differences(self) -> bool:
        """Whether what a base has is taken off."""
        return len(self.inputs) > 1


def choose(methods: str | Sequence[str] | None, output: Reference | None) -> tuple[Measure, ...]:
    """The measures of these names, in their fixed order; raises OptionError for one that a scan does not have."""
    if methods is None:
        methods = _WITH_CSV if output is not None and str(output).lower().endswith(".csv") else DEFAULT
    known = (*registry.SCANNED, *registry.BY_NAME)
    return tuple(registry.find(name) for name in registry.choose(methods, known))


def prepare(
    ref: Reference, measures: Sequence[Measure], options: Options, stack: ExitStack, base: Reference | None = None
) -> Prepared:
    """Open the model and plan the run; checkpoints are closed with `stack`. Reads headers only. With a `base`, what the
    model has more than it.

    Raises OptionError for options that cannot be, FormatError and ModelNotFoundError for what is not a checkpoint,
    InputError where model and base share nothing.
    """
    from netweight.kernels.choose import kernels_for
    from netweight.passes.matrices import scratch_bytes
    from netweight.passes.scans import crews_of, effort_of, loads_of
    from netweight.passes.subjects import find_subjects

    if options.rank_k is not None and options.rank_k < 1:
        raise OptionError(f"--rank-k {options.rank_k}: expected 1 or more")
    pictures = registry.drawn_beside(measures) if options.pictured else ()
    asked, measures = tuple(measures), (*measures, *pictures)
    left_out: tuple[Skipped, ...] = ()
    if base is None:
        checkpoint = as_updates(stack.enter_context(open_model(ref, download=not options.remote)))
        inputs: tuple[Checkpoint, ...] = (checkpoint,)
    else:
        inputs, checkpoint, left_out = _less(ref, base, options, stack)
    subjects, skipped = find_subjects(
        checkpoint,
        **options.selection,
        weights_only=options.weights_only,
        split=options.split,
    )
    effort = effort_of(subjects, measures)
    choice = choose_for(options, "spectra" if effort else "statistics", effort)
    kernels = all_kernels(kernels_on(choice, kernels_for))
    loads = tuple(loads_of(subjects, measures, kernels[0], options.rank_k, exact=options.exact))
    scratch = max(scratch_bytes(one, measures) for one in kernels)
    fixed = choice.libraries + far_bytes(inputs)
    fitted = choice.fitted(options)
    workers, without_matrices = plan_workers(fitted, scratch, FLOOR + fixed)
    budget = matrix_budget(fitted, fixed)
    crews = crews_of(loads, measures, kernels[0], workers, budget)
    if options.executor_name == "threads":
        at_once = [n * (scratch + max(load.memory for load in crew_of)) for n, crew_of in crews.items()]
        memory = FLOOR + fixed + max(at_once, default=scratch)
    else:
        memory = without_matrices + workers * max((load.memory for load in loads), default=0)
    # the last bits of spectra depend on the BLAS threads that one takes
    blas_threads = {str(n): workers // n for n in crews if workers // n > 1}
    plan = Plan(
        "scan",
        tuple(PlannedTask(load.subject.name, 0, 0, load.subject.part.size, load.subject.nbytes) for load in loads),
        tensors=len(subjects),
        skipped=len(skipped) + len(left_out),
        workers=workers,
        memory=memory,
        digest=_digest(inputs, measures, options, blas_threads, choice),
        device=choice.name,
        device_reason=choice.why,
    )
    notes = checkpoint.notes[:1] + notes_of(inputs) + checkpoint.notes[1:] if base else notes_of(inputs)
    skipped = (*skipped, *left_out)
    return Prepared(checkpoint, asked, pictures, subjects, loads, skipped, plan, budget, notes, choice, inputs)


def _less(
    ref: Reference, base: Reference, options: Options, stack: ExitStack
) -> tuple[tuple[Checkpoint, ...], Checkpoint, tuple[Skipped, ...]]:
    """The model and its base; their difference; what has none."""
    download = not options.remote
    below = stack.enter_context(open_whole(base, download=download))
    tuned = stack.enter_context(open_whole(ref, download=download, base=base, beside=[below]))
    return ((tuned, below), *differences(tuned, below))


def _digest(
    inputs: Sequence[Checkpoint],
    measures: Sequence[Measure],
    options: Options,
    blas_threads: dict[str, int],
    choice: Choice,
) -> str:
    needs = registry.needed(measures)
    return digest_of(
        {
            "job": "scan",
            "version": __version__,
            "inputs": [stamps(checkpoint) for checkpoint in inputs],
            "measures": [m.name for m in measures],
            **options.selection,
            "weights_only": options.weights_only,
            "split": options.split,
            "rank_k": options.rank_k,
            **({"seed": options.seed} if "permuted" in needs else {}),
            **({"exact": options.exact} if "formats" in needs else {}),
            "threads": blas_threads,
            "backend": choice.backend,
        }
    )
