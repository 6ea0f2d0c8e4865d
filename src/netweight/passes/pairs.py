"""One pass over two models: every stretch of every pair of tensors read once from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from netweight.checkpoint.tensor import Skipped, read_elements
from netweight.errors import ReadError
from netweight.kernels.pairs import PairAccumulator, PairPartial
from netweight.kernels.protocol import Kernels
from netweight.params.pairing import Pair
from netweight.passes.clipping import Clipping
from netweight.passes.far_work import FarWork
from netweight.run.execute import Executor
from netweight.run.plan import PlannedTask, largest_first, stretches
from netweight.run.progress import Progress
from netweight.run.spread import DeviceKernels, run_on, several_devices
from netweight.statistics.pairs import PairStatistics

__all__ = ["measure_pairs", "plan_pairs", "warm_up"]

PairResult = PairPartial | ReadError


def plan_pairs(pairs: Sequence[Pair]) -> tuple[PlannedTask, ...]:
    """The stretches of all pairs that can be compared, in their order."""
    return tuple(
        PlannedTask(p.name, number, start, stop, sum(side.file_bytes_of(start, stop) for side in (p.a, p.b)))
        for p in pairs
        if not p.reason
        for number, (start, stop) in enumerate(stretches(p.a.size))
    )


def warm_up(pairs: Sequence[Pair], kernels: Kernels) -> None:
    """Compile or load the loops for both widths that occur, so that no task waits for it."""
    wide = {"F64" in (p.a.dtype.name, p.b.dtype.name): p for p in pairs if not p.reason}
    for pair in wide.values():
        accumulator = kernels.pairs()
        accumulator.start(pair.a.dtype, pair.b.dtype)
        accumulator.add(0)


class _PairReader(FarWork):
    """Reads stretches of both sides; every thread has an accumulator of its own."""

    def __init__(self, pairs: Sequence[Pair], kernels: Kernels) -> None:
        self._pairs = {p.name: p for p in pairs}
        self._kernels = kernels
        super().__init__()

    def __call__(self, task: PlannedTask) -> PairResult:
        """The statistics of one stretch, or a ReadError: one unreadable tensor must not stop the others."""
        if not hasattr(self._own, "pairs"):
            self._own.pairs = self._kernels.pairs()
        accumulator: PairAccumulator = self._own.pairs
        pair = self._pairs[task.name]
        accumulator.start(pair.a.dtype, pair.b.dtype)
        clipping = Clipping(pair.a, pair.b)
        sides = [(t, memoryview(buffer.data)) for t, buffer in zip((pair.a, pair.b), accumulator.buffers, strict=True)]
        for tensor, _ in sides:
            tensor.prefetch(task.start, task.stop - task.start)
        try:
            for start in range(task.start, task.stop, accumulator.block):
                count = min(accumulator.block, task.stop - start)
                for tensor, view in sides:
                    read_elements(tensor, start, view[: count * tensor.dtype.bits // 8])
                accumulator.add(count)
                clipping.add(start, sides[0][1][: count * pair.a.dtype.bits // 8])
        except ReadError as error:
            return error
        return replace(accumulator.partial(), looked_at=clipping.looked_at, clipped=clipping.clipped)


def _name(task: PlannedTask) -> str:
    return task.name


def measure_pairs(
    pairs: Sequence[Pair],
    tasks: Sequence[PlannedTask],
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    progress: Progress,
) -> Iterator[tuple[Pair, PairStatistics | Skipped]]:
    """Yield every pair's statistics, or the reason why there are none, as they are complete, in no fixed order."""
    named = {p.name: p for p in pairs}
    waiting = iter(largest_first(tasks) if several_devices(kernels) else tasks)
    open_stretches: dict[str, int] = {}
    for task in tasks:
        open_stretches[task.name] = open_stretches.get(task.name, 0) + 1
    partials: dict[str, dict[int, PairPartial]] = {}
    failed: dict[str, Skipped] = {}

    def next_task() -> PlannedTask | None:
        return next((task for task in waiting if task.name not in failed), None)

    make = partial(_PairReader, pairs)
    for task, result in run_on(kernels, executor, next_task, make, name=_name, note=progress.note):
        name = task.name
        if name in failed:
            continue
        if isinstance(result, ReadError):
            failed[name] = Skipped(name, str(result))
            read_already = partials.pop(name, {})
            progress.advance(1, sum(t.nbytes for t in tasks if t.name == name and t.number not in read_already))
            yield named[name], failed[name]
            continue
        parts = partials.setdefault(name, {})
        parts[task.number] = result
        done = len(parts) == open_stretches[name]
        progress.advance(int(done), task.nbytes)
        if done:
            parts = partials.pop(name)
            yield named[name], PairStatistics.of_stretches(parts[number] for number in range(len(parts)))
