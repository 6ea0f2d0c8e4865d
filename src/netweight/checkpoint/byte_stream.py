"""A part of a Source as a buffered binary stream, for parsers that read forward."""

from __future__ import annotations

import hashlib
import io

from netweight.source.protocol import Source

__all__ = ["digest_of", "read_whole", "stream_of"]


class _Window(io.RawIOBase):
    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source = source
        self._start = start
        self._size = end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        if count:
            self._source.read_into(self._start + self._position, view[:count])
        self._position += count
        return count


def stream_of(source: Source, start: int, end: int, buffer: int = 1 << 16) -> io.BufferedReader:
    """Bytes `start` to `end` of `source`, as a stream whose position 0 is `start`."""
    return io.BufferedReader(_Window(source, start, end), buffer)


def digest_of(source: Source, start: int, end: int) -> str:
    """The hex SHA-256 of bytes `start` to `end`."""
    return hashlib.file_digest(stream_of(source, start, end), "sha256").hexdigest()


def read_whole(source: Source) -> bytearray:
    """All bytes of `source`, which is closed then."""
    data = bytearray(source.size)
    source.read_into(0, memoryview(data))
    source.close()
    return data
