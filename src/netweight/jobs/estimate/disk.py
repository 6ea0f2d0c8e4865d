"""How fast a model's own files come: from the disk, and from the memory that holds what was read before."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from netweight.errors import OutputError, printable

__all__ = ["Piece", "find_mount", "measure_copying", "measure_disk", "measure_writing", "pieces_of", "split_by_cache"]

_PIECE = 4 << 20  # bytes
_PIECES = 64  # 256 MiB in all
_PROBES = 4  # pages of a piece that are asked for
_PATIENCE = 0.7  # seconds
_WRITTEN = 48 << 20  # bytes


@dataclass(frozen=True)
class Piece:
    """`size` bytes of a file from `offset`."""

    path: str
    offset: int
    size: int


def pieces_of(files: Sequence[tuple[str, int]]) -> list[Piece]:
    """At most 64 pieces of 4 MiB, spread evenly over the files' bytes (path, size); all bytes where they are few."""
    whole = [
        Piece(path, offset, min(_PIECE, size - offset)) for path, size in files for offset in range(0, size, _PIECE)
    ]
    step = max(1.0, len(whole) / _PIECES)
    return [whole[int(i * step)] for i in range(min(len(whole), _PIECES))]


def split_by_cache(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]] | None:
    """(pieces that the system holds in memory, pieces that it must read); None where the system does not tell."""
    if not hasattr(os, "preadv") or not hasattr(os, "RWF_NOWAIT"):
        return None
    held: list[Piece] = []
    away: list[Piece] = []
    for piece in pieces:
        known = _is_held(piece)
        if known is None:
            return None
        (held if known else away).append(piece)
    return held, away


def _is_held(piece: Piece) -> bool | None:
    page = bytearray(1)
    descriptor = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for probe in range(_PROBES):
            try:
                os.preadv(descriptor, [page], piece.offset + piece.size * probe // _PROBES, os.RWF_NOWAIT)
            except BlockingIOError:
                return False
            except OSError as problem:
                if problem.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    return None
                raise
    finally:
        os.close(descriptor)
    return True


def measure_disk(pieces: Sequence[Piece], threads: int) -> tuple[int, float]:
    """(bytes, seconds) by `threads` readers; ends after 0.7 seconds, or when all pieces are read. Raises OSError."""
    begun = time.perf_counter()

    def take(piece: Piece) -> int:
        return 0 if time.perf_counter() - begun > _PATIENCE else _read(piece, bytearray(piece.size))

    with ThreadPoolExecutor(max(1, min(threads, len(pieces)))) as pool:
        done = sum(pool.map(take, pieces))
    return done, time.perf_counter() - begun


def measure_copying(pieces: Sequence[Piece]) -> tuple[int, float]:
    """(bytes, seconds) out of the system's memory by one thread, into memory that is used again. Raises OSError."""
    room = bytearray(max(piece.size for piece in pieces))
    _read(pieces[0], room)
    begun = time.perf_counter()
    done = 0
    for piece in pieces:
        done += _read(piece, room)
        if time.perf_counter() - begun > _PATIENCE / 3:
            break
    return done, time.perf_counter() - begun


def _read(piece: Piece, room: bytearray) -> int:
    with open(piece.path, "rb", buffering=0) as file, memoryview(room) as view:  # noqa: PTH123 - a plain string
        file.seek(piece.offset)
        done = 0
        while done < piece.size and (got := file.readinto(view[done : piece.size])):
            done += got
    return done


def measure_writing(folder: Path) -> tuple[int, float]:
    """(bytes, seconds) to the disk of `folder`, by a file without a name that is gone afterwards.

    Raises OutputError where the folder takes no file.
    """
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            begun = time.perf_counter()
            done = 0
            while done < _WRITTEN and time.perf_counter() - begun < _PATIENCE:
                done += file.write(block)
            os.fsync(file.fileno())
            return done, time.perf_counter() - begun
    except OSError as problem:
        raise OutputError(
            f"--output {printable(str(folder))}: takes no file: {problem.strerror or problem}; name a folder, or one"
            " beside it, that can be written to"
        ) from None


def find_mount(path: str | Path) -> str:
    """The mount point of the file system that holds `path`, or would hold it."""
    place = Path(os.path.realpath(path))
    while not place.exists() and place != place.parent:
        place = place.parent
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return str(place)
