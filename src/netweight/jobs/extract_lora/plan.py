"""The plan of an extraction: base and fine-tune opened and paired, ranks asked for, memory counted; no data read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from netweight.dtypes import DTYPES, DType
from netweight.errors import OptionError, did_you_mean, printable
from netweight.jobs.inputs import Reference, far_bytes, locations, notes_of, stamps
from netweight.jobs.run_options import RunOptions
from netweight.params.opening import open_whole
from netweight.run.devices import Choice, choose_for, spectral_effort
from netweight.run.executors import matrix_budget, plan_workers
from netweight.run.memory import FLOOR
from netweight.run.plan import digest_of
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.extract_lora.targets import Targets
    from netweight.kernels.factors import FactorKernels
    from netweight.passes.task_vectors import Factored, FactorPlan, PartSinks, TaskVector
    from netweight.run.execute import Executor
    from netweight.run.progress import Progress
    from netweight.run.spread import DeviceKernels

__all__ = ["DEFAULT_RANK", "DTYPE_NAMES", "REQUEST", "Options", "Prepared", "prepare"]

DEFAULT_RANK = 16
"""The rank where nothing says it: that of most published adapters."""

DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The types that factors can have."""

REQUEST = ("rank", "energy", "error", "dtype", "modules_to_save", "include", "exclude")
"""The options that decide the bytes of an adapter."""

_HOLD = 96 << 20  # bytes of a task vector that is held between looks, at most
_BLOCKS = 48 << 20  # bytes that a worker's blocks take, of rows that are not longer than usual
_STEPS = 10  # of Krylov's method, as a rule
_SINGLE = 4  # float32 products for the time of a float64 one in a Gram matrix


@dataclass(frozen=True)
class Options(RunOptions):
    """How `extract_lora` runs: the fields of RunOptions, and at most one of `rank` (of every matrix), `energy` (the
    share of the squared norm that is kept, at least) and `error` (the relative error of a matrix, at most); 16 is the
    rank where none is given. `dtype` of the factors; `modules_to_save`: keep modules whole that changed and have no
    factors; `overwrite`: replace an earlier adapter; `sync`: bring all files to the disk before the result appears.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None
    dtype: str = "float32"
    modules_to_save: bool = True
    overwrite: bool = False
    sync: bool = True

    def __post_init__(self) -> None:
        """Raises OptionError for a rank, energy, error or type that cannot be."""
        super().__post_init__()
        given = {"--rank": self.rank, "--energy": self.energy, "--error": self.error}
        asked = [name for name, value in given.items() if value is not None]
        if len(asked) > 1:
            raise OptionError(f"{asked[0]} and {asked[1]}: the rank follows from one of them; leave the other out")
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise OptionError(f"--rank {printable(str(self.rank))}: expected a whole number, 1 or more")
        for name in ("energy", "error"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < 1):
                raise OptionError(f"--{name} {printable(str(value))}: expected a number between 0 and 1, both left out")
        if self.dtype not in DTYPE_NAMES:
            hint = did_you_mean(self.dtype, DTYPE_NAMES)
            raise OptionError(f"--dtype: expected one of {', '.join(DTYPE_NAMES)}, got '{printable(self.dtype)}'{hint}")

    @property
    def stored_dtype(self) -> DType:
        """The type of the factors."""
        return DTYPES[DTYPE_NAMES[self.dtype]]

    @property
    def request(self) -> dict[str, Any]:
        """What decides the bytes, JSON-safe, by the names of the fields."""
        asked = {name: getattr(self, name) for name in REQUEST}
        if self.energy is None and self.error is None:
            asked["rank"] = self.rank or DEFAULT_RANK
        return asked | {"include": list(self.include), "exclude": list(self.exclude)}

    @property
    def rule(self) -> str:
        """The rule of the ranks, in words."""
        if self.energy is not None:
            return f"energy {self.energy:g}"
        return f"rank {self.rank or DEFAULT_RANK}" if self.error is None else f"error {self.error:g}"


@dataclass(frozen=True)
class Prepared:
    """Checkpoints opened, every tensor's lot decided, `vectors` in the order of work; no tensor data read."""

    base: Checkpoint
    model: Checkpoint
    options: Options
    targets: Targets
    plan: FactorPlan
    vectors: tuple[TaskVector, ...]
    workers: int
    memory: int
    budget: int
    digest: str
    choice: Choice
    notes: tuple[str, ...]

    @property
    def read(self) -> int:
        """Bytes of both models that are compared."""
        return sum(vector.nbytes for vector in self.vectors)

    def factorised(
        self,
        vectors: Sequence[TaskVector],
        sinks: PartSinks,
        executor: Executor,
        kernels: FactorKernels | DeviceKernels[FactorKernels],
        progress: Progress,
    ) -> Iterator[tuple[TaskVector, Factored]]:
        """Every vector with what is found of it, as it is finished; factors go to `sinks`. `progress` advances."""
        from netweight.passes.task_vectors import Factoriser, run_vectors

        make = partial(Factoriser, self.plan, sinks)
        for vector, found in run_vectors(vectors, make, executor, kernels, budget=self.budget, note=progress.note):
            yield vector, found
            progress.advance(1, vector.nbytes)

    def locations(self) -> list[Path]:
        """The models' own paths, which no result may replace."""
        return locations((self.base, self.model))


