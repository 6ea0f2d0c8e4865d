"""The passes of a merge: every parameter goes through its method's looks and its writing, stretch by stretch.

A parameter's passes follow one another at once, while its data are still in the machine's page cache. The caller's
thread runs the methods, which only decide; workers read, compute and hand the bytes on. A parameter's stretches are
fixed by its size, and the results of looks are merged in their order, so that the number of workers changes no bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.announce import announce_tensors
from netweight.merging.course import Copy, Measured, is_write
from netweight.merging.target import Target
from netweight.passes.merge_blocks import stretches_of
from netweight.passes.merge_steps import Sink, Step, StepWorker, Written, tensor_digest
from netweight.run.progress import Progress
from netweight.run.spread import DeviceKernels, run_on, several_devices

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels
    from netweight.run.execute import Executor

__all__ = ["Finished", "run_courses"]


_TOGETHER = 1 << 19  # elements of several steps that are done as one task
_MOST = 32  # such steps


@dataclass(frozen=True)
class Finished:
    """One parameter: digests of the output and of every input that was read for it (None: it was not needed), how many
    elements of the output are not finite, the value of a course that only measures, and how many elements differ from
    what a sink that compares has.
    """

    target: Target
    digest: str = ""
    inputs: tuple[str | None, ...] = ()
    nonfinite: int = 0
    value: Any = None
    differing: int = 0


class _TargetUnderWay:
    """A target under way: its course, its present act, and the results of that act by stretch."""

    def __init__(self, target: Target, course: Any) -> None:
        self.target = target
        self.course = course
        self.act: Any = None
        self.results: list[Any] = []
        self.missing = 0

    @property
    def in_any_order(self) -> bool:
        """Whether the results of the present act are merged as they come."""
        return not (isinstance(self.act, Copy) or is_write(self.act)) and bool(self.act.in_any_order)


class _StepSchedule:
    """Which steps are next; used by the caller's thread alone."""

    def __init__(self, targets: Sequence[Target], course_of: Callable[[Target], Any], workers: int) -> None:
        self._waiting = deque(targets)
        self._most = max(1, min(_MOST, len(targets) // (8 * workers)))
        self._course_of = course_of
        self._steps: deque[Step] = deque()
        self._open: dict[str, _TargetUnderWay] = {}
        self.measured: deque[Finished] = deque()  # courses that ended without a pass

    def next_steps(self) -> list[Step] | None:
        """One step, or several small ones, which would cost more to hand over one by one than to do."""
        steps: list[Step] = []
        room = _TOGETHER
        while len(steps) < self._most and self._has_step() and (not steps or _size(self._steps[0]) <= room):
            steps.append(self._steps.popleft())
            room -= _size(steps[-1])
        return steps or None

    def _has_step(self) -> bool:
        """Whether there is a step to do; begins the next target where there is none of those under way."""
        while not self._steps:
            if not self._waiting:
                return False
            target = self._waiting.popleft()
            under_way = self._open[target.name] = _TargetUnderWay(target, self._course_of(target))
            if (finished := self._advance(under_way, None)) is not None:
                self.measured.append(finished)
        return True

    def take(self, step: Step, result: Any) -> Finished | None:
        under_way = self._open[step.target.name]
        under_way.missing -= 1
        if under_way.in_any_order:
            result = under_way.act.merged([*under_way.results, result])
            under_way.results = [result]
        else:
            under_way.results[step.number] = result
        if under_way.missing:
            return None
        if isinstance(result, Written):
            del self._open[step.target.name]
            return _finished(under_way.target, under_way.results)
        return self._advance(under_way, under_way.act.merged(under_way.results))

    def _advance(self, under_way: _TargetUnderWay, answer: Any) -> Finished | None:
        """Ask the course for its next act, and put the act's steps before all others."""
        try:
            act = under_way.course.send(answer)
        except StopIteration as end:
            act = end.value
        if isinstance(act, Measured):
            del self._open[under_way.target.name]
            return Finished(under_way.target, value=act.value)
        under_way.act = act
        spans = stretches_of(under_way.target)
        under_way.results = [] if under_way.in_any_order else [None] * len(spans)
        under_way.missing = len(spans)
        self._steps.extendleft(reversed([Step(under_way.target, n, a, b, act) for n, (a, b) in enumerate(spans)]))
        return None


def _finished(target: Target, parts: Sequence[Written]) -> Finished:
    inputs = []
    for i in range(len(target.inputs)):
        digests = [part.inputs[i] for part in parts]
        inputs.append(tensor_digest([d for d in digests if d is not None]) if None not in digests else None)
    return Finished(
        target,
        tensor_digest([part.digest for part in parts]),
        tuple(inputs),
        sum(part.nonfinite for part in parts),
        differing=sum(part.differing for part in parts),
    )


def _size(step: Step) -> int:
    return step.stop - step.start


def _name(steps: Sequence[Step]) -> str:
    return steps[0].target.name


def run_courses(
    targets: Sequence[Target],
    course_of: Callable[[Target], Any],
    executor: Executor,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    sink: Sink | None,
    progress: Progress,
) -> Iterator[Finished]:
    """Run the course of every target; yield each as it is finished, in no fixed order.

    `course_of` makes the course of a target; one that returns `Measured` writes nothing. Raises ReadError where bytes
    cannot be read, JobError where the sink refuses, OptionError where a method cannot do what it is asked to.
    """
    announce_tensors(piece.tensor for target in targets for source in target.inputs for piece in source.pieces)
    if several_devices(kernels):
        targets = sorted(targets, key=lambda t: -t.size)
    courses = _StepSchedule(targets, course_of, executor.workers)
    make = partial(StepWorker, sink=sink)
    batches = run_on(kernels, executor, courses.next_steps, make, name=_name, note=progress.note)
    for step, result in chain.from_iterable(zip(*batch, strict=True) for batch in batches):
        finished = courses.take(step, result)
        share = sum(i.nbytes for i in step.target.inputs) * (step.stop - step.start) // max(step.target.size, 1)
        progress.advance(0 if finished is None else 1, share if sink is None or isinstance(result, Written) else 0)
        if finished is not None:
            yield finished
    yield from courses.measured
