"""The progress of a run, reported to whatever shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "Silent", "compiling", "shown"]

_PATIENCE = 2.0  # seconds


class Progress(Protocol):
    """Shown by the command line, silent elsewhere; called from one thread."""

    def start(self, tensors: int, nbytes: int, done_tensors: int = 0, done_bytes: int = 0) -> None:
        """The run begins: so many tensors, and bytes to read; so many of them an earlier run has done."""
        ...

    def advance(self, tensors: int, nbytes: int) -> None:
        """So many more are done."""
        ...

    def note(self, text: str) -> None:
        """A finding worth a line."""
        ...

    def stop(self) -> None:
        """The run has ended, well or not."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, tensors: int, nbytes: int, done_tensors: int = 0, done_bytes: int = 0) -> None:
        """See Progress."""

    def advance(self, tensors: int, nbytes: int) -> None:
        """See Progress."""

    def note(self, text: str) -> None:
        """See Progress."""

    def stop(self) -> None:
        """See Progress."""


@contextmanager
def shown(progress: Progress, tensors: int, nbytes: int, done_tensors: int = 0, done_bytes: int = 0) -> Iterator[None]:
    """A run of so many tensors and bytes, shown for as long as the block runs; so many of them are done already."""
    progress.start(tensors, nbytes, done_tensors, done_bytes)
    try:
        yield
    finally:
        progress.stop()


@contextmanager
def compiling(progress: Progress) -> Iterator[None]:
    """Note that kernels are being compiled, where loading them in the block takes seconds."""
    timer = threading.Timer(
        _PATIENCE, lambda: progress.note("compiling the kernels: only at the first run of an installation")
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