def prepare(
    base: Reference,
    model: Reference,
    options: Options,
    stack: ExitStack,
    moved: Mapping[str, Any] | None = None,
    *,
    spectra: bool = False,
) -> Prepared:
    """Open both and plan the run; the checkpoints are closed with `stack`. Reads headers only.

    `moved`: where references are to be found now; `spectra`: whole spectra will be computed, as `preview` does.

    Raises OptionError for options that cannot be met, FormatError and ModelNotFoundError for what is no checkpoint,
    InputError where the model is none of the base's fine-tunes.
    """
    from netweight.jobs.extract_lora.targets import find_targets
    from netweight.params.pairing import align
    from netweight.passes.task_vectors import FactorPlan
    from netweight.statistics.singular_vectors import Rule

    if options.count_tied_twice:
        raise OptionError("count_tied_twice: an adapter adapts tied weights once; leave it out")
    first, second = ((moved or {}).get(str(ref), ref) for ref in (base, model))
    opened = [stack.enter_context(open_whole(first, download=not options.remote))]
    opened.append(stack.enter_context(open_whole(second, download=not options.remote, base=first)))
    alignment = align(opened[0], opened[1:], include=options.include, exclude=options.exclude)
    targets = find_targets(opened[0], opened[1], alignment, keep_whole=options.modules_to_save)
    left = None if options.energy is None else 1 - options.energy
    if options.error is not None:
        left = options.error**2
    rule = Rule(left=left) if left is not None else Rule(rank=options.rank or DEFAULT_RANK)
    plan = FactorPlan(rule, options.stored_dtype, stored_error=options.error is not None)
    vectors = _vectors(targets, plan)
    worked = FactorPlan(Rule(left=0.0), plan.dtype) if spectra else plan
    choice = choose_for(options, "spectra", _effort(vectors, worked))
    fixed = FLOOR + choice.libraries + far_bytes(opened)
    fitted = choice.fitted(options)
    workers, without_matrices = plan_workers(fitted, _BLOCKS, fixed)
    budget = matrix_budget(fitted, fixed - FLOOR) - FLOOR
    vectors = _held(vectors, budget // workers)
    most = max((vector.memory for vector in vectors), default=0)
    at_once = max(1, min(workers, budget // max(most, 1)))
    memory = fixed + max(at_once * most, min(workers * most, budget))
    if options.executor_name != "threads":
        memory = without_matrices + workers * most
    digest = digest_of(
        {
            "job": "extract-lora",
            "version": __version__,
            "inputs": [stamps(c) for c in opened],
            "request": options.request,
            "backend": choice.backend,
        }
    )
    notes = [*notes_of(opened), *alignment.notes, *_clamped(vectors, rule)]
    return Prepared(
        opened[0],
        opened[1],
        options,
        targets,
        plan,
        tuple(vectors),
        workers,
        memory,
        budget,
        digest,
        choice,
        tuple(notes),
    )


def _vectors(targets: Targets, plan: FactorPlan) -> list[TaskVector]:
    """The task vectors to be read, those with the most work first."""
    from netweight.passes.task_vectors import TaskVector, block_bytes, factor_bytes

    vectors = []
    for number, target in enumerate(targets.targets):
        if target.resized:
            continue
        act: Literal["factors", "measured"] = "measured" if target.layer is None else "factors"
        vector = TaskVector(target.name, target.base, target.model, act, number)
        memory = block_bytes(vector) + (factor_bytes(vector, plan.rule) if target.layer is not None else 0)
        vectors.append(replace(vector, memory=memory))
    return sorted(vectors, key=lambda vector: -_work(vector, plan))


def _held(vectors: Sequence[TaskVector], share: int) -> list[TaskVector]:
    """With the memory of those matrices that are held between looks, as far as a worker's `share` of memory goes."""
    held = []
    for vector in vectors:
        size = 4 * vector.base.size
        hold = size if vector.act == "factors" and size <= _HOLD and vector.memory + size <= share else 0
        held.append(replace(vector, memory=vector.memory + hold, hold=hold))
    return held


def _work(vector: TaskVector, plan: FactorPlan) -> float:
    """The work of one task vector, in products of float64 in a Gram matrix."""
    from netweight.statistics.singular_vectors import width_of

    if vector.act == "measured":
        return float(vector.base.size)
    whole = spectral_effort(vector.base.shape)
    if plan.rule.rank is None:
        return whole
    return min(whole, 2.0 * _STEPS * vector.base.size * width_of(plan.rule.rank) / _SINGLE)


def _effort(vectors: Sequence[TaskVector], plan: FactorPlan) -> float:
    return sum(_work(vector, plan) for vector in vectors if vector.act == "factors")


def _clamped(vectors: Sequence[TaskVector], rule: Any) -> list[str]:
    """The note on matrices that are smaller than the rank asked for."""
    small = [v for v in vectors if v.act == "factors" and rule.rank is not None and min(v.base.shape) < rule.rank]
    if not small:
        return []
    first = min(small, key=lambda vector: vector.number)
    note = f"{printable(first.name)} is {list(first.base.shape)}; theirs is the shorter side"
    return [f"--rank {rule.rank} is more than {len(small)} matrices have: {note}"]
