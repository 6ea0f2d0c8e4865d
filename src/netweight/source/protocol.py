"""The seam between bytes and readers: a source is one file, read by position from any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["FileState", "Source"]


@dataclass(frozen=True)
class FileState:
    """What tells that a file is still the one opened: its `size` in bytes, a `stamp` (mtime and inode, an etag)."""

    size: int
    stamp: str


class Source(Protocol):
    """One file's bytes by position. Methods may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The path or URL, for messages and results."""
        ...

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`; raises ReadError where they end before it is full."""
        ...

    def prefetch(self, offset: int, size: int) -> None:
        """Hint that these bytes are wanted soon; returns at once."""
        ...

    def check_unchanged(self) -> None:
        """Raises ReadError where the file is no longer the one that was opened."""
        ...

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""
        ...
