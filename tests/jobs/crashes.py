"""What a crash of the machine may leave of a folder: all that happens in it is recorded, and every prefix replayed.

    with recorded(root) as record:      # root as it stands is on the disk
        ...                             # the program's work, in this process, in any of its threads
    for state in record.states():       # every tree that a crash at any moment could leave, each once
        state.put(root)                 # makes the folder so

The model is POSIX, not one file system: `fsync` of a file brings its bytes to the disk and nothing else; that of a
folder its names. A change of names (a rename is one, of both of its folders) is there whole or not at all. Whatever
was not synced may be there or be lost, also a later one without an earlier one. Bytes that are lost leave the file as
it was synced last (empty, where it never was), or at its new length and time, with zeros for what is missing. Of the
pieces that were not synced at a moment these sets are tried: all kept, all lost, the names kept and all bytes lost,
each piece lost alone, each change of names kept alone.

Nothing is asked of the arguments of a call: before and after each one that may change the folder it is looked at, and
what differs is what was done, by C code too.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from unittest import mock

import pytest

__all__ = ["Record", "State", "Tree", "needs_folder_sync", "no_syncs", "recorded"]

needs_folder_sync = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sync of a folder")

_CHANGING = (
    *("rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "truncate"),
    *("ftruncate", "utime", "sendfile", "copy_file_range", "posix_fallocate"),
)
_BY_DESCRIPTOR = ("write", "pwrite")
_SYNCING = ("fsync", "fdatasync")
_open = io.open
_ROOT = 0

Tree = dict[str, bytes | None]
"""Bytes of every file by its POSIX path; None for a folder. A link is the bytes of where it leads, after `-> `."""


@dataclass(frozen=True)
class _Version:
    data: bytes
    mtime_ns: int


@dataclass
class _Look:
    """A folder at one moment: objects by number, so that a renamed file is the same one."""

    names: dict[tuple[int, str], int] = field(default_factory=dict)
    files: dict[int, _Version] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Event:
    call: str
    names: dict[tuple[int, str], int | None]
    files: dict[int, _Version]
    folders: frozenset[int]
    synced: int | None


@dataclass(frozen=True)
class State:
    """What a crash has left: `tree`, and when it came and what it cost in `after`."""

    tree: Tree
    times: dict[str, int]
    after: str

    def below(self, folder: str) -> Tree | None:
        """The tree of one folder, or None where it is not there."""
        if self.tree.get(folder, b"") is not None:
            return None
        return {
            name.removeprefix(f"{folder}/"): data for name, data in self.tree.items() if name.startswith(folder + "/")
        }

    def put(self, root: Path) -> None:
        """Make `root` this state."""
        shutil.rmtree(root)
        root.mkdir()
        for name, data in sorted(self.tree.items()):
            path = root / name
            if data is None:
                path.mkdir()
            elif data.startswith(b"-> "):
                path.symlink_to(os.fsdecode(data[3:]))
            else:
                path.write_bytes(data)
                os.utime(path, ns=(self.times[name], self.times[name]))


class Record:
    """All that happened below `root`, in order."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers: dict[tuple[int, int], int] = {}
        self._count = _ROOT
        self._lock = threading.RLock()
        self._first = self._last = self._look()
        self._events: list[_Event] = []

    def states(self) -> Iterator[State]:
        """Every state that a crash may have left, each once."""
        seen = set()
        for replay, when in self._prefixes():
            for tree, times, cost in replay.crashes():
                key = frozenset((name, data, times.get(name)) for name, data in tree.items())
                if key not in seen:
                    seen.add(key)
                    yield State(tree, times, f"{when}, {cost}")

    def least(self) -> Tree:
        """What is on the disk now whatever happens: the state in which all that was not synced is lost."""
        *_, (replay, _) = self._prefixes()
        return next(tree for tree, _, cost in replay.crashes() if cost.startswith("all lost"))

    def calls(self) -> list[str]:
        """The names of the calls that changed something or synced it."""
        return [event.call for event in self._events]

    def _prefixes(self) -> Iterator[tuple[_Replay, str]]:
        replay = _Replay(self._first)
        yield replay, "before the first call"
        for number, event in enumerate(self._events):
            replay.follow(event)
            yield replay, f"after call {number}, {event.call}"

    def observe(self, call: str, synced: int | None = None) -> None:
        """Note what differs from the last look, as done by `call`."""
        look, last = self._look(), self._last
        names: dict[tuple[int, str], int | None] = {k: v for k, v in look.names.items() if last.names.get(k) != v}
        # the names of a folder that is gone went with it
        gone = {k for k in last.names if k not in look.names}
        names |= dict.fromkeys(gone)
        files = {n: version for n, version in look.files.items() if last.files.get(n) != version}
        if names or files or synced is not None:
            self._events.append(_Event(call, names, files, frozenset(look.folders - last.folders), synced))
        self._last = look

    def number(self, descriptor: int) -> int | None:
        """The open object below the root, if it is one."""
        try:
            state = os.fstat(descriptor)
        except OSError:
            return None
        return self._numbers.get((state.st_dev, state.st_ino))

    def _look(self) -> _Look:
        look = _Look(folders={_ROOT})
        seen = {self._key(os.stat(self._root)): _ROOT}  # noqa: PTH116 - as the calls see it
        pending = [(_ROOT, str(self._root))]
        while pending:
            folder, path = pending.pop()
            for entry in os.scandir(path):
                state = entry.stat(follow_symlinks=False)
                key = self._key(state)
                number = seen.get(key)
                if number is None:
                    number = self._numbers.get(key, _ROOT) or self._new()
                    seen[key] = number
                    if entry.is_symlink():
                        look.files[number] = _Version(b"-> " + os.fsencode(os.readlink(entry.path)), 0)  # noqa: PTH115
                    elif entry.is_dir():
                        look.folders.add(number)
                        pending.append((number, entry.path))
                    else:
                        with _open(entry.path, "rb") as file:
                            look.files[number] = _Version(file.read(), state.st_mtime_ns)
                look.names[folder, entry.name] = number
        self._numbers = seen  # an inode that is gone may come again as another file
        return look

    def _new(self) -> int:
        self._count += 1
        return self._count

    @staticmethod
    def _key(state: os.stat_result) -> tuple[int, int]:
        return state.st_dev, state.st_ino


