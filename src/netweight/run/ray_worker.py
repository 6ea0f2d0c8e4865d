"""What runs in a worker process of a cluster: one work at a time, and its tasks one after the other."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netweight.errors import JobError, NetweightError
from netweight.version import __version__

__all__ = ["Facts", "TaskRunner"]


@dataclass(frozen=True)
class Facts:
    """Which process on which node this is, and of which version of netweight."""

    host: str
    pid: int
    version: str


class TaskRunner:
    """Takes pickled work, then pickled tasks; answers are (True, the pickled result) or (False, the pickled exception),
    so that whoever waits can tell an exception of the work from a failure of the cluster.
    """

    def __init__(self) -> None:
        self._work: Callable[[Any], Any] | None = None

    def take(self, work: bytes) -> tuple[bool, bytes]:
        """Put `work` in place of what was there; the result is the process's Facts."""
        self._work = None  # two at a time may not fit

        def load(blob: bytes) -> Facts:
            self._work = pickle.loads(blob)  # noqa: S301 - from the process that started this one
            return Facts(socket.gethostname(), os.getpid(), __version__)

        return _answer(load, work)

    def do(self, task: bytes) -> tuple[bool, bytes]:
        """The work's result for one task."""
        work = self._work
        assert work is not None  # noqa: S101 - `take` comes first
        return _answer(lambda blob: work(pickle.loads(blob)), task)  # noqa: S301 - as above


def _answer(call: Callable[[bytes], Any], blob: bytes) -> tuple[bool, bytes]:
    try:
        return True, pickle.dumps(call(blob), pickle.HIGHEST_PROTOCOL)
    except BaseException as problem:
        return False, _pickled(problem)


def _pickled(problem: BaseException) -> bytes:
    if not isinstance(problem, NetweightError):
        problem.add_note(f"on {socket.gethostname()}:\n{traceback.format_exc()}")
    try:
        blob = pickle.dumps(problem, pickle.HIGHEST_PROTOCOL)
        pickle.loads(blob)  # noqa: S301 - some exceptions pickle, and cannot be made again
    except Exception:
        return pickle.dumps(JobError(f"a worker on {socket.gethostname()} failed: {problem!r}"))
    return blob
