"""The bytes of a download: files in pieces, several in flight, taken up where an earlier run stopped, verified.

`hf_hub_download` into a folder would do less: it checks sizes alone and no digests, has one connection a file, loses up
to 10 MB at each break, and puts a config in place before the weights are there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import JobError, ReadError, printable
from netweight.jobs.download.hub import HubFile, HubModel, hub_error, request_file, request_headers
from netweight.jobs.download.progress import DownloadProgress, Waiting
from netweight.output.exchange import sync_file
from netweight.output.positioned import allocate, write_at
from netweight.run.interrupts import held_back
from netweight.source.digest import digest_of_file
from netweight.source.http_ranges import passing
from netweight.source.least_rate import arriving
from netweight.source.retry import Passing, Patience

if TYPE_CHECKING:
    from netweight.run.journal import Journal

__all__ = ["PIECE", "fetch_all", "is_right"]

PIECE = 1 << 26  # bytes that one request asks for at most
_PROGRESS = 1 << 16  # bytes after which an attempt counts as one that went well; more than the least rate brings
_RECORD = 1 << 20  # bytes between two lines of the journal
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _NoRangesError(Exception):
    """The server sends whole files only; caught where the file is then fetched as one."""


class _StoppedError(Exception):
    """Another piece has failed, or the user has stopped the run; that is what is reported."""


@dataclass
class _File:
    """A file under way: `done` has, by the start of each piece, how many bytes of it are there."""

    remote: HubFile
    path: Path
    content: str  # which bytes these are: the digest, or the commit where the hub tells none
    done: dict[int, int]
    verified: bool = False
    left: int = 0
    whole: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.remote.name

    @property
    def came(self) -> int:
        return self.remote.size if self.verified else sum(self.done.values())

    def key(self, part: object) -> str:
        """The journal's key of a piece, or of the verdict: other content of that name has other keys."""
        return f"{self.content}:{part}:{self.name}"


def fetch_all(
    model: HubModel,
    files: Sequence[HubFile],
    stage: Path,
    journal: Journal,
    records: dict[str, dict[str, Any]],
    progress: DownloadProgress,
    workers: int,
) -> None:
    """Bring `files` of `model` into the folder `stage`, whole and verified; `workers` requests are in flight.

    `records` is what the journal of an earlier run has. Raises ReadError where bytes cannot be had, or are not what the
    hub lists; OSError where the disk refuses. What has come stays, for the next run.
    """
    under_way = [_begin(file, stage / file.name, file.digest or model.commit, records) for file in files]
    progress.start([Waiting(f.name, f.remote.size, f.came) for f in under_way])
    transfer = _Transfer(model, journal, progress)
    # The small ones first: a refusal shows at once, and an index is there to look at.
    under_way.sort(key=lambda f: (f.remote.size > PIECE, f.name))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="netweight-fetch")
    tasks: list[Future[None]] = []
    try:
        for file in under_way:
            starts = [] if file.verified else [*range(0, file.remote.size, PIECE)] or [0]
            file.left = len(starts)
            if not starts:
                progress.finish(file.name)
            with held_back():
                tasks += [pool.submit(transfer.piece, file, start) for start in starts]
        pending: set[Future[None]] = set(tasks)
        while pending:  # by halves of a second, so that Ctrl-C is heard
            with held_back():
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for task in done:
                task.result()
    except _StoppedError:
        raise _first(tasks) from None
    finally:
        transfer.stop.set()
        pool.shutdown(cancel_futures=True)
        progress.stop()


def _first(tasks: Sequence[Future[None]]) -> BaseException:
    """The failure that stopped the others."""
    wait(tasks)
    errors = [error for task in tasks if task.done() and not task.cancelled() and (error := task.exception())]
    return next((e for e in errors if not isinstance(e, _StoppedError)), errors[0])


