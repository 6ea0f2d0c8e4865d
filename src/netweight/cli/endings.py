"""SIGTERM and SIGHUP end a run as Ctrl-C does: jobs put away what they have, for --resume."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["heeding"]

_NAMES = ("SIGTERM", "SIGHUP")


@contextmanager
def heeding() -> Iterator[list[int]]:
    """While the block runs, the first of these signals raises KeyboardInterrupt in the main thread, and its number is
    in the list; later ones change nothing, so that what Ctrl-C would leave behind is left. One that was ignored, as
    SIGHUP is by nohup, stays so. In another thread than the main one nothing is done.
    """
    heard: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as handlers are called
        heard.append(number)
        if len(heard) == 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    numbers = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]  # Windows has no SIGHUP
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield heard
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
