"""Progress on stderr: a line that is redrawn on a terminal, a line now and then elsewhere, nothing where quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from netweight.views.text import human_bytes, one_line

if TYPE_CHECKING:
    from netweight.run.progress import Progress

__all__ = ["LineProgress", "TerminalProgress", "progress_for"]

_EVERY = 10.0  # seconds between lines where stderr is not a terminal
_REDRAW = 0.1


class LineProgress:
    """Bytes, tensors, rate and time left, one line every ten seconds; notes at once."""

    def __init__(self) -> None:
        self._tensors = self._nbytes = self._done_tensors = self._done_bytes = self._skipped = 0
        self._begun = self._shown = 0.0
        self._running = False

    def start(self, tensors: int, nbytes: int, done_tensors: int = 0, done_bytes: int = 0) -> None:
        """See run.progress.Progress."""
        self._tensors, self._nbytes = tensors, nbytes
        self._done_tensors, self._done_bytes = done_tensors, done_bytes
        self._skipped = done_bytes  # what an earlier run has done does not count for this run's rate
        self._begun = self._shown = time.monotonic()
        self._running = True

    def advance(self, tensors: int, nbytes: int) -> None:
        """See run.progress.Progress."""
        self._done_tensors += tensors
        self._done_bytes += nbytes
        if time.monotonic() - self._shown >= self._interval():
            self._shown = time.monotonic()
            self._show()

    def note(self, text: str) -> None:
        """See run.progress.Progress."""
        sys.stderr.write(f"note: {one_line(text)}\n")

    def stop(self) -> None:
        """See run.progress.Progress."""
        self._running = False

    def _interval(self) -> float:
        return _EVERY

    def _show(self) -> None:
        sys.stderr.write(f"{self._line()}\n")

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        rate = (self._done_bytes - self._skipped) / seconds
        left = (self._nbytes - self._done_bytes) / rate if rate else 0.0
        return (
            f"{human_bytes(self._done_bytes)} of {human_bytes(self._nbytes)}, {self._done_tensors} of {self._tensors}"
            f" tensors, {human_bytes(int(rate))}/s, {_clock(left)} left"
        )


class TerminalProgress(LineProgress):
    """The same in one line that is redrawn; it is wiped when the run ends."""

    def note(self, text: str) -> None:
        """See run.progress.Progress."""
        self._wipe()
        super().note(text)

    def stop(self) -> None:
        """See run.progress.Progress."""
        self._wipe()
        super().stop()

    def _interval(self) -> float:
        return _REDRAW

    def _show(self) -> None:
        import shutil

        share = self._done_bytes / self._nbytes if self._nbytes else 1.0
        width = shutil.get_terminal_size().columns - 1
        text = self._line()
        room = min(30, width - len(text) - 3)
        bar = f"[{'#' * round(share * room):<{room}}] " if room >= 5 else ""
        sys.stderr.write(f"\r\x1b[K{(bar + text)[:width]}")
        sys.stderr.flush()

    def _wipe(self) -> None:
        if self._running:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )


def progress_for(
    output_format: str,
    on_terminal: Callable[[], Progress] = TerminalProgress,
    elsewhere: Callable[[], Progress] = LineProgress,
) -> Progress:
    """The progress for `--format`: none where quiet, else by whether stderr is a terminal."""
    from netweight.run.progress import Silent

    if output_format == "quiet":
        return Silent()
    return on_terminal() if sys.stderr.isatty() else elsewhere()
