"""Files on this machine, read by position: `pread` where there is one, a handle per thread elsewhere. Never mmap."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
import threading
from collections.abc import Callable, Hashable
from io import FileIO
from typing import Any

from netweight.errors import FormatError, ModelNotFoundError, ReadError, printable
from netweight.source.arrivals import open_once
from netweight.source.handles import HandlePool
from netweight.source.protocol import FileState, Source

__all__ = ["HandlePerThreadFile", "PreadFile", "open_local"]

MAX_OPEN_FILES = 64  # well under macOS's limit of 256 a process, and enough for every worker to have its own
_KINDS = [
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
]
_tokens = itertools.count()  # an id() may come back for another file, a token never does
_descriptors: HandlePool[int] = HandlePool(MAX_OPEN_FILES)
_handles: HandlePool[FileIO] = HandlePool(MAX_OPEN_FILES)


def open_local(path: str | os.PathLike[str]) -> Source:
    """The file at `path` as a Source; it is opened on the first read.

    Raises ModelNotFoundError where there is none or it may not be read, FormatError where it is no regular file.
    """
    return PreadFile(path) if hasattr(os, "pread") else HandlePerThreadFile(path)


def _state_of(status: os.stat_result, name: str) -> FileState:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for test, word in _KINDS if test(status.st_mode)), "a special file")
        raise FormatError(f"{printable(name)}: is {kind}, expected a regular file; name a model file")
    return FileState(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


class _LocalFile:
    """What both kinds share: the name, the state when opened, and the messages."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = self._location = os.fspath(path)
        try:
            self._state = _state_of(os.stat(self._path), self._path)  # noqa: PTH116 - the path is a plain string
        except (OSError, ValueError) as problem:
            raise ModelNotFoundError(f"{printable(self._path)}: {_why(problem)}") from None
        if not os.access(self._path, os.R_OK):
            raise ModelNotFoundError(f"{printable(self._path)}: cannot be opened: {os.strerror(errno.EACCES)}")
        self._begin()

    def _begin(self, *, arrived: bool = False) -> None:
        self._token = next(_tokens)
        self._closed = False
        self._arrived = arrived  # from another process, and not opened here yet

    def __reduce__(self) -> tuple[Any, ...]:
        """As a value: another process opens the file where it first reads it."""
        return _arrival, (os.path.abspath(self._location), self._path, self._state)  # noqa: PTH100 - links stay as they are named

    @property
    def name(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        return self._state.size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def check_unchanged(self) -> None:
        """Raises ReadError where the path no longer leads to the file that was opened, or its size or time changed."""
        try:
            now = os.stat(self._location)  # noqa: PTH116
        except OSError as problem:
            raise ReadError(f"{printable(self._path)}: is gone since it was opened: {_why(problem)}") from None
        self._compare(now)

    def _compare(self, now: os.stat_result) -> None:
        if self._arrived:
            self._recognise(now)
        if not stat.S_ISREG(now.st_mode) or _state_of(now, self._path) != self._state:
            raise ReadError(
                f"{printable(self._path)}: changed since it was opened "
                f"(then {self._state.size} bytes, now {now.st_size}); run again when nothing writes to it"
            )

    def _recognise(self, now: os.stat_result) -> None:
        """Take the file for the one that was opened elsewhere: inodes differ by mount, size and time do not."""
        here = _state_of(now, self._path) if stat.S_ISREG(now.st_mode) else FileState(now.st_size, "-")
        if (here.size, _time_of(here)) != (self._state.size, _time_of(self._state)):
            raise ReadError(
                f"{printable(self._path)}: changed since it was opened, or is another file on {socket.gethostname()} "
                f"(then {self._state.size} bytes, now {now.st_size}); every node must see the same file"
            )
        self._state = here
        self._arrived = False

    def _open(self) -> int:
        if self._closed:
            raise ReadError(f"{printable(self._path)}: is closed; open the checkpoint again")
        # Not blocking, so that a pipe put in the file's place cannot hang the run.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._location, flags)
        except OSError as problem:
            where = f" on {socket.gethostname()}: {_why(problem)}; every node must see the inputs under the same path"
            raise ReadError(
                f"{printable(self._path)}: cannot be opened{where if self._arrived else f': {_why(problem)}'}"
            ) from None
        try:
            self._compare(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_range(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self.size:
            raise self._ended(offset, size, 0 if offset < 0 else max(0, self.size - offset))

    def _ended(self, offset: int, wanted: int, got: int) -> ReadError:
        return ReadError(
            f"{printable(self._path)}: bytes {offset} to {offset + wanted} wanted, only {got} of {wanted} are there; "
            "the file is cut short"
        )

    def _failed(self, offset: int, problem: OSError) -> ReadError:
        return ReadError(f"{printable(self._path)}: reading at byte {offset} failed: {_why(problem)}")


def _why(problem: OSError | ValueError) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)


def _time_of(state: FileState) -> str:
    return state.stamp.rpartition("-")[0]


def _arrival(location: str, path: str, state: FileState) -> Source:
    """The file that another process opened as `path`, by its absolute path; nothing is read or checked before the
    first read.
    """
    kind: type[PreadFile | HandlePerThreadFile] = PreadFile if hasattr(os, "pread") else HandlePerThreadFile

    def make() -> Source:
        made = kind.__new__(kind)
        made._path, made._location, made._state = path, location, state  # noqa: SLF001 - its own, as __init__ sets them
        made._begin(arrived=True)  # noqa: SLF001
        return made

    return open_once((location, path, state), make)


class PreadFile(_LocalFile):
    """A file read by `pread` straight into the caller's buffer, from any thread, one descriptor for all."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset`; raises ReadError where the file ends before, or cannot be read."""
        view = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        size = len(view)
        self._check_range(offset, size)
        done = 0
        with _descriptors.use(self._token, self._open, os.close) as descriptor:
            while done < size:
                try:
                    got = _pread_into(descriptor, view[done:], offset + done)
                except OSError as problem:
                    raise self._failed(offset + done, problem) from None
                if not got:
                    self._compare(os.fstat(descriptor))  # cut short since it was opened: that is what to say
                    raise self._ended(offset, size, done)
                done += got

    def prefetch(self, offset: int, size: int) -> None:
        """Ask the kernel to read these bytes ahead, where it takes such hints; returns at once."""
        if hasattr(os, "posix_fadvise"):
            with _descriptors.use(self._token, self._open, os.close) as descriptor:
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the descriptor; reading afterwards raises ReadError."""
        self._closed = True
        _descriptors.retire(_is(self._token))

    def __del__(self) -> None:
        if hasattr(self, "_token"):
            _descriptors.abandon(_is(self._token))


def _is(token: int) -> Callable[[Hashable], bool]:
    return lambda key: key == token or (isinstance(key, tuple) and key[0] == token)


def _pread_into(descriptor: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    data = os.pread(descriptor, len(view), offset)
    view[: len(data)] = data
    return len(data)


class HandlePerThreadFile(_LocalFile):
    """A file read by seek and read, each thread with its own handle: for systems without `pread` (Windows)."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset`; raises ReadError where the file ends before, or cannot be read."""
        view = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        size = len(view)
        self._check_range(offset, size)
        done = 0
        key = (self._token, threading.get_ident())
        with _handles.use(key, lambda: FileIO(self._open(), "rb"), FileIO.close) as handle:
            try:
                handle.seek(offset)
                while done < size:
                    got = handle.readinto(view[done:])
                    if not got:
                        self._compare(os.fstat(handle.fileno()))
                        raise self._ended(offset, size, done)
                    done += got
            except OSError as problem:
                raise self._failed(offset + done, problem) from None

    def prefetch(self, offset: int, size: int) -> None:
        """No such hint here: the system's own read-ahead has to do."""

    def close(self) -> None:
        """Close every thread's handle; reading afterwards raises ReadError."""
        self._closed = True
        _handles.retire(_is(self._token))

    def __del__(self) -> None:
        if hasattr(self, "_token"):
            _handles.abandon(_is(self._token))
