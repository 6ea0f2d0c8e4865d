"""Ranges of a file that fsspec can reach: `s3://`, `gs://`, `memory://` and whatever has a driver."""

from __future__ import annotations

import threading
from typing import Any

from netweight.errors import ReadError, printable
from netweight.source.protocol import FileState
from netweight.source.retry import Passing, Patience, retry_passing

__all__ = ["FsspecRanges"]

_TAGS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created")


class FsspecRanges:
    """The file at `path` of the fsspec file system `system`; `name` is its URL.

    Raises FileNotFoundError where there is no file, ReadError where it cannot be looked at.
    """

    def __init__(self, system: Any, path: str, name: str) -> None:
        self._system = system
        self._path = path
        self._name = name
        self._state = self.now()
        self._arrived = False  # from another process, and not looked at here yet

    @property
    def name(self) -> str:
        """See Ranges."""
        return self._name

    @property
    def state(self) -> FileState:
        """See Ranges."""
        return self._state

    @property
    def head(self) -> bytes:
        """See Ranges."""
        return b""

    def __repr__(self) -> str:
        return f"FsspecRanges({self._name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrived": True}

    def fetch(self, start: int, view: memoryview, stop: threading.Event) -> None:
        """Fill `view` with the bytes from `start`; raises ReadError."""
        if self._arrived:
            self._recognise()
        patience = Patience(f"{printable(self._name)}: bytes {start} to {start + len(view)}", stop)
        while True:
            try:
                view[:] = self._cat(start, start + len(view))
            except Passing as failure:
                patience.wait(failure)
            else:
                return

    def _recognise(self) -> None:
        try:
            here = self.now()
        except FileNotFoundError:
            raise ReadError(f"{printable(self._name)}: is gone since it was opened, or not on this node") from None
        if here != self._state:
            raise ReadError(
                f"{printable(self._name)}: changed since it was opened (then {self._state.size} bytes, now"
                f" {here.size}); run again when nothing writes to it"
            )
        self._arrived = False

    def now(self) -> FileState:
        """Size and stamp, asked anew."""
        return retry_passing(printable(self._name), self._look)

    def _cat(self, start: int, stop: int) -> bytes:
        try:
            data: bytes = self._try(lambda: self._system.cat_file(self._path, start=start, end=stop))
        except FileNotFoundError:
            raise ReadError(f"{printable(self._name)}: is gone since it was opened") from None
        if len(data) == stop - start:
            return data
        raise Passing(f"the answer has {len(data)} of {stop - start} bytes")

    def _look(self) -> FileState:
        self._system.invalidate_cache(self._path)
        about = self._try(lambda: self._system.info(self._path))
        size = about.get("size")
        if about.get("type") == "directory":
            raise FileNotFoundError(self._path)
        if not isinstance(size, int):
            raise ReadError(f"{printable(self._name)}: its size is not known; download it, and name the file")
        return FileState(size, "-".join(str(about[key]) for key in _TAGS if about.get(key) is not None))

    def _try(self, call: Any) -> Any:
        try:
            return call()
        except FileNotFoundError:
            raise
        except PermissionError as problem:
            raise ReadError(f"{printable(self._name)}: access is refused: {printable(str(problem), 300)}") from None
        except (NotImplementedError, ValueError, TypeError, ImportError) as problem:
            raise ReadError(f"{printable(self._name)}: cannot be read: {printable(str(problem), 300)}") from None
        except Exception as problem:  # drivers have exceptions of their own
            raise Passing(f"reading failed ({type(problem).__name__}: {problem})") from None
