"""Progress of work that has phases of different kinds: its share that is done, and the time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from netweight.cli.progress.bar import LineProgress, TerminalProgress, progress_for

if TYPE_CHECKING:
    from netweight.run.progress import Progress

__all__ = ["share_progress_for"]


class _Share(LineProgress):
    """`nbytes` counts units of work here."""

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        left = seconds * (self._nbytes - self._done_bytes) / max(1, self._done_bytes)
        share = self._done_bytes / self._nbytes if self._nbytes else 1.0
        return f"{100 * share:.0f}% done, about {round(left) // 60}:{round(left) % 60:02} left"


class _ShareOnTerminal(_Share, TerminalProgress):
    """The same in one line that is redrawn."""


def share_progress_for(output_format: str) -> Progress:
    """`progress_for` of a share of the work."""
    return progress_for(output_format, _ShareOnTerminal, _Share)
