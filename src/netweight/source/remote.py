"""A file far away as a Source: what a job announces is fetched in large pieces, several at a time, before it is read.

Only announced or requested ranges are fetched, and a file's first bytes, where headers are.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from netweight.errors import ReadError, printable
from netweight.source.arrivals import open_once
from netweight.source.protocol import FileState, Source
from netweight.source.ranges import Ranges

__all__ = ["HEAD", "KEPT", "PIECE", "READ_AHEAD", "RemoteFile", "announce"]

HEAD = 1 << 16
"""Bytes from a file's start that the first read there brings: enough for most headers of shards."""

PIECE = 1 << 22
"""Bytes of a single range of what was announced."""

READ_AHEAD = 1 << 26
"""Bytes that all files together hold or wait for before anybody has begun to read them."""

KEPT = 4 + 2 * (os.cpu_count() or 1)
"""Pieces of a file that were read in part and are held: every worker may be in another."""

_THREADS = 8
_SMALL = 1 << 20  # neighbours of this size or less are fetched together


@dataclass(eq=False)
class _Piece:
    """Bytes `start` to `stop`, fetched by one request; `next` will be read after it. `future` holds them once they are
    asked for, `left` counts those that nobody has read yet; `ahead`: they are counted in the read-ahead;
    `spent`: they were read to the end.
    """

    start: int
    stop: int
    next: _Piece | None = None
    future: Future[bytearray] | None = None
    left: int = 0
    users: int = 0
    ahead: bool = False
    spent: bool = False

    @property
    def size(self) -> int:
        return self.stop - self.start

    def ask(self) -> Future[bytearray]:
        self.future = Future()
        self.left = self.size
        return self.future


class _Room:
    """Bytes of read-ahead that are free, for all files."""

    def __init__(self, size: int) -> None:
        self._lock = threading.RLock()  # a destructor may give back while this thread is in here
        self._free = size

    def take(self, size: int) -> bool:
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self._free += size


_room = _Room(READ_AHEAD)


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="netweight-fetch")


_files: weakref.WeakSet[RemoteFile] = weakref.WeakSet()
"""Those of this process."""