def _begin(file: HubFile, path: Path, content: str, records: dict[str, dict[str, Any]]) -> _File:
    """A file as an earlier run left it; bytes without records are another file's, and are thrown away."""
    under_way = _File(file, path, content, {})
    size = path.stat().st_size if path.is_file() and not path.is_symlink() else -1
    if size == file.size:
        verdict = records.get(under_way.key("verified"), {})
        under_way.verified = bool(verdict) and verdict.get("mtime_ns") == path.stat().st_mtime_ns
        for start in range(0, file.size, PIECE):
            came = records.get(under_way.key(start), {}).get("bytes", 0)
            if isinstance(came, int) and 0 < came <= min(PIECE, file.size - start):
                under_way.done[start] = came
    if not under_way.done and not under_way.verified:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link to what stands elsewhere
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            allocate(descriptor, file.size)
        finally:
            os.close(descriptor)
    return under_way


class _Transfer:
    """What all pieces of one run share."""

    def __init__(self, model: HubModel, journal: Journal, progress: DownloadProgress) -> None:
        self.stop = threading.Event()
        self._model = model
        self._journal = journal
        self._progress = progress
        self._headers = request_headers()
        self._showing = threading.Lock()

    def piece(self, file: _File, start: int) -> None:
        """Fetch one piece; the last one of its file verifies the whole."""
        try:
            self._go_on()
            if not file.whole:
                try:
                    self._fetch(file, start, min(start + PIECE, file.remote.size))
                except _NoRangesError:
                    file.whole = True
            with file.lock:
                file.left -= 1
                last = not file.left
            if last:
                if file.whole:
                    self._forget(file)
                    self._fetch_whole(file)
                self._finish(file)
        except BaseException:
            self.stop.set()
            raise

    def _finish(self, file: _File) -> None:
        wrong = self._wrong(file)
        if wrong:
            # Damage on the way, or bytes that a power cut kept from the disk: once more, and then it is the hub's.
            self._note(f"{file.name}: {wrong}; it is fetched again")
            self._forget(file)
            try:
                for start in range(0, file.remote.size, PIECE):
                    self._fetch(file, start, min(start + PIECE, file.remote.size))
            except _NoRangesError:
                self._forget(file)
                self._fetch_whole(file)
            wrong = self._wrong(file)
        if wrong:
            self._forget(file)
            raise ReadError(
                f"{self._shown(file)}: {wrong}, also when fetched again; the hub or a mirror of it sends damaged bytes:"
                " check HF_ENDPOINT, or try again later"
            )
        sync_file(file.path)  # the journal's word must not outlive the bytes
        self._journal.append(file.key("verified"), {"mtime_ns": file.path.stat().st_mtime_ns})
        with self._showing:
            self._progress.finish(file.name)

    def _wrong(self, file: _File) -> str:
        size = file.path.stat().st_size
        if size != file.remote.size:
            return f"{size} bytes, expected {file.remote.size}"
        kind = file.remote.algorithm
        got = digest_of_file(file.path, kind) if kind else ""
        return "" if got == file.remote.digest or not kind else f"{kind} is {got}, expected {file.remote.digest}"

    def _forget(self, file: _File) -> None:
        came = sum(file.done.values())
        for start in file.done:
            self._journal.append(file.key(start), {"bytes": 0})
        file.done.clear()
        self._advance(file, -came)

    def _fetch(self, file: _File, start: int, stop: int) -> None:
        """Fetch the bytes from `start` to `stop` by ranges, from where an earlier run or a broken answer ended."""
        patience = Patience(f"{self._shown(file)}", self.stop)
        with ExitStack() as stack:
            descriptor = _open(file, stack)
            while (at := start + file.done.get(start, 0)) < stop:
                self._attempt(file, descriptor, (start, at, stop), patience)

    def _fetch_whole(self, file: _File) -> None:
        """Fetch all bytes by one answer, anew after each break."""
        patience = Patience(f"{self._shown(file)}", self.stop)
        with ExitStack() as stack:
            descriptor = _open(file, stack)
            while file.done.get(0, 0) < file.remote.size:
                self._advance(file, -file.done.pop(0, 0))
                self._attempt(file, descriptor, (0, 0, file.remote.size), patience, ranges=False)

    def _attempt(
        self, file: _File, descriptor: int, span: tuple[int, int, int], patience: Patience, *, ranges: bool = True
    ) -> None:
        """Send one request for the bytes from `at` to `stop` of the piece at `start`; wait after a failure."""
        start, at, stop = span
        failure: Passing | None = None
        recorded = begun = at
        try:
            headers = {**self._headers, "Range": f"bytes={at}-{stop - 1}"} if ranges else self._headers
            with request_file(self._model, file.remote, headers) as response:
                self._check(file, response, at, stop, ranges=ranges)
                for chunk in arriving(response.iter_raw()):
                    self._go_on()
                    self._check_room(file, at + len(chunk), stop)
                    write_at(descriptor, memoryview(chunk), at)
                    at += len(chunk)
                    file.done[start] = at - start
                    self._advance(file, len(chunk))
                    if ranges and at - begun >= _PROGRESS:
                        patience.renew()
                        begun = at
                    if ranges and at - recorded >= _RECORD:
                        recorded = at
                        self._journal.append(file.key(start), {"bytes": at - start})
        except (_NoRangesError, _StoppedError, ReadError):
            raise
        except Passing as slow:
            failure = slow
        except Exception as error:
            failure = passing(error)
            if failure is None:
                explained = hub_error(error, f"{self._model.id}/{file.name}", self._model.endpoint)
                if explained is error:
                    raise
                raise explained from error
        finally:
            if ranges and at > recorded:
                with suppress(OSError, JobError):  # it must not hide what went wrong
                    self._journal.append(file.key(start), {"bytes": at - start})
        if at < stop:
            self._wait(failure or Passing(f"the answer ended {stop - at} bytes early"), patience)

    def _wait(self, failure: Passing, patience: Patience) -> None:
        try:
            patience.wait(failure)
        except ReadError as error:
            if self.stop.is_set():
                raise _StoppedError from None
            raise ReadError(f"{error}; what is fetched is kept") from None

    def _check(self, file: _File, response: Any, at: int, stop: int, *, ranges: bool) -> None:
        """Raise ReadError unless the answer is of this commit and of the listed size, and begins at `at`."""
        for reply in (*response.history, response):
            commit = reply.headers.get("X-Repo-Commit", self._model.commit)
            if commit != self._model.commit:
                raise self._changed(file, f"the answer is of commit {printable(commit)}, not of {self._model.commit}")
        size = file.remote.size
        if ranges and response.status_code == 206:
            extent = response.headers.get("Content-Range", "")
            match = _CONTENT_RANGE.fullmatch(extent)
            if match is None or int(match[1]) != at:
                raise self._changed(
                    file, f"asked for the bytes from {at}, got {printable(extent) or 'no Content-Range'}"
                )
            if int(match[3]) != size:
                raise self._changed(file, f"it has {match[3]} bytes, the hub lists {size}")
            return
        length = response.headers.get("Content-Length", str(size))
        if length != str(size):
            raise self._changed(file, f"it has {printable(length)} bytes, the hub lists {size}")
        if at or stop < size:
            raise _NoRangesError

    def _check_room(self, file: _File, end: int, stop: int) -> None:
        if end > stop:
            raise self._changed(file, "more bytes came than were asked for")

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _changed(self, file: _File, fault: str) -> ReadError:
        return ReadError(f"{self._shown(file)}: {fault}; it changed, or a mirror is broken: run again later")

    def _advance(self, file: _File, nbytes: int) -> None:
        if nbytes:
            with self._showing:
                self._progress.advance(file.name, nbytes)

    def _note(self, text: str) -> None:
        with self._showing:
            self._progress.note(text)

    def _shown(self, file: _File) -> str:
        return printable(f"{self._model.id}/{file.name}")


def _open(file: _File, stack: ExitStack) -> int:
    descriptor = os.open(file.path, os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    stack.callback(os.close, descriptor)
    return descriptor


def is_right(path: Path, file: HubFile) -> bool:
    """Whether the bytes at `path` are the hub's; raises OSError where they cannot be read."""
    if not path.is_file() or path.stat().st_size != file.size or not file.algorithm:
        return False
    return digest_of_file(path, file.algorithm) == file.digest
