"""Progress over models: how many of them are done, and how long the rest will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from netweight.cli.progress.bar import LineProgress, TerminalProgress, progress_for

if TYPE_CHECKING:
    from netweight.run.progress import Progress

__all__ = ["model_progress_for"]


class _Models(LineProgress):
    """`nbytes` counts models here."""

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        rate = self._done_tensors / seconds
        left = (self._tensors - self._done_tensors) / rate if rate else 0.0
        return f"{self._done_tensors} of {self._tensors} models, {rate:.1f}/s, {left:.0f} s left"


class _ModelsOnTerminal(_Models, TerminalProgress):
    """The same in one line that is redrawn."""


def model_progress_for(output_format: str) -> Progress:
    """`progress_for` of models."""
    return progress_for(output_format, _ModelsOnTerminal, _Models)
