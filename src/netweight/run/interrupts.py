"""Signals that end a run, held back while other threads could be kept waiting by what they would interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["held_back"]

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def held_back() -> Iterator[None]:
    """The handlers of SIGINT, SIGTERM and SIGHUP are called when the block ends, not inside it.

    One that raises in the middle of `threading.Condition.__enter__` leaves the lock taken, and a thread of a pool that
    needs it waits for ever. In another thread than the main one, where no handler runs, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append((number, frame))

    numbers = [signal.Signals[name] for name in _ENDING if name in signal.Signals.__members__]  # Windows has no SIGHUP
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for first, frame in heard[:1]:
            handlers[signal.Signals(first)](first, frame)
