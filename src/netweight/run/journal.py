"""The journal of a long job: what is done, one checked line a record, so that a killed run can go on."""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from netweight.errors import JobError, OptionError
from netweight.output.exchange import sync_folder
from netweight.version import __version__

__all__ = ["Journal"]

_SCHEMA = 1
_SYNC_SECONDS = 5.0
_PREFIX = b'{"crc":"'
_BODY = len(_PREFIX) + 8 + len(b'",')


class Journal:
    """An append-only file of JSON lines, each with the CRC-32 of its own bytes; open until `close`.

    Floats come back exactly, NaN, infinities and -0.0 included; tuples come back as lists and keys of mappings as text,
    as JSON has it. A record is handed to the operating system before `append` returns, so it survives a kill of the
    process; it reaches the disk within some seconds, and at `close`.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = size
        self._lock = threading.Lock()
        self._synced = time.monotonic()
        self._named = False

    @classmethod
    def create(cls, path: Path, plan_digest: str) -> Self:
        """A new journal at `path`, in place of what stood there; raises JobError where it cannot be written."""
        try:
            descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
            )
        except OSError as error:
            raise _unwritable(path, error) from error
        journal = cls(path, descriptor, 0)
        journal._write(_line(_header(plan_digest)))
        return journal

    @classmethod
    def resume(cls, path: Path, plan_digest: str) -> tuple[Self, dict[str, dict[str, Any]]]:
        """The journal at `path` opened for more, and its records by key (the last one of a key counts).

        Everything from the first torn or damaged line on is dropped from the file. Without a whole first line the
        journal starts anew and there are no records. Raises OptionError where the journal belongs to another plan
        or version, JobError where the file cannot be read or written.
        """
        try:
            with path.open("rb") as file:
                first = _record(file.readline())
                if first is None:
                    return cls.create(path, plan_digest), {}
                if first != _header(plan_digest):
                    raise OptionError(_mismatch(path, first, plan_digest))
                records: dict[str, dict[str, Any]] = {}
                good = file.tell()
                while (record := _record(file.readline())) is not None and record.keys() == {"key", "value"}:
                    records[record["key"]] = record["value"]
                    good = file.tell()
            os.truncate(path, good)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return cls.create(path, plan_digest), {}
        except OSError as error:
            raise _unwritable(path, error) from error
        return cls(path, descriptor, good), records

    def append(self, key: str, value: dict[str, Any]) -> None:
        """Add one record; any thread may call it. Raises JobError where the disk is full, TypeError for no JSON."""
        self._write(_line({"key": key, "value": value}))

    def close(self) -> None:
        """Bring everything to the disk and close the file; closing twice is allowed."""
        with self._lock:
            if self._descriptor < 0:
                return
            descriptor, self._descriptor = self._descriptor, -1
            try:
                self._sync(descriptor)
            except OSError as error:
                raise _unwritable(self.path, error) from error
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        with self._lock:
            if self._descriptor < 0:
                raise ValueError(f"{self.path}: the journal is closed")
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                if time.monotonic() - self._synced >= _SYNC_SECONDS:
                    self._sync(self._descriptor)
                    self._synced = time.monotonic()
            except OSError as error:
                # A torn line in the middle would cost every record after it: the file ends at the last whole one.
                os.ftruncate(self._descriptor, self._size)
                raise _unwritable(self.path, error) from error
            self._size += len(line)

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        if not self._named:  # a file's bytes are found by its name, which is its folder's
            sync_folder(self.path.parent)
            self._named = True


def _header(plan_digest: str) -> dict[str, Any]:
    return {"netweight": __version__, "schema": _SCHEMA, "plan": plan_digest}


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode("ascii")[1:]
    return b'%s%08x",%s\n' % (_PREFIX, zlib.crc32(body), body)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record that a line holds, or None where the line is torn or damaged."""
    if not line.endswith(b"}\n") or not line.startswith(_PREFIX) or len(line) <= _BODY:
        return None
    body = line[_BODY:-1]
    if line[len(_PREFIX) : _BODY] != b'%08x",' % zlib.crc32(body):
        return None
    try:
        record = json.loads(b"{" + body)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _mismatch(path: Path, first: dict[str, Any], plan_digest: str) -> str:
    version = first.get("netweight")
    what = (
        "the inputs or the options changed since"
        if version == __version__ and first.get("schema") == _SCHEMA
        else f"it was written by netweight {version}, this is {__version__}"
    )
    got = str(first.get("plan"))
    return (
        f"{path}: cannot resume: {what} (plan {got[:12]} in the journal, {plan_digest[:12]} now); run without --resume"
    )


def _unwritable(path: Path, error: OSError) -> JobError:
    return JobError(
        f"{path}: the journal cannot be kept: {error.strerror or error}; free the disk or choose another output folder"
    )
