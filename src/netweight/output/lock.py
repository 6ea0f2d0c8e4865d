"""A lock file that the operating system releases when its holder dies."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from netweight.errors import BusyError

__all__ = ["lock", "unlock"]

_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def lock(path: Path, shown: str) -> tuple[int, bool]:
    """Create `path` and hold it exclusively: its descriptor, and whether the file system has locks at all.

    `shown` is the path that the lock stands for, as messages name it.

    Raises BusyError where another process (or another caller in this one) holds it, FileNotFoundError where the folder
    of `path` is not there (any more), OSError where the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _try(descriptor, path, shown)
            # The holder before us may have removed the name on leaving: then this lock is on a file that nobody sees.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def unlock(path: Path, descriptor: int) -> None:
    """Remove `path` and release the lock, also where removing raises OSError."""
    if sys.platform == "win32":
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _try(descriptor: int, path: Path, shown: str) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - only there

            # Far beyond the text: a locked byte cannot be read by the others, and they want to read the pid.
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        if error.errno not in _BUSY:
            raise
        holder = path.read_text(encoding="ascii", errors="replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another run"
        raise BusyError(
            f"{shown}: {who} is writing results there; wait for it to end, or choose another output folder"
        ) from error
    return True