class _Replay:
    """The disk after a prefix of the record."""

    def __init__(self, first: _Look) -> None:
        self._names = dict(first.names)
        self._folders = set(first.folders)
        self._synced = dict(first.files)
        self._now = dict(first.files)
        self._changes: list[tuple[str, dict[tuple[int, str], int | None], bool]] = []

    def follow(self, event: _Event) -> None:
        self._now |= event.files
        self._folders |= event.folders
        if event.names:
            self._changes.append((event.call, event.names, False))
        number = event.synced
        if number is None:
            return
        if number in self._folders:
            self._changes = [
                (call, names, kept or any(folder == number for folder, _ in names))
                for call, names, kept in self._changes
            ]
            while self._changes and self._changes[0][2]:
                self._apply(self._names, self._changes.pop(0)[1])
        elif number in self._now:
            self._synced[number] = self._now[number]

    def crashes(self) -> Iterator[tuple[Tree, dict[str, int], str]]:
        loose = [i for i, (_, _, kept) in enumerate(self._changes) if not kept]
        dirty = [n for n, version in self._now.items() if self._synced.get(n) != version]
        every = frozenset(loose)
        yield *self._tree(every, {}), "nothing lost"
        for zeros in (False, True):
            left = {n: self._after_loss(n, zeros=zeros) for n in dirty}
            how = "zeros for lost bytes" if zeros else "files as they were"
            yield *self._tree(frozenset(), left), f"all lost, {how}"
            yield *self._tree(every, left), f"all bytes lost, {how}"
            for n in dirty:
                yield *self._tree(every, {n: left[n]}), f"the bytes of one file lost, {how}"
            for i in loose:
                yield *self._tree(frozenset({i}), left), f"all lost but the {self._changes[i][0]}, {how}"
        for i in loose:
            yield *self._tree(every - {i}, {}), f"the {self._changes[i][0]} lost"

    def _tree(self, kept: frozenset[int], left: dict[int, _Version]) -> tuple[Tree, dict[str, int]]:
        names = dict(self._names)
        for i, (_, change, synced) in enumerate(self._changes):
            if synced or i in kept:
                self._apply(names, change)
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), number in names.items():
            inside.setdefault(folder, []).append((name, number))
        tree: Tree = {}
        times: dict[str, int] = {}
        pending = [(_ROOT, "", frozenset({_ROOT}))]
        while pending:
            folder, prefix, above = pending.pop()
            for name, number in inside.get(folder, ()):
                path = prefix + name
                if number in self._folders:
                    tree[path] = None
                    if number not in above:
                        pending.append((number, f"{path}/", above | {number}))
                else:
                    version = left.get(number) or self._now[number]
                    tree[path], times[path] = version.data, version.mtime_ns
        return tree, times

    def _after_loss(self, number: int, *, zeros: bool) -> _Version:
        now, synced = self._now[number], self._synced.get(number, _Version(b"", self._now[number].mtime_ns))
        if now.data.startswith(b"-> "):  # a link's text is with its name
            return now
        if not zeros:
            return synced
        size = len(now.data)
        return _Version(synced.data[:size].ljust(size, b"\0"), now.mtime_ns)

    @staticmethod
    def _apply(names: dict[tuple[int, str], int], change: dict[tuple[int, str], int | None]) -> None:
        for place, number in change.items():
            if number is None:
                names.pop(place, None)
            else:
                names[place] = number


