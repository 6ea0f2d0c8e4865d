"""One pass over a base and its fine-tunes: every stretch of every parameter is read once, statistics are yielded as
they finish.

A parameter is read a second time only where the first reading could not settle its quantiles (mostly float32 tensors
of more than a million elements). The second reading follows at once, while the data are in the machine's page cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.dtypes import DType
from netweight.kernels.arrays import Array, U8Array, U32Array, U64Array
from netweight.kernels.packing import Packed, pack, unpack
from netweight.kernels.protocol import DifferencePartial, Kernels
from netweight.params.pairing import Aligned
from netweight.passes.far_work import FarWork
from netweight.run.execute import Executor
from netweight.run.plan import PlannedTask, largest_first, stretches
from netweight.run.progress import Progress
from netweight.run.spread import DeviceKernels, run_on, several_devices
from netweight.statistics.difference import DifferenceStatistics, Settled, narrowed
from netweight.statistics.few_differences import of_few

__all__ = ["FirstReading", "SecondReading", "measure_differences", "plan_tasks", "scratch_bytes"]


@dataclass(frozen=True)
class FirstReading:
    """A stretch to read for the first time, and the bins whose residual values are kept."""

    stretch: PlannedTask
    kept: U8Array

    def __reduce__(self) -> tuple[Any, ...]:
        return _first_reading, (self.stretch, pack(self.kept))


def _first_reading(stretch: PlannedTask, kept: Packed) -> FirstReading:
    return FirstReading(stretch, unpack(kept))


@dataclass(frozen=True)
class SecondReading:
    """A stretch to read again, to count what lies under these prefixes of each model's values."""

    stretch: PlannedTask
    level: int
    prefixes: Sequence[U64Array]


