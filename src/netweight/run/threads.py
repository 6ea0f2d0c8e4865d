"""The executor of one machine: threads, since reading and the kernels release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["ThreadExecutor"]

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
