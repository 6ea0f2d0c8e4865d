"""A file's bytes by position: allocated at once, then written and read anywhere by any thread."""

from __future__ import annotations

import errno
import os
import sys
import threading

__all__ = ["allocate", "bring_to_disk", "read_at", "write_at"]

_MOST = 1 << 30  # bytes a call: Linux takes 2 GiB - 4 KiB at a time, macOS less than 2 GiB
_NO_ROOM_AHEAD = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_seeking = threading.Lock()  # where there is no pwrite, a seek and its write must not be parted


def allocate(descriptor: int, size: int) -> None:
    """Make the open file `size` bytes long, with room on the disk for all of them where the file system can promise it.

    Raises OSError: ENOSPC or EDQUOT where there is no room, EFBIG where the file system has no files of that size.
    """
    if sys.platform == "linux" and size and _fallocate(descriptor, size):
        return
    os.ftruncate(descriptor, size)


def _fallocate(descriptor: int, size: int) -> bool:
    """The system call itself: the C library's posix_fallocate writes a byte to every block where there is no such
    call, which takes minutes over a network.
    """
    import ctypes  # noqa: PLC0415 - only when large files are made

    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is None:
        return False
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while call(descriptor, 0, 0, size):
        number = ctypes.get_errno()
        if number in _NO_ROOM_AHEAD:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` (bytes) at `offset`; raises OSError."""
    while data:
        done = _pwrite(descriptor, data[:_MOST], offset)
        if not done:
            raise OSError(errno.EIO, "nothing more was written")
        data = data[done:]
        offset += done


def read_at(descriptor: int, out: memoryview, offset: int) -> None:
    """Fill `out` (bytes) from `offset`; raises OSError, also where the file ends before."""
    while out:
        done = _pread(descriptor, out[:_MOST], offset)
        if not done:
            raise OSError(errno.EIO, f"the file ends at byte {offset}")
        out = out[done:]
        offset += done


def bring_to_disk(descriptor: int) -> None:
    """Wait until the bytes written so far are on the disk; raises OSError. Other threads may go on writing."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def _pread(descriptor: int, out: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    if hasattr(os, "pread"):
        data = os.pread(descriptor, len(out), offset)
    else:
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(out))
    out[: len(data)] = data
    return len(data)
