"""The seam between jobs and the machines that do their work: an executor runs tasks and knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Executor"]

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs tasks, several at a time. An executor whose workers do not share memory has `shares_memory` False: it
    cannot run work that changes objects in memory.
    """

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        ...

    def run(self, next_task: Callable[[], T | None], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """Yield (task, work(task)) as they finish, in any order.

        `next_task` is called in the caller's thread whenever a worker is free, at most a few tasks ahead. None means
        that there is no task now: it is called again after each result that was yielded. The run ends when it returns
        None with no task under way. An exception of `work` is raised here, after the tasks under way have ended.
        """
        ...

    def close(self) -> None:
        """Release what it holds between runs; closing twice is allowed."""
        ...
