"""The plan of a comparison: both models opened, their parameters paired; no tensor data read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Checkpoint
from netweight.jobs.inputs import Reference, far_bytes, notes_of, stamps
from netweight.jobs.kinds import layout_of_base, side_by_side
from netweight.jobs.run_options import RunOptions
from netweight.measures import registry
from netweight.params.layouts.fused import Layout
from netweight.params.pairing import Pair, Pairing, pair_up
from netweight.params.updates import open_both
from netweight.run.devices import Choice, choose_for, spectral_effort
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import STRETCH, Plan, digest_of
from netweight.run.spread import all_kernels, kernels_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.compare.sides import Sides
    from netweight.passes.samples import Budget

__all__ = ["ALWAYS", "Options", "Prepared", "choose", "prepare"]

ALWAYS = "basic_stats"
"""The method that is always there: the weights side by side. The others are the measures of a scan."""


@dataclass(frozen=True)
class Options(RunOptions):
    """How `compare` runs: the fields of RunOptions."""


@dataclass(frozen=True)
class Prepared:
    """Both checkpoints opened, their parameters paired, tasks listed; no tensor data read.

    `sides`: the matrices to be scanned on each side, None where basic_stats is all that was asked for. `choice`: the
    devices for the weights side by side, and for the sides. `layout`: how A's tensors are laid out; `sample`: what is
    read again at most, for the form of updates.
    """

    a: Checkpoint
    b: Checkpoint
    methods: tuple[str, ...]
    pairing: Pairing
    sides: Sides | None
    plan: Plan
    budget: int
    notes: tuple[str, ...]
    choice: tuple[Choice, Choice]
    layout: Layout
    sample: Budget

    @property
    def nbytes(self) -> int:
        """Bytes to read in all."""
        return self.plan.nbytes + (self.sides.nbytes if self.sides is not None else 0)


def choose(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The methods of these names in their fixed order, basic_stats always among them; raises OptionError."""
    chosen = registry.choose(methods, registry.COMPARED)
    return tuple(name for name in registry.COMPARED if name == ALWAYS or name in chosen)


def prepare(a: Reference, b: Reference, methods: str | Sequence[str], options: Options, stack: ExitStack) -> Prepared:
    """Open both models and plan the run; the checkpoints are closed with `stack`. Reads headers only.

    Raises OptionError for options that cannot be, FormatError and ModelNotFoundError for what is not a checkpoint,
    InputError where the models share no parameter.
    """
    from netweight.kernels.choose import kernels_for
    from netweight.passes.clipping import SCRATCH
    from netweight.passes.pairs import plan_pairs
    from netweight.passes.samples import SCRATCH as SAMPLED
    from netweight.passes.samples import budget_of

    chosen = choose(methods)
    first, second = open_both(a, b, stack, download=not options.remote)
    pairing = pair_up(first, second, **options.selection)
    tasks = plan_pairs(pairing.pairs)
    by_pairs = on_sides = choose_for(options, "statistics")
    held = max((p.a.scratch + p.b.scratch for p in pairing.pairs), default=0) + SCRATCH
    scratch = held + max(kernels.pairs().nbytes for kernels in all_kernels(kernels_on(by_pairs, kernels_for)))
    sides = None
    if len(chosen) > 1:
        from netweight.jobs.compare.sides import plan_sides

        effort = _effort(pairing.pairs, chosen)
        on_sides = choose_for(options, "spectra" if effort else "statistics", effort)
        every = all_kernels(kernels_on(on_sides, kernels_for))
        planned = [plan_sides(first, pairing.pairs, chosen, kernels) for kernels in every]
        sides = planned[0]
        scratch = max(scratch, *(p.scratch + held for p in planned))
    largest = sides.largest if sides is not None else 0
    choice = on_sides if on_sides.gpu else by_pairs
    fixed = choice.libraries + far_bytes((first, second))
    fitted = choice.fitted(options)
    workers, memory = plan_workers(fitted, scratch, FLOOR + fixed)
    if options.executor_name == "threads":
        sampled = SAMPLED * max(1, min(workers, (matrix_budget(fitted, fixed) - FLOOR) // SAMPLED))
        memory = max(memory, FLOOR + fixed + scratch + largest, FLOOR + fixed + sampled)
    else:
        memory += workers * largest
    plan = Plan(
        "compare",
        tasks,
        tensors=sum(1 for p in pairing.pairs if not p.reason),
        skipped=len(pairing.skipped) + sum(1 for p in pairing.pairs if p.reason),
        workers=workers,
        memory=memory,
        digest=_digest((first, second), chosen, options, (by_pairs, on_sides)),
        device=choice.name,
        device_reason=choice.why if sides is None else on_sides.why,
    )
    notes = (*notes_of((first, second)), *pairing.notes)
    budget = matrix_budget(fitted, fixed)
    layout = layout_of_base(first)
    sample = budget_of(side_by_side(pairing.pairs), layout)
    return Prepared(
        first, second, chosen, pairing, sides, plan, budget, notes, (by_pairs, on_sides), layout=layout, sample=sample
    )


def _digest(models: Sequence[Checkpoint], methods: Sequence[str], options: Options, choices: Sequence[Choice]) -> str:
    return digest_of(
        {
            "job": "compare",
            "version": __version__,
            "inputs": [stamps(c) for c in models],
            "methods": methods,
            **options.selection,
            "stretch": STRETCH,
            "backend": [choice.backend for choice in choices],
        }
    )


def _effort(pairs: Sequence[Pair], methods: Sequence[str]) -> float:
    """What the spectra of both sides take, 0 where none is asked for."""
    if "spectrum" not in registry.needed([registry.find(name) for name in methods if name != ALWAYS]):
        return 0.0
    return sum(
        spectral_effort(side.shape)
        for p in pairs
        if not p.reason and p.parameter.state == "learned"
        for side in (p.a, p.b)
    )