class RemoteFile:
    """A file read by ranges; see Source. `announce` says what will be read, so that it is fetched ahead."""

    def __init__(self, ranges: Ranges) -> None:
        _files.add(self)
        self._ranges = ranges
        self._stop = threading.Event()
        self._head = ranges.head
        self._head_lock = threading.Lock()
        self._head_coming: Future[None] | None = None
        self._lock = threading.Lock()
        self._pieces: list[_Piece] = []  # sorted, without overlaps
        self._last: _Piece | None = None  # of those announced
        self._held: dict[int, _Piece] = {}  # those asked for by start, the one longest not read first

    @property
    def name(self) -> str:
        """The URL."""
        return self._ranges.name

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._ranges.state.size

    @property
    def state(self) -> FileState:
        """Size and stamp (an ETag, a digest) when it was opened."""
        return self._ranges.state

    def __repr__(self) -> str:
        return f"RemoteFile({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """As a value: what was fetched or announced stays here."""
        return _arrival, (self._ranges,)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset`; raises ReadError where the file ends before, or cannot be read."""
        view = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        end = offset + len(view)
        if offset < 0 or end > self.size:
            raise ReadError(
                f"{printable(self.name)}: bytes {offset} to {end} wanted, the file has {self.size}; it is cut short"
            )
        if not len(view):
            return
        self._check_open()
        at = offset
        if at < self._head_size() and self._with_head():
            taken = min(end, len(self._head)) - at
            view[:taken] = memoryview(self._head)[at : at + taken]
            at += taken
        while at < end:
            at += self._read(at, view[at - offset :])

    def prefetch(self, offset: int, size: int) -> None:
        """Have these bytes fetched, as far as there is room; returns at once."""
        if self._stop.is_set() or size <= 0 or offset >= self.size:
            return
        if offset < self._head_size() and not self._head:
            with self._head_lock:
                if not self._head and self._head_coming is None:
                    self._head_coming = _fetchers().submit(self._bring_head)
        self.announce([(offset, min(size, self.size - offset))])
        with self._lock:
            piece = first = self._find(max(offset, self._head_size()))
            while piece is not None and (piece is first or offset <= piece.start < offset + size):
                piece.spent = False  # it is wanted once more
                piece = piece.next
            ahead = self._ahead_from(first)
        self._fetch_all(ahead)

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say that these ranges (offset, size) will be read, in this order. Neighbours are fetched together."""
        groups = _together(
            (number, offset, min(offset + size, self.size)) for number, (offset, size) in enumerate(ranges)
        )
        with self._lock:
            known = list(self._pieces)
            for _, start, stop, anchor in sorted(groups):
                begin = max(start, self._head_size())
                if self._overlaps(known, begin, stop):
                    self._want_again(known, begin, stop)
                    continue
                cuts = [at for at in range(anchor + PIECE, stop, PIECE) if at > begin]
                for first, last in pairwise([begin, *cuts, stop]):
                    if first < last:
                        self._append(_Piece(first, last))
            self._pieces.sort(key=_start_of)

    def _want_again(self, pieces: list[_Piece], start: int, stop: int) -> None:
        """Mark pieces that will be read once more: they are fetched ahead again."""
        for piece in pieces[max(0, bisect_right(pieces, start, key=_start_of) - 1) :]:
            if piece.start >= stop:
                break
            piece.spent = False

    def _append(self, piece: _Piece) -> None:
        if self._last is not None:
            self._last.next = piece
        self._last = piece
        self._pieces.append(piece)

    def check_unchanged(self) -> None:
        """Raises ReadError where the file has another size or stamp now."""
        self._check_open()
        try:
            now = self._ranges.now()
        except FileNotFoundError:
            raise ReadError(f"{printable(self.name)}: is gone since it was opened") from None
        if now != self.state:
            raise ReadError(
                f"{printable(self.name)}: changed since it was opened (then {self.size} bytes, now {now.size}); run"
                " again when nothing writes to it"
            )

    def close(self) -> None:
        """End what is on its way; reading afterwards raises ReadError."""
        self._stop.set()
        with self._lock:
            for piece in self._held.values():
                self._give_back(piece)
            self._held.clear()

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self.close()

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise ReadError(f"{printable(self.name)}: is closed; open the checkpoint again")

    def _head_size(self) -> int:
        return min(HEAD, self.size)

    def _with_head(self) -> bool:
        coming = self._head_coming
        if not self._head and coming is not None:
            coming.result()
        if not self._head:
            self._bring_head()
        return True

    def _bring_head(self) -> None:
        with self._head_lock:
            if not self._head:
                data = bytearray(self._head_size())
                self._ranges.fetch(0, memoryview(data), self._stop)
                self._head = bytes(data)

    def _read(self, at: int, view: memoryview) -> int:
        """Fill the beginning of `view` from byte `at`; how many bytes that were."""
        with self._lock:
            piece = self._find(at)
            if piece is None:
                following = bisect_right(self._pieces, at, key=_start_of)
                until = self._pieces[following].start if following < len(self._pieces) else self.size
                count = min(len(view), until - at)
            else:
                count = min(len(view), piece.stop - at)
                mine = piece.future is None
                future = piece.future or piece.ask()
                self._held.pop(piece.start, None)
                self._held[piece.start] = piece  # last: the one that was read last
                self._give_back(piece)  # read-ahead is what nobody has begun to read
                piece.users += 1
                ahead = self._ahead_from(piece.next)
        if piece is None:
            self._ranges.fetch(at, view[:count], self._stop)
            return count
        self._fetch_all(ahead)
        if mine:
            self._bring(piece, future)
        try:
            data = future.result()
            view[:count] = memoryview(data)[at - piece.start : at - piece.start + count]
        finally:
            self._done(piece, future, count)
        return count

    def _done(self, piece: _Piece, future: Future[bytearray], count: int) -> None:
        with self._lock:
            piece.users -= 1
            if piece.future is not future:
                return  # it was let go, and asked for again
            piece.left -= count
            piece.spent = piece.left <= 0
            if piece.spent or (future.done() and future.exception() is not None):
                self._let_go(piece)
            self._forget_old()

    def _ahead_from(self, piece: _Piece | None) -> list[_Piece]:
        """The next pieces from this one on that are to be asked for now, as many as there is room for."""
        pieces: list[_Piece] = []
        for _ in range(_THREADS):
            if piece is None or self._stop.is_set():
                break
            if piece.future is None and not piece.spent:
                if not _room.take(piece.size):
                    break
                piece.ahead = True
                piece.ask()
                self._held[piece.start] = piece
                pieces.append(piece)
            piece = piece.next
        return pieces

    def _forget_old(self) -> None:
        """Where reads leave gaps, pieces are never read to their end: those read last are kept."""
        idle = [p for p in self._held.values() if not p.ahead and not p.users]
        for piece in idle[: max(0, len(idle) - KEPT)]:
            self._let_go(piece)

    def _let_go(self, piece: _Piece) -> None:
        self._held.pop(piece.start, None)
        piece.future = None

    def _give_back(self, piece: _Piece) -> None:
        if piece.ahead:
            piece.ahead = False
            _room.give(piece.size)

    def _fetch_all(self, pieces: Sequence[_Piece]) -> None:
        for piece in pieces:
            if (future := piece.future) is not None:
                _fetchers().submit(self._bring, piece, future)

    def _bring(self, piece: _Piece, future: Future[bytearray]) -> None:
        """Fetch the piece; what goes wrong is raised where it is read."""
        try:
            self._check_open()
            data = bytearray(piece.size)
            self._ranges.fetch(piece.start, memoryview(data), self._stop)
        except BaseException as problem:
            future.set_exception(problem)
            if not isinstance(problem, Exception):
                raise
        else:
            future.set_result(data)

    def _find(self, at: int) -> _Piece | None:
        number = bisect_right(self._pieces, at, key=_start_of) - 1
        return self._pieces[number] if number >= 0 and at < self._pieces[number].stop else None

    @staticmethod
    def _overlaps(pieces: Sequence[_Piece], start: int, stop: int) -> bool:
        following = bisect_right(pieces, start, key=_start_of)
        return (following > 0 and pieces[following - 1].stop > start) or (
            following < len(pieces) and pieces[following].start < stop
        )


def _together(ranges: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """(number, start, stop) of ranges as groups that are fetched together: the least number, start, stop, and where the
    largest range begins. Cuts are counted from there, since it is read from there by equal steps.
    """
    groups: list[tuple[int, int, int, int]] = []
    largest = 0  # of the last group
    for number, start, stop in sorted(ranges, key=lambda entry: entry[1:]):
        size = stop - start
        if size <= 0:
            continue
        if groups:
            first, begin, end, anchor = groups[-1]
            near = start == end and (size <= _SMALL or end - begin <= _SMALL)
            if start < end or near:
                anchor, largest = (start, size) if size > largest else (anchor, largest)
                groups[-1] = (min(first, number), begin, max(stop, end), anchor)
                continue
        groups.append((number, start, stop, start))
        largest = size
    return groups


def _start_of(piece: _Piece) -> int:
    return piece.start


def _arrival(ranges: Ranges) -> RemoteFile:
    """The file that another process opened."""
    return open_once((type(ranges), ranges.name, ranges.state), lambda: RemoteFile(ranges))


def announce(ranges: Iterable[tuple[Source, int, int]]) -> None:
    """Say which ranges (source, offset, size) will be read, in this order; files on this machine need not know."""
    if not _files:
        return
    by_file: dict[int, tuple[RemoteFile, list[tuple[int, int]]]] = {}
    for source, offset, size in ranges:
        if isinstance(source, RemoteFile):
            by_file.setdefault(id(source), (source, []))[1].append((offset, size))
    for file, wanted in by_file.values():
        file.announce(wanted)
