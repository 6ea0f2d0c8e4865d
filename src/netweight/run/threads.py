"""The executor of one machine: threads, since reading and the kernels release the interpreter's lock.

While it runs, the interpreter hands its lock over more often than by default: a worker needs it for microseconds
between two blocks, and would otherwise wait for milliseconds whenever the caller's thread merges results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

from netweight.run.interrupts import held_back

if TYPE_CHECKING:
    from netweight.run.execute import Executor

__all__ = ["ThreadExecutor", "in_order"]

_HANDOVER = 1e-4  # seconds

T = TypeVar("T")
R = TypeVar("R")


class ThreadExecutor:
    """`workers` threads; one task more than workers is handed out, so that none waits for the caller."""

    def __init__(self, workers: int, handover: float = _HANDOVER) -> None:
        """`handover`: seconds after which the interpreter's lock is handed over, if they are fewer than usual; `inf`
        where most of the work holds it, and is faster if it keeps it.
        """
        if workers < 1:
            msg = f"workers: expected 1 or more, got {workers}"
            raise ValueError(msg)
        self.workers = workers
        self._handover = handover

    def run(self, next_task: Callable[[], T | None], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """See `execute.Executor`. Ctrl-C ends the run after the tasks under way, which are short."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="netweight")
        flying: dict[Future[R], T] = {}
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, self._handover))
        try:
            while True:
                while len(flying) <= self.workers and (task := next_task()) is not None:
                    with held_back():
                        flying[pool.submit(work, task)] = task
                if not flying:
                    return
                with held_back():
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    yield flying.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            sys.setswitchinterval(usual)

    def close(self) -> None:
        """Nothing is held between runs."""


def in_order(tasks: Sequence[T], work: Callable[[T], R], executor: Executor) -> Iterator[R]:
    """Yield work(task) of all tasks in their order, whatever the number of workers."""
    left = iter(enumerate(tasks))
    waiting: dict[int, R] = {}
    following = 0
    for (number, _), result in executor.run(lambda: next(left, None), lambda task: work(task[1])):
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1