@dataclass(frozen=True)
class Recount:
    """Per model uint32 [prefixes, 65536], counted by a second reading."""

    counts: tuple[U32Array, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, tuple(map(pack, self.counts))


def _unpacked(*packed: Packed) -> Recount:
    return Recount(tuple(map(unpack, packed)))


@dataclass(frozen=True)
class _NarrowedPartial:
    """The result of a first reading, with residual values of the bins `kept` only."""

    differences: DifferencePartial
    kept: U8Array

    def __reduce__(self) -> tuple[Any, ...]:
        return _narrowed_partial, (self.differences, pack(self.kept))


def _narrowed_partial(differences: DifferencePartial, kept: Packed) -> _NarrowedPartial:
    return _NarrowedPartial(differences, unpack(kept))


_FEW = 1 << 16  # elements of a parameter that is held whole
_TOGETHER = 1 << 19  # elements of several stretches that are read as one task
_MOST = 32  # such stretches

Reading = FirstReading | SecondReading
StretchResult = DifferencePartial | _NarrowedPartial | Settled | Recount


def _tensors(aligned: Aligned) -> list[Tensor | None]:
    return [aligned.base, *aligned.models]


def plan_tasks(parameters: Sequence[Aligned]) -> tuple[PlannedTask, ...]:
    """The stretches of all parameters, in the base's file order."""
    tasks = []
    for aligned in parameters:
        present = [t for t in _tensors(aligned) if t is not None]
        for number, (start, stop) in enumerate(stretches(aligned.base.size)):
            nbytes = sum(t.file_bytes_of(start, stop) for t in present)
            tasks.append(PlannedTask(aligned.name, number, start, stop, nbytes))
    return tuple(tasks)


def scratch_bytes(parameters: Sequence[Aligned]) -> int:
    """Memory that one worker takes beside its kernels' buffers, for tensors that are put together as they are read."""
    return max((sum(t.scratch for t in _tensors(a) if t is not None) for a in parameters), default=0)


class _StretchReader(FarWork):
    """Reads stretches into accumulators; every thread has its own."""

    def __init__(self, parameters: Sequence[Aligned], kernels: Kernels, *, pictured: bool) -> None:
        self._parameters = {a.name: a for a in parameters}
        self._pictured = pictured
        self._kernels = kernels
        self._models = max((len(a.models) for a in parameters), default=0)
        super().__init__()

    def __call__(self, readings: Sequence[Reading]) -> list[StretchResult]:
        return [self._read(reading) for reading in readings]

    def _read(self, reading: Reading) -> StretchResult:
        tensors = _tensors(self._parameters[reading.stretch.name])
        dtypes = [None if t is None else t.dtype for t in tensors]
        if isinstance(reading, FirstReading) and self._is_whole(reading.stretch) and reading.stretch.stop <= _FEW:
            return self._few(tensors)
        if isinstance(reading, FirstReading):
            first = self._accumulator("differences")
            first.start(dtypes, reading.kept)
            self._feed(first, tensors, reading.stretch)
            return self._condensed(reading, dtypes, first.partial())
        return self._recount(reading.stretch, dtypes, reading.level, reading.prefixes)

    def _is_whole(self, stretch: PlannedTask) -> bool:
        """Whether a stretch is all of its parameter."""
        return (stretch.start, stretch.stop) == (0, self._parameters[stretch.name].base.size)

    def _few(self, tensors: Sequence[Tensor | None]) -> Settled:
        """Of a small parameter; the processor does it whatever the device is."""
        wide = any(tensor is not None and tensor.dtype.name == "F64" for tensor in tensors)
        base, *models = (None if tensor is None else _numbers(tensor, wide=wide) for tensor in tensors)
        assert base is not None  # noqa: S101 - parameters are the base's
        return of_few(base, models, pictured=self._pictured)

    def _recount(
        self, stretch: PlannedTask, dtypes: Sequence[DType | None], level: int, prefixes: Sequence[U64Array]
    ) -> Recount:
        second = self._accumulator("refine")
        second.start(dtypes, prefixes, level)
        self._feed(second, _tensors(self._parameters[stretch.name]), stretch)
        return Recount(second.counts())

    def _condensed(
        self, reading: FirstReading, dtypes: Sequence[DType | None], differences: DifferencePartial
    ) -> Settled | DifferencePartial | _NarrowedPartial:
        """A whole parameter's statistics where the stretch is all of it: the caller's thread has nothing to do then,
        and they are small where they go over a wire.
        """
        stretch = reading.stretch
        if not self._is_whole(stretch):
            return _NarrowedPartial(*narrowed(differences, reading.kept)) if self.far else differences
        statistics = DifferenceStatistics(len(dtypes) - 1)
        statistics.add(stretch.number, differences, reading.kept)
        while (wanted := statistics.unresolved()) is not None:
            statistics.refine([c.astype(np.uint64) for c in self._recount(stretch, dtypes, *wanted).counts])
        return Settled.of(statistics, pictured=self._pictured)

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


def _numbers(tensor: Tensor, *, wide: bool) -> Array:
    """All of a tensor as float64 or float32 [n]."""
    raw = np.empty(tensor.dtype.nbytes(tensor.size), np.uint8)
    read_elements(tensor, 0, raw.data, resumable=True)
    with np.errstate(invalid="ignore"):  # signalling NaN
        numbers: Array = raw.view(tensor.dtype.to_numpy()).astype(np.float64 if wide else np.float32)
    return numbers


def _name(readings: Sequence[Reading]) -> str:
    return readings[0].stretch.name


class _ReadingSchedule:
    """Which stretches are read next, and the statistics of every parameter so far; for the caller's thread alone."""

    def __init__(self, parameters: Sequence[Aligned], tasks: Sequence[PlannedTask], workers: int) -> None:
        self._aligned = {a.name: a for a in parameters}
        self._stretches: dict[str, list[PlannedTask]] = {}
        for task in tasks:
            self._stretches.setdefault(task.name, []).append(task)
        self._first = deque(tasks)
        self._most = max(1, min(_MOST, len(tasks) // (8 * workers)))
        self._second: deque[SecondReading] = deque()
        self._statistics: dict[str, DifferenceStatistics] = {}
        self._recounts: dict[str, list[tuple[U32Array, ...]]] = {}

    def next_readings(self) -> list[Reading] | None:
        """One reading, or several of small stretches, which would cost more to hand over one by one than to read."""
        readings: list[Reading] = []
        room = _TOGETHER
        while len(readings) < self._most and (reading := self._next(room)) is not None:
            readings.append(reading)
            room -= reading.stretch.stop - reading.stretch.start
        return readings or None

    def _next(self, room: int) -> Reading | None:
        """The next reading, where it is the first one, or of at most `room` elements."""
        waiting = self._second[0].stretch if self._second else self._first[0] if self._first else None
        if waiting is None or (room < _TOGETHER and waiting.stop - waiting.start > room):
            return None
        return self._next_reading()

    def _next_reading(self) -> Reading | None:
        if self._second:
            return self._second.popleft()
        if not self._first:
            return None
        task = self._first.popleft()
        if task.name not in self._statistics:
            models = len(self._aligned[task.name].models)
            self._statistics[task.name] = DifferenceStatistics(models, len(self._stretches[task.name]))
        return FirstReading(task, self._statistics[task.name].kept())

    def take(self, reading: Reading, result: StretchResult) -> DifferenceStatistics | Settled | None:
        """The parameter's statistics where `result` completes them."""
        name = reading.stretch.name
        if isinstance(result, Settled):
            del self._statistics[name]
            return result
        statistics = self._statistics[name]
        if isinstance(reading, FirstReading):
            assert isinstance(result, DifferencePartial | _NarrowedPartial)  # noqa: S101 - nothing else comes of it
            differences, kept = (
                (result.differences, result.kept) if isinstance(result, _NarrowedPartial) else (result, reading.kept)
            )
            statistics.add(reading.stretch.number, differences, kept)
            if not statistics.complete:
                return None
        else:
            assert isinstance(result, Recount)  # noqa: S101 - as above
            counts = self._recounts.setdefault(name, [])
            counts.append(result.counts)
            if len(counts) < len(self._stretches[name]):
                return None
            recounts = zip(*self._recounts.pop(name), strict=True)
            statistics.refine([sum(parts[1:], start=parts[0].astype(np.uint64)) for parts in recounts])
        open_ranks = statistics.unresolved()
        if open_ranks is None:
            return self._statistics.pop(name)
        self._second.extend(SecondReading(stretch, *open_ranks) for stretch in self._stretches[name])
        return None


def measure_differences(
    parameters: Sequence[Aligned],
    tasks: Sequence[PlannedTask],
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    progress: Progress,
    *,
    pictured: bool = False,
) -> Iterator[tuple[Aligned, DifferenceStatistics | Settled]]:
    """Yield every parameter's statistics as they are complete, in no fixed order; with histograms where `pictured`.

    Raises ReadError where bytes cannot be read, with the tensor's name.
    """
    named = {a.name: a for a in parameters}
    ordered = largest_first(tasks) if several_devices(kernels) else tasks
    schedule = _ReadingSchedule(parameters, ordered, executor.workers)
    make = partial(_StretchReader, parameters, pictured=pictured)
    batches: Iterator[tuple[list[Reading], list[StretchResult]]] = run_on(
        kernels, executor, schedule.next_readings, make, name=_name, note=progress.note
    )
    for reading, result in chain.from_iterable(zip(*batch, strict=True) for batch in batches):
        finished = schedule.take(reading, result)
        nbytes = reading.stretch.nbytes if isinstance(reading, FirstReading) else 0
        progress.advance(0 if finished is None else 1, nbytes)
        if finished is not None:
            yield named[reading.stretch.name], finished
