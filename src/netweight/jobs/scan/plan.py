"""The plan of a scan: the model opened, its matrices listed and put in order; no tensor data read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.errors import OptionError, did_you_mean, printable
from netweight.jobs.inputs import far_bytes, stamps
from netweight.jobs.run_options import RunOptions
from netweight.run.devices import Choice, choose_for
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import Plan, PlannedTask, digest_of
from netweight.run.spread import all_kernels, kernels_on
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.measures.registry import Measure
    from netweight.passes.scans import Load
    from netweight.passes.subjects import Subject

__all__ = ["ALL", "DEFAULT", "Options", "Prepared", "prepare"]

Reference = str | os.PathLike[str]

ALL = ("basic_stats", "spectral", "quantization", "sparsity", "tail")
"""The measures of a scan; "all" stands for them."""

DEFAULT = ("basic_stats",)

_WITH_CSV = ("basic_stats", "spectral")  # whose ranks are among the CSV's columns


@dataclass(frozen=True)
class Options(RunOptions):
    """How `scan` runs: the fields of RunOptions, and `weights_only`: no vectors, biases and scales; `split`: also the
    projections inside fused ones; `rank_k`: only so many leading singular values.
    """

    weights_only: bool = False
    split: bool = True
    rank_k: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A checkpoint opened, its matrices listed, `loads` in the order of measuring; no tensor data read."""

    checkpoint: Checkpoint
    measures: tuple[Measure, ...]
    subjects: tuple[Subject, ...]
    loads: tuple[Load, ...]
    skipped: tuple[Skipped, ...]
    plan: Plan
    budget: int
    notes: tuple[str, ...]
    choice: Choice


def choose(methods: str | Sequence[str] | None, output: Reference | None) -> tuple[Measure, ...]:
    """The measures of these names, in their fixed order; raises OptionError for one that a scan does not have."""
    from netweight.measures.registry import find

    if methods is None:
        methods = _WITH_CSV if output is not None and str(output).lower().endswith(".csv") else DEFAULT
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in (*ALL, "all"):
            hint = did_you_mean(name, ALL)
            raise OptionError(f"--methods: no method '{printable(name)}'{hint}; there are {', '.join(ALL)} and all")
    if not names:
        raise OptionError(f"--methods: expected one or more of {', '.join(ALL)} and all, got none")
    return tuple(find(name) for name in ALL if name in names or "all" in names)


def prepare(ref: Reference, measures: Sequence[Measure], options: Options, stack: ExitStack) -> Prepared:
    """Open the model and plan the run; the checkpoint is closed with `stack`. Reads headers only.

    Raises OptionError for options that cannot be, FormatError and ModelNotFoundError for what is not a checkpoint.
    """
    from netweight.kernels.choose import kernels_for
    from netweight.passes.matrices import scratch_bytes
    from netweight.passes.scans import crews_of, effort_of, loads_of
    from netweight.passes.subjects import find_subjects

    if options.rank_k is not None and options.rank_k < 1:
        raise OptionError(f"--rank-k {options.rank_k}: expected 1 or more")
    checkpoint = stack.enter_context(open_checkpoint(ref, download=not options.remote))
    subjects, skipped = find_subjects(
        checkpoint,
        **options.selection,
        weights_only=options.weights_only,
        split=options.split,
    )
    effort = effort_of(subjects, measures)
    choice = choose_for(options, "spectra" if effort else "statistics", effort)
    backends = all_kernels(kernels_on(choice, kernels_for))
    one = max(scratch_bytes(kernels, measures) for kernels in backends)
    beside = choice.libraries + far_bytes((checkpoint,))
    room = choice.fitted(options)
    workers, memory = plan_workers(room, one, FLOOR + beside)
    budget = matrix_budget(room, beside)
    loads = loads_of(subjects, measures, backends[0], options.rank_k)
    crews = crews_of(loads, measures, backends[0], workers, budget)
    digest = digest_of(
        {
            "job": "scan",
            "version": __version__,
            "inputs": stamps(checkpoint),
            "measures": [m.name for m in measures],
            **options.selection,
            "weights_only": options.weights_only,
            "split": options.split,
            "rank_k": options.rank_k,
            # the last bits of spectra depend on the BLAS threads that one takes
            "threads": {str(n): workers // n for n in crews if workers // n > 1},
            "backend": choice.backend,
        }
    )
    notes = [
        note if note.startswith(checkpoint.ref) else f"{printable(checkpoint.ref)}: {note}" for note in checkpoint.notes
    ]
    return Prepared(
        checkpoint,
        tuple(measures),
        subjects,
        tuple(loads),
        skipped,
        Plan(
            "scan",
            tuple(PlannedTask(load.subject.name, 0, 0, load.subject.part.size, load.subject.nbytes) for load in loads),
            tensors=len(subjects),
            skipped=len(skipped),
            workers=workers,
            memory=FLOOR
            + beside
            + max([n * (one + max(load.memory for load in c)) for n, c in crews.items()], default=one)
            if options.executor_name == "threads"
            else memory + workers * max((load.memory for load in loads), default=0),
            digest=digest,
            device=choice.name,
            device_reason=choice.why,
        ),
        budget,
        tuple(notes),
        choice,
    )
