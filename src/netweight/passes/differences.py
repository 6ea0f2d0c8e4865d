"""One pass over a base and its fine-tunes: every stretch of every parameter read once, statistics coming up as they
finish.

A second look at a parameter's data happens only where the first could not settle its quantiles (float32 tensors of more
than a million elements, mostly), and right after the first, while the data are still in the machine's page cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.dtypes import DType
from netweight.kernels.arrays import U8Array, U32Array, U64Array
from netweight.kernels.packing import Packed, pack, unpack
from netweight.kernels.protocol import DifferencePartial, Kernels
from netweight.params.align import Aligned
from netweight.passes.far_work import FarWork
from netweight.run.execute import Executor
from netweight.run.plan import PlannedTask, largest_first, stretches
from netweight.run.progress import Progress
from netweight.run.spread import DeviceKernels, run_on, several_devices
from netweight.statistics.difference import DifferenceStatistics, Settled, narrowed

__all__ = ["FirstLook", "SecondLook", "measure_differences", "plan_tasks"]


@dataclass(frozen=True)
class FirstLook:
    """A stretch to be taken in, and the bins whose residual values are wanted."""

    stretch: PlannedTask
    kept: U8Array

    def __reduce__(self) -> tuple[Any, ...]:
        return _first_look, (self.stretch, pack(self.kept))


def _first_look(stretch: PlannedTask, kept: Packed) -> FirstLook:
    return FirstLook(stretch, unpack(kept))


@dataclass(frozen=True)
class SecondLook:
    """A stretch to be looked at again, for what lies under these prefixes of each model's values."""

    stretch: PlannedTask
    level: int
    prefixes: Sequence[U64Array]


