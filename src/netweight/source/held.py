"""Bytes in memory as a Source, such as those of a remote file that is read many times."""

from __future__ import annotations

from collections.abc import Sequence

from netweight.source.protocol import Source

__all__ = ["HeldBytes"]


class HeldBytes:
    """The bytes `held` under a `name`; `origins` are the sources they were read from, which are checked for changes."""

    def __init__(self, held: memoryview, name: str, origins: Sequence[Source] = ()) -> None:
        self._held = held
        self._name = name
        self._origins = origins

    @property
    def name(self) -> str:
        """See Source."""
        return self._name

    @property
    def size(self) -> int:
        """See Source."""
        return len(self._held)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Source; a Tensor asks for no bytes outside."""
        buffer[:] = self._held[offset : offset + len(buffer)]

    def prefetch(self, offset: int, size: int) -> None:
        """See Source."""

    def check_unchanged(self) -> None:
        """See Source."""
        for origin in self._origins:
            origin.check_unchanged()

    def close(self) -> None:
        """See Source."""
