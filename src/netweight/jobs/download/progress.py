"""The progress of a download, file by file, for whatever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DownloadProgress", "Silent", "Waiting"]


@dataclass(frozen=True)
class Waiting:
    """A file to fetch: `done` of its `size` bytes are there from an earlier run."""

    name: str
    size: int
    done: int


class DownloadProgress(Protocol):
    """Shown by the command line, silent elsewhere; any thread calls, one at a time."""

    def start(self, files: Sequence[Waiting]) -> None:
        """These files are to be fetched."""
        ...

    def advance(self, name: str, nbytes: int) -> None:
        """`nbytes` more of a file have come; negative where some were thrown away."""
        ...

    def finish(self, name: str) -> None:
        """A file is there, and verified."""
        ...

    def note(self, text: str) -> None:
        """A finding worth a line."""
        ...

    def stop(self) -> None:
        """The download has ended, with or without success."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, files: Sequence[Waiting]) -> None:
        """See DownloadProgress."""

    def advance(self, name: str, nbytes: int) -> None:
        """See DownloadProgress."""

    def finish(self, name: str) -> None:
        """See DownloadProgress."""

    def note(self, text: str) -> None:
        """See DownloadProgress."""

    def stop(self) -> None:
        """See DownloadProgress."""