@dataclass(frozen=True)
class Recount:
    """Per model uint32 [prefixes, 65536], what a second look counted."""

    counts: tuple[U32Array, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, tuple(map(pack, self.counts))


def _unpacked(*packed: Packed) -> Recount:
    return Recount(tuple(map(unpack, packed)))


@dataclass(frozen=True)
class _Narrowed:
    """What a first look found, with residual values of the bins `kept` only."""

    partial: DifferencePartial
    kept: U8Array

    def __reduce__(self) -> tuple[Any, ...]:
        return _widened, (self.partial, pack(self.kept))


def _widened(partial: DifferencePartial, kept: Packed) -> _Narrowed:
    return _Narrowed(partial, unpack(kept))


Look = FirstLook | SecondLook
Found = DifferencePartial | _Narrowed | Settled | Recount


def _tensors(aligned: Aligned) -> list[Tensor | None]:
    return [aligned.base, *aligned.models]


def plan_tasks(parameters: Sequence[Aligned]) -> tuple[PlannedTask, ...]:
    """The stretches of all parameters, in the base's file order."""
    tasks = []
    for aligned in parameters:
        bits = sum(t.dtype.bits for t in _tensors(aligned) if t is not None)
        for number, (start, stop) in enumerate(stretches(aligned.base.size)):
            tasks.append(PlannedTask(aligned.name, number, start, stop, (stop - start) * bits // 8))
    return tuple(tasks)


class _Worker(FarWork):
    """Reads stretches and looks at them; every thread has accumulators of its own."""

    def __init__(self, parameters: Sequence[Aligned], kernels: Kernels) -> None:
        self._parameters = {a.name: a for a in parameters}
        self._kernels = kernels
        self._models = max((len(a.models) for a in parameters), default=0)
        super().__init__()

    def __call__(self, look: Look) -> Found:
        tensors = _tensors(self._parameters[look.stretch.name])
        dtypes = [None if t is None else t.dtype for t in tensors]
        if isinstance(look, FirstLook):
            first = self._accumulator("differences")
            first.start(dtypes, look.kept)
            self._feed(first, tensors, look.stretch)
            partial: DifferencePartial = first.partial()
            return self._small(look, dtypes, partial) if self.far else partial
        return self._again(look.stretch, dtypes, look.level, look.prefixes)

    def _again(
        self, stretch: PlannedTask, dtypes: Sequence[DType | None], level: int, prefixes: Sequence[U64Array]
    ) -> Recount:
        second = self._accumulator("refine")
        second.start(dtypes, prefixes, level)
        self._feed(second, _tensors(self._parameters[stretch.name]), stretch)
        return Recount(second.counts())

    def _small(
        self, look: FirstLook, dtypes: Sequence[DType | None], partial: DifferencePartial
    ) -> Settled | _Narrowed:
        """What goes back over a wire: of a whole parameter all that follows from it, which is next to nothing."""
        stretch = look.stretch
        if (stretch.start, stretch.stop) != (0, self._parameters[stretch.name].base.size):
            return _Narrowed(*narrowed(partial, look.kept))
        statistics = DifferenceStatistics(len(dtypes) - 1)
        statistics.add(stretch.number, partial, look.kept)
        while (wanted := statistics.unresolved()) is not None:
            statistics.refine([c.astype(np.uint64) for c in self._again(stretch, dtypes, *wanted).counts])
        return Settled.of(statistics)

    def _accumulator(self, kind: str) -> Any:
        if not hasattr(self._own, kind):
            setattr(self._own, kind, getattr(self._kernels, kind)(self._models))
        return getattr(self._own, kind)

    def _feed(self, accumulator: Any, tensors: Sequence[Tensor | None], stretch: PlannedTask) -> None:
        present = [
            (tensor, memoryview(buffer))
            for tensor, buffer in zip(tensors, accumulator.buffers, strict=False)
            if tensor is not None
        ]
        for tensor, _ in present:
            tensor.prefetch(stretch.start, stretch.stop - stretch.start)
        for start in range(stretch.start, stretch.stop, accumulator.block):
            count = min(accumulator.block, stretch.stop - start)
            for tensor, view in present:
                read_elements(tensor, start, view[: count * tensor.dtype.bits // 8], resumable=True)
            accumulator.add(count)


def _name(look: Look) -> str:
    return look.stretch.name


class _Pass:
    """What the caller's thread knows: which looks are next, and what has been found of each parameter."""

    def __init__(self, parameters: Sequence[Aligned], tasks: Sequence[PlannedTask]) -> None:
        self._aligned = {a.name: a for a in parameters}
        self._stretches: dict[str, list[PlannedTask]] = {}
        for task in tasks:
            self._stretches.setdefault(task.name, []).append(task)
        self._first = deque(tasks)
        self._second: deque[SecondLook] = deque()
        self._statistics: dict[str, DifferenceStatistics] = {}
        self._recounts: dict[str, list[tuple[U32Array, ...]]] = {}

    def next_look(self) -> Look | None:
        if self._second:
            return self._second.popleft()
        if not self._first:
            return None
        task = self._first.popleft()
        if task.name not in self._statistics:
            models = len(self._aligned[task.name].models)
            self._statistics[task.name] = DifferenceStatistics(models, len(self._stretches[task.name]))
        return FirstLook(task, self._statistics[task.name].kept())

    def take(self, look: Look, found: Found) -> DifferenceStatistics | Settled | None:
        """The parameter's statistics where `found` was the last that they needed."""
        name = look.stretch.name
        if isinstance(found, Settled):
            del self._statistics[name]
            return found
        statistics = self._statistics[name]
        if isinstance(look, FirstLook):
            assert isinstance(found, DifferencePartial | _Narrowed)  # noqa: S101 - a first look finds nothing else
            partial, kept = (found.partial, found.kept) if isinstance(found, _Narrowed) else (found, look.kept)
            statistics.add(look.stretch.number, partial, kept)
            if not statistics.complete:
                return None
        else:
            assert isinstance(found, Recount)  # noqa: S101 - nor does a second one
            counts = self._recounts.setdefault(name, [])
            counts.append(found.counts)
            if len(counts) < len(self._stretches[name]):
                return None
            recounts = zip(*self._recounts.pop(name), strict=True)
            statistics.refine([sum(parts[1:], start=parts[0].astype(np.uint64)) for parts in recounts])
        open_ranks = statistics.unresolved()
        if open_ranks is None:
            return self._statistics.pop(name)
        self._second.extend(SecondLook(stretch, *open_ranks) for stretch in self._stretches[name])
        return None


def measure_differences(
    parameters: Sequence[Aligned],
    tasks: Sequence[PlannedTask],
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    progress: Progress,
) -> Iterator[tuple[Aligned, DifferenceStatistics | Settled]]:
    """Yield every parameter's statistics as they are complete, in no fixed order.

    Raises ReadError where bytes cannot be read, with the tensor's name.
    """
    named = {a.name: a for a in parameters}
    course = _Pass(parameters, largest_first(tasks) if several_devices(kernels) else tasks)
    results: Iterator[tuple[Look, Found]] = run_on(
        kernels, executor, course.next_look, partial(_Worker, parameters), name=_name, note=progress.note
    )
    for look, found in results:
        finished = course.take(look, found)
        nbytes = look.stretch.nbytes if isinstance(look, FirstLook) else 0
        progress.advance(0 if finished is None else 1, nbytes)
        if finished is not None:
            yield named[look.stretch.name], finished
