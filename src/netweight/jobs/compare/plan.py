"""The plan of a comparison: both models opened, their parameters paired; no tensor data read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import OptionError, did_you_mean, printable
from netweight.jobs.inputs import far_bytes, stamps
from netweight.jobs.run_options import RunOptions
from netweight.params.pairing import Pair, Pairing, pair_up
from netweight.run.devices import Choice, choose_for, spectral_effort
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import STRETCH, Plan, digest_of
from netweight.run.spread import all_kernels, kernels_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.compare.sides import Sides

__all__ = ["METHODS", "Options", "Prepared", "choose", "prepare"]

Reference = str | os.PathLike[str]

METHODS = ("basic_stats", "spectral", "quantization", "sparsity", "tail")
"""What can be asked for; "all" stands for them. basic_stats, the weights side by side, is always there."""


@dataclass(frozen=True)
class Options(RunOptions):
    """How `compare` runs: the fields of RunOptions."""


@dataclass(frozen=True)
class Prepared:
    """Both checkpoints opened, their parameters paired, tasks listed; no tensor data read.

    `sides`: the matrices to be scanned on each side, None where basic_stats is all that was asked for. `choice`: the
    devices for the weights side by side, and for the sides.
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

    @property
    def nbytes(self) -> int:
        """Bytes to read in all."""
        return self.plan.nbytes + (self.sides.nbytes if self.sides is not None else 0)


def choose(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The methods of these names in their fixed order, basic_stats always among them; raises OptionError."""
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in (*METHODS, "all"):
            hint = did_you_mean(name, METHODS)
            raise OptionError(f"--methods: no method '{printable(name)}'{hint}; there are {', '.join(METHODS)} and all")
    if not names:
        raise OptionError(f"--methods: expected one or more of {', '.join(METHODS)} and all, got none")
    return tuple(m for m in METHODS if m == METHODS[0] or m in names or "all" in names)


def prepare(a: Reference, b: Reference, methods: str | Sequence[str], options: Options, stack: ExitStack) -> Prepared:
    """Open both models and plan the run; the checkpoints are closed with `stack`. Reads headers only.

    Raises OptionError for options that cannot be, FormatError and ModelNotFoundError for what is not a checkpoint,
    InputError where the models share no parameter.
    """
    from netweight.kernels.choose import kernels_for
    from netweight.passes.pairs import plan_pairs

    chosen = choose(methods)
    first, second = (stack.enter_context(open_checkpoint(ref, download=not options.remote)) for ref in (a, b))
    pairing = pair_up(
        first,
        second,
        **options.selection,
    )
    by_pairs = on_sides = choose_for(options, "statistics")
    one = max(kernels.pairs().nbytes for kernels in all_kernels(kernels_on(by_pairs, kernels_for)))
    sides = None
    if len(chosen) > 1:
        from netweight.jobs.compare.sides import plan_sides

        effort = _effort(pairing.pairs, chosen)
        on_sides = choose_for(options, "spectra" if effort else "statistics", effort)
        planned = [
            plan_sides(first, second, pairing.pairs, chosen, k) for k in all_kernels(kernels_on(on_sides, kernels_for))
        ]
        sides = planned[0]
        one = max(one, *(p.scratch for p in planned))
    choice = on_sides if on_sides.gpu else by_pairs
    beside = choice.libraries + far_bytes((first, second))
    room = choice.fitted(options)
    workers, memory = plan_workers(room, one, FLOOR + beside)
    budget = matrix_budget(room, beside)
    tasks = plan_pairs(pairing.pairs)
    digest = digest_of(
        {
            "job": "compare",
            "version": __version__,
            "inputs": [stamps(c) for c in (first, second)],
            "methods": chosen,
            **options.selection,
            "stretch": STRETCH,
            "backend": [by_pairs.backend, on_sides.backend],
        }
    )
    notes = [
        note if note.startswith(c.ref) else f"{printable(c.ref)}: {note}" for c in (first, second) for note in c.notes
    ]
    largest = sides.largest if sides is not None else 0
    return Prepared(
        first,
        second,
        chosen,
        pairing,
        sides,
        Plan(
            "compare",
            tasks,
            tensors=sum(1 for p in pairing.pairs if not p.reason),
            skipped=len(pairing.skipped) + sum(1 for p in pairing.pairs if p.reason),
            workers=workers,
            memory=max(memory, FLOOR + beside + one + largest)
            if options.executor_name == "threads"
            else memory + workers * largest,
            digest=digest,
            device=choice.name,
            device_reason=choice.why if sides is None else on_sides.why,
        ),
        budget,
        (*notes, *pairing.notes),
        (by_pairs, on_sides),
    )


def _effort(pairs: Sequence[Pair], methods: Sequence[str]) -> float:
    """What the spectra of both sides take, 0 where none is asked for."""
    from netweight.measures.registry import find, needed

    if "spectrum" not in needed([find(name) for name in methods if name != METHODS[0]]):
        return 0.0
    return sum(spectral_effort(side.shape) for p in pairs if not p.reason for side in (p.a, p.b))