@contextmanager
def recorded(root: Path) -> Iterator[Record]:
    """Record what happens below `root` for as long as the block runs."""
    record = Record(root)
    wrapped = dict.fromkeys(_CHANGING, _watched) | dict.fromkeys(_BY_DESCRIPTOR, _written)
    wrapped |= dict.fromkeys(_SYNCING, _synced)
    calls = {name: wrap(record, getattr(os, name)) for name, wrap in wrapped.items() if hasattr(os, name)}
    with (
        mock.patch.multiple(os, open=_watched(record, os.open, _opens_for_more), **calls),
        mock.patch.object(io, "open", _watched(record, io.open, _opens_to_write)),
        mock.patch.object(builtins, "open", _watched(record, builtins.open, _opens_to_write)),
        mock.patch("netweight.output.exchange.swap", _watched(record, _swap())),
    ):
        yield record
    with record._lock:
        record.observe("the end")


@contextmanager
def no_syncs() -> Iterator[None]:
    """Nothing waits for the disk: for what is done after a crash, many times."""
    with mock.patch.multiple(os, **{name: lambda descriptor: None for name in _SYNCING if hasattr(os, name)}):
        yield


def _swap() -> Callable[..., bool]:
    from netweight.output.exchange import swap

    return swap


def _watched(record: Record, real: Callable, applies: Callable[..., bool] = lambda *_, **__: True) -> Callable:
    @wraps(real)
    def call(*args, **settings):
        if not applies(*args, **settings):
            return real(*args, **settings)
        with record._lock:
            record.observe("writes before")
            try:
                return real(*args, **settings)
            finally:
                record.observe(f"{real.__name__} {' '.join(_shown(a) for a in args[:2])}")

    return call


def _written(record: Record, real: Callable) -> Callable:
    @wraps(real)
    def call(descriptor, *args, **settings):
        with record._lock:
            if record.number(descriptor) is not None:
                try:
                    return real(descriptor, *args, **settings)
                finally:
                    record.observe(real.__name__)
        return real(descriptor, *args, **settings)

    return call


def _synced(record: Record, real: Callable) -> Callable:
    @wraps(real)
    def call(descriptor):
        with record._lock:
            record.observe("writes before")
            # The disk itself is not waited for: nothing here crashes.
            number = record.number(descriptor if isinstance(descriptor, int) else descriptor.fileno())
            if number is None:
                return real(descriptor)
            record.observe(real.__name__, number)
            return None

    return call


def _opens_for_more(path, flags=0, *_, **__) -> bool:
    return bool(flags & (os.O_CREAT | os.O_TRUNC))


def _opens_to_write(file, mode="r", *_, **__) -> bool:
    return not isinstance(file, int) and any(letter in mode for letter in "wax")


def _shown(argument: object) -> str:
    if isinstance(argument, str | os.PathLike):
        return os.path.join(*Path(argument).parts[-2:])  # noqa: PTH118 - a name for a message
    return str(argument)[:12]
