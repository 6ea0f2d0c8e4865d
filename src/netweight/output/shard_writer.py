"""A model's files, written in any order: files are allocated and headers written first, then tensors by position."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from netweight.errors import JobError, OutputError, printable
from netweight.output.flusher import Flusher
from netweight.output.positioned import allocate, bring_to_disk, read_at, write_at
from netweight.output.shards import Shard

__all__ = ["FarShards", "ShardWriter"]

_MOST_OPEN = 64  # of its files at a time: systems allow 256 or 1024 in all, and inputs are open too
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class ShardWriter:
    """The files of `shards` in `folder`, open for writing until `finish` or the end of the `with` block.

    `keep` goes on with files that a stopped run left: those whose size and header fit are kept with what is in them
    (`kept` names them), the others are made anew, and safetensors files that are no part of `shards` are removed.
    `sync` brings everything to the disk, in the background while it is written; without it nothing is ever synced.

    Raises OutputError where there is no room for the files or they cannot be made: then none of the new ones is left.
    """

    _advice = "check the disk"

    def __init__(self, folder: Path, shards: Sequence[Shard], *, keep: bool, sync: bool) -> None:
        self._hold(folder, shards)
        self.kept = frozenset(shard.name for shard in self._shards if keep and _fits(folder / shard.name, shard))
        self._make(keep=keep)
        self._flusher = Flusher(self._sync_file) if sync else None

    def _hold(self, folder: Path, shards: Sequence[Shard]) -> None:
        self._folder = folder
        self._shards = tuple(shards)
        self._spans = {
            name: (number, shard.offsets[name], entry.nbytes)
            for number, shard in enumerate(self._shards)
            for name, entry in shard.entries.items()
        }
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}  # descriptors by the file's number, the one used last at the end
        self._users: Counter[int] = Counter()
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        """As a value: another process writes into the files, which are there."""
        return FarShards, (self._folder.absolute(), self._shards)

    def write(self, name: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` (contiguous) at byte `offset` of tensor `name`. Any thread may call it.

        Raises JobError where the disk refuses, ValueError where the bytes leave the tensor.
        """
        view = memoryview(data).cast("B")
        number, position = self._span(name, offset, len(view))
        with self._failures(number, "written"):
            if self._flusher is not None:
                self._flusher.check()
            with self._descriptor(number) as descriptor:
                write_at(descriptor, view, position)
        if self._flusher is not None:
            self._flusher.add(number, len(view))

    def read(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out` with what is in the file from byte `offset` of tensor `name`; raises as `write`."""
        view = out.cast("B")
        number, position = self._span(name, offset, len(view))
        with self._failures(number, "read"), self._descriptor(number) as descriptor:
            read_at(descriptor, view, position)

    def settle(self, name: str) -> None:
        """Nothing more needs to be done for tensor `name` here: `finish` brings all files to the disk."""

    def finish(self) -> None:
        """Bring all files to the disk (with `sync`) and close them; raises JobError where the disk refuses."""
        if self._flusher is not None:
            self._flusher.stop()
            for number in range(len(self._shards)):
                with self._failures(number, "brought to the disk"):
                    self._flusher.check()
                    with self._descriptor(number) as descriptor:
                        os.fsync(descriptor)
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flusher is not None:
            self._flusher.stop()
        self._close()

    def _make(self, *, keep: bool) -> None:
        new = [shard for shard in self._shards if shard.name not in self.kept]
        names = {shard.name for shard in self._shards}
        with ExitStack() as undo:
            try:
                stale = [self._folder / shard.name for shard in new]
                if keep:
                    stale += [p for p in self._folder.glob("*.safetensors") if p.name not in names]
                self._check_room(sum(shard.size for shard in new), sum(map(_occupied, stale)))
                for path in stale:
                    path.unlink(missing_ok=True)
                for shard in new:
                    path = self._folder / shard.name
                    descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
                    undo.callback(path.unlink, missing_ok=True)
                    try:
                        allocate(descriptor, shard.size)
                        write_at(descriptor, memoryview(shard.header), 0)
                    finally:
                        os.close(descriptor)
            except OSError as error:
                undo.close()
                raise OutputError(_unmade(self._folder, self._shards, error)) from error
            undo.pop_all()

    def _check_room(self, needed: int, freed: int) -> None:
        total, _, free = shutil.disk_usage(self._folder)
        if total and needed > free + freed:  # some network file systems do not know their size
            raise OutputError(
                f"{printable(str(self._folder), 300)}: not enough room: {_bytes(needed)} are needed, "
                f"{_bytes(free + freed)} are free; make room, or choose another output folder"
            )

    def _span(self, name: str, offset: int, size: int) -> tuple[int, int]:
        number, start, nbytes = self._spans[name]
        if offset < 0 or offset + size > nbytes:
            raise ValueError(f"{printable(name)}: bytes {offset} to {offset + size} of a tensor of {nbytes} bytes")
        return number, start + offset

    @contextmanager
    def _descriptor(self, number: int) -> Iterator[int]:
        """The open file; it stays open at least as long as the `with` block runs."""
        with self._lock:
            descriptor = self._opened(number)
            self._users[number] += 1
        try:
            yield descriptor
        finally:
            with self._lock:
                self._users[number] -= 1
                if self._closed:
                    self._close_idle()

    def _opened(self, number: int) -> int:
        if self._closed:
            raise ValueError(f"{self._shards[number].name}: the writer is closed")
        descriptor = self._open.pop(number, -1)
        if descriptor < 0:
            self._make_way()
            descriptor = os.open(self._folder / self._shards[number].name, _FLAGS)
        self._open[number] = descriptor
        return descriptor

    def _make_way(self) -> None:
        idle = [number for number in self._open if not self._users[number]]
        for number in idle[: max(0, len(self._open) + 1 - _MOST_OPEN)]:
            os.close(self._open.pop(number))

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._close_idle()

    def _close_idle(self) -> None:
        for number in [number for number in self._open if not self._users[number]]:
            os.close(self._open.pop(number))

    def _sync_file(self, number: int) -> None:
        with self._descriptor(number) as descriptor:
            bring_to_disk(descriptor)

    @contextmanager
    def _failures(self, number: int, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = printable(str(self._folder / self._shards[number].name), 300)
            todo = "make room" if error.errno in _NO_ROOM else self._advice
            raise JobError(
                f"{where}: cannot be {what}: {error.strerror or error}; {todo}, then run again with --resume"
            ) from error


class FarShards(ShardWriter):
    """The files of a ShardWriter, from another process or another node: they are written into, and never made.

    What is written counts once `settle` has returned: a node may be lost with all that it holds in memory.
    """

    _advice = f"every node must see the output folder under the same path, {socket.gethostname()} too"

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self._hold(folder, shards)
        self.kept = frozenset(shard.name for shard in self._shards)
        self._flusher = None

    def settle(self, name: str) -> None:
        """Bring what was written of tensor `name` to the storage; raises JobError where that refuses."""
        number = self._spans[name][0]
        with self._failures(number, "brought to the disk"), self._descriptor(number) as descriptor:
            bring_to_disk(descriptor)


_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def _fits(path: Path, shard: Shard) -> bool:
    """Whether a file of this shard, made to the end, stands at `path`."""
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_size != shard.size:
            return False
        with path.open("rb") as file:
            return file.read(len(shard.header)) == shard.header
    except OSError:
        return False


def _occupied(path: Path) -> int:
    """Bytes of the disk that deleting `path` gives back."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return 0
    return state.st_blocks * 512 if hasattr(state, "st_blocks") else state.st_size


def _unmade(folder: Path, shards: Sequence[Shard], error: OSError) -> str:
    where = printable(str(folder), 300)
    largest = _bytes(max(shard.size for shard in shards))
    todo = "choose another output folder"
    if error.errno == errno.EFBIG:
        todo = f"the largest file would have {largest}; give a smaller --max-shard-size, or {todo}"
    elif error.errno in _NO_ROOM:
        todo = f"{_bytes(sum(shard.size for shard in shards))} are needed; make room, or {todo}"
    return f"{where}: the model's files cannot be made: {error.strerror or error}; {todo}"


def _bytes(size: int) -> str:
    for step, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= step:
            return f"{size / step:.2f} {unit}"
    return f"{size} bytes"
