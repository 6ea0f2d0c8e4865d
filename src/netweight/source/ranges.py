"""The seam between a file far away and its Source: fetching one range of bytes."""

from __future__ import annotations

import threading
from typing import Protocol

from netweight.source.protocol import FileState

__all__ = ["Ranges"]


class Ranges(Protocol):
    """One file far away. Methods may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The URL, for messages and results."""
        ...

    @property
    def state(self) -> FileState:
        """Size and stamp of the file that was opened."""
        ...

    @property
    def head(self) -> bytes:
        """The file's first bytes where opening it brought them, else nothing."""
        ...

    def fetch(self, start: int, view: memoryview, stop: threading.Event) -> None:
        """Fill `view` with the bytes from `start`; `stop` ends retries. Raises ReadError."""
        ...

    def now(self) -> FileState:
        """Size and stamp as they are now; raises ReadError."""
        ...
