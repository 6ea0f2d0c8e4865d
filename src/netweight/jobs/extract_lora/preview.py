"""What ranks would cost and leave: the whole spectrum of every task vector, for a table of rank against error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

from netweight.dtypes import DTYPES
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, shown
from netweight.run.spread import all_kernels, kernels_on

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.plan import Prepared
    from netweight.jobs.extract_lora.targets import Target
    from netweight.kernels.arrays import F64Array
    from netweight.run.execute import Executor

__all__ = ["RANKS", "Preview", "Step", "preview"]

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Step:
    """One line: the `rule` of the ranks, the least and the greatest rank that it gives, the least possible relative
    error of all matrices together, and the adapter's `bytes`.
    """

    rule: str
    ranks: tuple[int, int]
    relative_error: float
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "rule": self.rule,
            "least_rank": self.ranks[0],
            "greatest_rank": self.ranks[1],
            "relative_error": self.relative_error,
            "energy": 1 - self.relative_error**2,
            "bytes": self.nbytes,
        }


@dataclass(frozen=True)
class Preview:
    """`steps`: every rank of RANKS, and what was asked for last. `matrices` changed, `kept_whole` modules and biases
    besides; `unchanged` tensors; `left_out` {parameter: reason} of what changed.
    """

    steps: tuple[Step, ...]
    matrices: int
    kept_whole: int
    unchanged: int
    left_out: Mapping[str, str]


def preview(prepared: Prepared, *, progress: Progress | None = None, executor: Executor | None = None) -> Preview:
    """Read base and fine-tune once, and say what an adapter of each rank would leave; writes nothing.

    Raises InputError where nothing changed, or an element is NaN or infinite; ReadError.
    """
    progress = progress or Silent()
    with ExitStack() as stack:
        own_executor = planned_executor(prepared.options, prepared.workers, prepared.memory)
        executor = executor or stack.enter_context(own_executor)
        with shown(progress, len(prepared.vectors), prepared.read):
            squares = dict(_spectra(prepared, executor, progress))
    for checkpoint in (prepared.base, prepared.model):
        checkpoint.check_unchanged()
    return _summed(prepared, squares)


def _spectra(prepared: Prepared, executor: Executor, progress: Progress) -> Iterator[tuple[str, F64Array]]:
    from netweight.kernels.choose import kernels_for
    from netweight.passes.task_vectors import SpectrumReader, block_bytes, run_vectors

    kernels = kernels_on(prepared.choice, kernels_for, prepared.workers, progress.note)
    host = all_kernels(kernels)[0]
    vectors = []
    for vector in prepared.vectors:
        memory = block_bytes(vector)
        if vector.act == "factors":
            memory += host.spectrum_bytes(DTYPES["F32"], *vector.base.shape)
        vectors.append(replace(vector, memory=memory, hold=0))
    runs = run_vectors(vectors, SpectrumReader, executor, kernels, budget=prepared.budget, note=progress.note)
    for vector, values in runs:
        progress.advance(1, vector.nbytes)
        yield vector.name, values


def _summed(prepared: Prepared, squares: Mapping[str, F64Array]) -> Preview:
    from netweight.jobs.extract_lora.adapter import check_changed
    from netweight.statistics.singular_vectors import Rule

    changed = [t for t in prepared.targets.targets if t.resized or float(squares[t.name].sum())]
    matrices = [(target, squares[target.name]) for target in changed if target.layer is not None]
    check_changed(prepared, [target.name for target in changed], len(matrices))
    whole = {target.module for target in changed if target.whole}
    besides = sum(t.nbytes for module in whole for t in prepared.targets.members[module].values())
    besides += sum(target.model.nbytes for target in changed if target.bias)
    most = max(len(values) for _, values in matrices)
    asked = prepared.options.rule
    rules = {f"rank {rank}": Rule(rank=rank) for rank in RANKS if rank < most}
    rules |= {f"rank {most}": Rule(rank=most)} if most <= RANKS[-1] else {}
    rules[asked] = prepared.plan.rule
    if prepared.plan.rule.rank is not None:
        rules = dict(sorted(rules.items(), key=lambda entry: entry[1].rank or 0))
    width = prepared.plan.dtype.bits // 8
    return Preview(
        tuple(_step(name, rule, matrices, width, besides) for name, rule in rules.items()),
        len(matrices),
        len(whole) + sum(target.bias for target in changed),
        len(prepared.targets.targets) - len(changed),
        {target.name: target.reason for target in changed if target.reason and not target.resized},
    )


def _step(name: str, rule: Any, matrices: Sequence[tuple[Target, F64Array]], width: int, besides: int) -> Step:
    ranks, left, nbytes = [], 0.0, besides
    for target, values in matrices:
        rank = rule.choose(values, float(values.sum()))
        ranks.append(rank)
        left += float(values[rank:][::-1].sum())
        nbytes += rank * sum(target.base.shape) * width
    total = sum(float(values.sum()) for _, values in matrices)
    return Step(name, (min(ranks), max(ranks)), sqrt(left / total), nbytes)
