"""The executor of one machine: threads, since reading and the kernels release the interpreter's lock.

While it runs, the interpreter hands its lock over more often than by default: a worker needs it for microseconds
between two blocks, and would otherwise wait for milliseconds whenever the caller's thread merges results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["ThreadExecutor"]

_HANDOVER = 1e-4  # seconds

T = TypeVar("T")
R = TypeVar("R")


class ThreadExecutor:
    """`workers` threads; one task more than workers is handed out, so that none waits for the caller."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            msg = f"workers: expected 1 or more, got {workers}"
            raise ValueError(msg)
        self.workers = workers

    def run(self, next_task: Callable[[], T | None], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """See `execute.Executor`. Ctrl-C ends the run after the tasks under way, which are short."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="netweight")
        flying: dict[Future[R], T] = {}
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, _HANDOVER))
        try:
            while True:
                while len(flying) <= self.workers and (task := next_task()) is not None:
                    flying[pool.submit(work, task)] = task
                if not flying:
                    return
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    yield flying.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            sys.setswitchinterval(usual)

    def close(self) -> None:
        """Nothing is held between runs."""
