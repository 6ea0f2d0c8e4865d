"""Foreign files in a results folder: listed, carried into the new folder, and never lost on the way."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from netweight.output.exchange import sync_file

__all__ = ["FolderEntries", "NoSwapError", "carry", "leaves", "obstacles", "remove_tree", "settle", "survey"]

_MOST_FOREIGN = 20_000


class NoSwapError(Exception):
    """The folder cannot be exchanged as a whole, and why; caught by the folder that tried, never seen by a user."""


@dataclass
class FolderEntries:
    """The entries of a folder by POSIX path: every leaf with its state, the foreign ones, folders without any entry."""

    states: dict[str, os.stat_result] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    hollow: list[str] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)


def leaves(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below `root` that is not a folder with entries (links are not followed), with its POSIX path."""
    pending = [("", root)]
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.is_dir(follow_symlinks=False) and any(Path(entry.path).iterdir()):
                    pending.append((f"{prefix}{entry.name}/", Path(entry.path)))
                else:
                    yield prefix + entry.name, entry


def survey(target: Path, own: Collection[str], new: Collection[str]) -> FolderEntries:
    """The entries of `target`. Those not in `own`, and not to be replaced by one of `new`, are foreign.

    Raises NoSwapError where another file system is mounted inside, a folder cannot be read, or the foreign entries
    are too many to carry.
    """
    result = FolderEntries()
    device = target.stat().st_dev
    for name, entry in _readable(target):
        state = entry.stat(follow_symlinks=False)
        if state.st_dev != device or (entry.is_dir(follow_symlinks=False) and os.path.ismount(entry.path)):
            raise NoSwapError(f"another file system is mounted at {entry.path}")
        if entry.is_dir(follow_symlinks=False):
            result.hollow.append(name)
            continue
        result.states[name] = state
        if name not in own and name not in new:
            result.foreign.append(name)
            if len(result.foreign) > _MOST_FOREIGN:
                raise NoSwapError(f"it holds more than {_MOST_FOREIGN} files that are not netweight's")
    return result


def obstacles(target: Path, own: Collection[str], listed: Collection[str], new: Collection[str]) -> list[str]:
    """The paths below `target` of what stands where the files `new` must go: a file that is not `listed` as
    netweight's, and a folder in the way of a file, or a file in that of a folder, unless all of it is `own`.
    """
    found = []
    for name in sorted(new):
        path, parts = target / name, name.split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        above = next((folder for folder in folders if _is_no_folder(target / folder)), None)
        if above is not None:
            found += [above] if above not in own else []
        elif path.is_dir() and not path.is_symlink():
            if any(f"{name}/{inner}" not in own for inner, _ in leaves(path)):
                found.append(name)
        elif os.path.lexists(path) and name not in listed:
            found.append(name)
    return list(dict.fromkeys(found))


def _is_no_folder(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and not path.is_dir())


def carry(target: Path, stage: Path, entries: FolderEntries, *, sync: bool = True) -> None:
    """Give every foreign entry of `target` a place in `stage`: a hard link, or a copy where links are not possible.

    Raises NoSwapError for an entry that can neither be linked nor copied, OSError where the disk is full.
    """
    for name in entries.hollow:
        if not (stage / name).exists():
            (stage / name).mkdir(parents=True)
    for name in entries.foreign:
        old, new = target / name, stage / name
        new.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(entries.states[name].st_mode):
            new.symlink_to(old.readlink(), target_is_directory=old.is_dir())
            continue
        try:
            os.link(old, new)
        except FileExistsError:
            continue  # a file system that ignores case: the new result has this name
        except OSError as error:
            if not stat.S_ISREG(entries.states[name].st_mode):
                raise NoSwapError(f"{old} cannot be linked ({error.strerror})") from error
            try:
                shutil.copy2(old, new)
            except PermissionError as denied:
                raise NoSwapError(f"{old} cannot be read") from denied
            if sync:
                sync_file(new)
            entries.copied.add(name)
    _copy_modes(target, stage)


def settle(old: Path, target: Path, entries: FolderEntries, new: Collection[str]) -> None:
    """Delete the replaced folder `old`, now that `target` stands; what came into it since the survey moves to `target`.

    Raises OSError where something cannot be deleted.
    """
    for name, entry in list(leaves(old)):
        if entry.is_dir(follow_symlinks=False):
            continue
        if name not in new and not _as_surveyed(name, entry.stat(follow_symlinks=False), entries):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            Path(entry.path).replace(target / name)
    remove_tree(old)


def remove_tree(root: Path) -> None:
    """Delete a folder and all in it, read-only folders too; links are not followed. An absent one is no error."""
    if not root.is_dir() or root.is_symlink():
        return
    for folder, _, _ in os.walk(root):
        if not os.access(folder, os.W_OK | os.X_OK):
            Path(folder).chmod(0o700)
    shutil.rmtree(root)


def _readable(target: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        yield from leaves(target)
    except PermissionError as error:
        raise NoSwapError(f"{error.filename} cannot be read") from error


def _as_surveyed(name: str, now: os.stat_result, entries: FolderEntries) -> bool:
    then = entries.states.get(name)
    if then is None or (then.st_ino, then.st_dev) != (now.st_ino, now.st_dev):
        return False
    # A link shares what was written since; a copy does not.
    return name not in entries.copied or (then.st_mtime_ns, then.st_size) == (now.st_mtime_ns, now.st_size)


def _copy_modes(target: Path, stage: Path) -> None:
    """Folders that were there before keep their permissions and times."""
    for folder, _, _ in os.walk(stage, topdown=False):
        before = target / Path(folder).relative_to(stage)
        if before.is_dir() and not before.is_symlink():
            shutil.copystat(before, folder)
    os.utime(stage)
