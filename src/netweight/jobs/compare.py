"""`compare`: what differs between two models, from the weights themselves, in one pass over both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_tensors
from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.errors import Interrupted, OptionError, did_you_mean, printable
from netweight.jobs.compare_scans import compare_results
from netweight.jobs.inputs import far_bytes, identity, locations, stamps
from netweight.jobs.run_options import RunOptions
from netweight.params.pairing import Pair, Pairing, pair_up
from netweight.run.devices import Choice, choose_for, spectral_effort
from netweight.run.executors import crew, matrix_budget, planned_executor
from netweight.run.memory import FLOOR
from netweight.run.plan import STRETCH, Plan, digest_of
from netweight.run.progress import Progress, Silent, compiling
from netweight.run.spread import Placed, each, place, ready, told
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.compare_result import Comparison
    from netweight.jobs.compare_sides import Sides
    from netweight.kernels.protocol import Kernels
    from netweight.run.execute import Executor
    from netweight.statistics.pairs import PairStatistics

__all__ = ["METHODS", "Options", "Prepared", "choose", "compare", "compare_results", "prepare"]

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
    from netweight.jobs.pair_pass import plan_pairs
    from netweight.kernels.choose import kernels_for

    chosen = choose(methods)
    first, second = (stack.enter_context(open_checkpoint(ref, download=not options.remote)) for ref in (a, b))
    pairing = pair_up(
        first,
        second,
        include=options.include,
        exclude=options.exclude,
        count_tied_twice=options.count_tied_twice,
    )
    by_pairs = on_sides = choose_for(options, "statistics")
    one = max(kernels.pairs().nbytes for kernels in each(place(by_pairs, kernels_for)))
    sides = None
    if len(chosen) > 1:
        from netweight.jobs.compare_sides import plan_sides

        effort = _effort(pairing.pairs, chosen)
        on_sides = choose_for(options, "spectra" if effort else "statistics", effort)
        planned = [plan_sides(first, second, pairing.pairs, chosen, k) for k in each(place(on_sides, kernels_for))]
        sides = planned[0]
        one = max(one, *(p.scratch for p in planned))
    choice = on_sides if on_sides.gpu else by_pairs
    beside = choice.libraries + far_bytes((first, second))
    room = choice.fitted(options)
    workers, memory = crew(room, one, FLOOR + beside)
    budget = matrix_budget(room, beside)
    tasks = plan_pairs(pairing.pairs)
    digest = digest_of(
        {
            "job": "compare",
            "version": __version__,
            "inputs": [stamps(c) for c in (first, second)],
            "methods": chosen,
            "include": options.include,
            "exclude": options.exclude,
            "count_tied_twice": options.count_tied_twice,
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


def compare(
    a: Reference,
    b: Reference,
    *,
    methods: str | Sequence[str] = ("basic_stats",),
    output: Reference | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Comparison:
    """Compare the models `a` and `b` from their weights: {common_layers, only_in_model1, only_in_model2,
    layer_comparisons: {parameter: {field: value}}}.

    `methods`: names of METHODS, or "all"; basic_stats reads each model once, the others read each side's matrices once
    more and add the differences of what `scan` says of them. `output`: a .json, .csv or .parquet file, put in place in
    one step at the end. `executor` runs the tasks (default: threads); `settings` are the fields of Options by name.

    Differences b - a are float32 of the upcast values (float64 where either side is float64), everything else is
    accumulated in float64 over the finite pairs. A parameter that cannot be compared, of another shape or unreadable,
    is listed with its reason. Raises InputError and its kin before any data is read, ReadError where a file changes
    meanwhile.
    """
    from netweight.jobs.compare_files import check_output, write_comparison

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    with ExitStack() as stack:
        target = None if output is None else check_output(output)
        prepared = prepare(a, b, methods, options, stack)
        plan = prepared.plan
        executor = executor or stack.enter_context(planned_executor(options, plan.workers, plan.memory))
        if target is None:
            return _run(prepared, progress, executor)
        from netweight.output.result_file import ResultFile

        place = stack.enter_context(ResultFile(target, locations((prepared.a, prepared.b))))
        try:
            result = _run(prepared, progress, executor)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {printable(str(target))} was not changed") from None
        place.commit(lambda path: write_comparison(result, path))
        return result


def _run(prepared: Prepared, progress: Progress, executor: Executor) -> Comparison:
    from netweight.jobs.compare_result import Comparison
    from netweight.kernels.choose import kernels_for

    by_pairs, on_sides = prepared.choice
    for note in dict.fromkeys((*by_pairs.notes, *on_sides.notes)):
        progress.note(note)
    kernels = place(by_pairs, kernels_for, prepared.plan.workers)
    sides_kernels = place(on_sides, kernels_for)
    with _shown(progress, prepared):
        found, failed = _measure(prepared, executor, kernels, progress)
        between: dict[str, dict[str, Any]] = {}
        if prepared.sides is not None:
            from netweight.jobs.compare_sides import measure_sides

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
        [_entry(p, found.get(p.name), failed.get(p.name), between.get(p.name, {})) for p in pairs],
        methods=prepared.methods,
        only_in_a=prepared.pairing.only_in_a,
        only_in_b=prepared.pairing.only_in_b,
        skipped=(*prepared.pairing.skipped, *(Skipped(p.name, p.reason) for p in pairs if p.reason)),
        failed=[failed[p.name] for p in pairs if p.name in failed],
        notes=(*prepared.notes, *told(kernels), *told(sides_kernels)),
        inputs=[identity(c) for c in (prepared.a, prepared.b)],
        device=prepared.plan.device,
    )


def _measure(
    prepared: Prepared, executor: Executor, kernels: Kernels | Placed[Kernels], progress: Progress
) -> tuple[dict[str, PairStatistics], dict[str, Skipped]]:
    from netweight.jobs.pair_pass import measure_pairs, warm_up

    with compiling(progress):
        ready(kernels, lambda one: warm_up(prepared.pairing.pairs, one))
    announce_tensors(side for pair in prepared.pairing.pairs if not pair.reason for side in (pair.a, pair.b))
    found: dict[str, PairStatistics] = {}
    failed: dict[str, Skipped] = {}
    for pair, result in measure_pairs(prepared.pairing.pairs, prepared.plan.tasks, executor, kernels, progress):
        if isinstance(result, Skipped):
            failed[pair.name] = result
            progress.note(f"{printable(pair.name)}: {result.reason}")
        else:
            found[pair.name] = result
    return found, failed


def _entry(pair: Pair, statistics: PairStatistics | None, failure: Skipped | None, between: dict[str, Any]) -> Any:
    from netweight.jobs.compare_result import ParameterComparison
    from netweight.measures.change import without_comparison
    from netweight.measures.registry import find

    if statistics is None:
        metrics = without_comparison(pair.reason or (failure.reason if failure else "not measured"))
    else:
        metrics = {**find("change").derive(statistics), **between}
    return ParameterComparison(
        pair.parameter,
        pair.b.name,
        metrics,
        statistics,
        pair.a.shape,
        pair.b.shape,
        pair.a.dtype.name,
        pair.b.dtype.name,
    )


@contextmanager
def _shown(progress: Progress, prepared: Prepared) -> Iterator[None]:
    matrices = len(prepared.sides.subjects) if prepared.sides is not None else 0
    progress.start(prepared.plan.tensors + matrices, prepared.nbytes)
    try:
        yield
    finally:
        progress.stop()
