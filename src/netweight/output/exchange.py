"""Putting a finished folder in another's place, in one step where the system can."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

__all__ = ["is_mounted", "put_in_place", "swap", "sync_file", "sync_folder", "sync_tree"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, linux/fs.h
_RENAME_SWAP = 2  # macOS, sys/stdio.h
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM}  # EPERM: an older container filter


def swap(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the (file) system has no such step; raises OSError otherwise."""
    import ctypes  # noqa: PLC0415 - only when results are put in place

    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is None:
            return False
        code = rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin":
        code = ctypes.CDLL(None, use_errno=True).renamex_np(names[0], names[1], _RENAME_SWAP)
    else:
        return False
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(second))


def is_mounted(folder: Path) -> bool:
    """Whether `folder` is a mount of the very file system around it, which device numbers do not tell.

    Where it is, the system refuses to rename across it before it looks whether there is anything to rename.
    """
    name = f".netweight-{os.getpid()}-absent"
    try:
        (folder.parent / name).rename(folder / name)
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def put_in_place(new: Path, target: Path, aside: Path) -> None:
    """Make the folder `new` stand at `target`; what stood there is at `new` (or `aside`, where two steps were needed).

    Raises OSError where the folder cannot be renamed; `target` then is as it was.
    """
    if swap(new, target):
        return
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        if not target.exists():
            aside.rename(target)
        raise


def sync_tree(root: Path, *, files: bool = True) -> None:
    """Bring every file below `root` (unless not `files`), and every folder's list of names, to the disk."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names if files else ():
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(folder))


def sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk; Windows has no such call and needs none."""
    if sys.platform != "win32":
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
