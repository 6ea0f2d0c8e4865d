"""Tasks that take much memory each: as many at a time as a budget allows, one always."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from netweight.run.execute import Executor
from netweight.run.spread import DeviceKernels, run_on

__all__ = ["Weighed", "crews", "run_crew"]


class Weighed(Protocol):
    """A task that knows its memory."""

    @property
    def memory(self) -> int:
        """Bytes beside what a worker holds anyway."""
        ...


W = TypeVar("W", bound=Weighed)
K = TypeVar("K")
R = TypeVar("R")


def crews(tasks: Sequence[W], per_worker: int, workers: int, budget: int) -> dict[int, list[W]]:
    """{number that runs at a time: their tasks}, the fewest first; each crew in the order of `tasks`. `budget` bytes
    are for all of them, of which a worker takes `per_worker` beside its task's.
    """
    found: dict[int, list[W]] = {}
    for task in tasks:
        found.setdefault(max(1, min(workers, budget // (task.memory + per_worker))), []).append(task)
    return dict(sorted(found.items()))


def run_crew(
    tasks: Sequence[W],
    at_once: int,
    executor: Executor,
    make: Callable[[K], Callable[[W], R]],
    kernels: K | DeviceKernels[K],
    *,
    name: Callable[[W], str],
    note: Callable[[str], None],
) -> Iterator[tuple[W, R]]:
    """Run the tasks of one crew in their order, `at_once` at a time; (task, result) as they finish. See `run_on`."""
    waiting = deque(tasks)
    flying = 0

    def next_task() -> W | None:
        nonlocal flying
        # a full crew may have a task queued beside those under way; a reduced one may not
        if not waiting or (at_once < executor.workers and flying >= at_once):
            return None
        flying += 1
        return waiting.popleft()

    for task, result in run_on(kernels, executor, next_task, make, name=name, note=note):
        flying -= 1
        yield task, result
