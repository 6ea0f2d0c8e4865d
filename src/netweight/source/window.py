"""A stretch of a Source as a Source of its own: a file that lies whole inside another."""

from __future__ import annotations

from netweight.errors import ReadError, printable
from netweight.source.protocol import Source

__all__ = ["WindowSource"]


class WindowSource:
    """The `size` bytes of `outer` from `offset`; closing it leaves `outer` open."""

    def __init__(self, outer: Source, offset: int, size: int) -> None:
        self._outer = outer
        self._offset = offset
        self._size = size

    @property
    def name(self) -> str:
        """See Source."""
        return self._outer.name

    @property
    def size(self) -> int:
        """See Source."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Source."""
        if offset < 0 or offset + len(buffer) > self._size:
            raise ReadError(
                f"{printable(self.name)}: {len(buffer)} bytes from {offset} of a part of {self._size} bytes, which"
                f" begins at byte {self._offset}; the file is damaged"
            )
        self._outer.read_into(self._offset + offset, buffer)

    def prefetch(self, offset: int, size: int) -> None:
        """See Source."""
        self._outer.prefetch(self._offset + offset, size)

    def check_unchanged(self) -> None:
        """See Source."""
        self._outer.check_unchanged()

    def close(self) -> None:
        """See Source."""
