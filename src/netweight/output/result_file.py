"""A result in one file that appears whole or not at all; what stood there before stays until then."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from netweight.errors import JobError, NetweightError, OutputError, printable
from netweight.output.exchange import sync_file, sync_folder
from netweight.output.lock import lock, unlock

__all__ = ["ResultFile", "write_file"]


class ResultFile:
    """One file of results: entered before the work, committed once at its end.

    `target` is the file, `inputs` the models' own paths (which no result may replace). `resume` keeps the journal of a
    run that was killed; the journal lies in a folder beside the file, `.NAME.netweight-run`, which is there only
    meanwhile. Entering raises OutputError for a place that cannot take the file and BusyError where another run holds
    it. An OSError from writing (a full disk) leaves the `with` block as JobError.
    """

    def __init__(self, target: Path, inputs: Sequence[Path] = (), *, resume: bool = False) -> None:
        self._given = target
        self._inputs = tuple(inputs)
        self._resume = resume
        self._descriptor = -1
        self._made: list[Path] = []
        self._committed = False
        self.target = target
        self._work = target

    @property
    def journal_path(self) -> Path:
        """Where the job's journal lives: it survives a kill and is removed by `commit` (close it first)."""
        return self._work / "journal.jsonl"

    def check(self) -> None:
        """Check the target without making anything there; raises OutputError as entering would."""
        with self._refusals():
            self._check()

    def __enter__(self) -> Self:
        with self._refusals():
            self._check()
            name = self.target.name
            if len(os.fsencode(name)) > 200:
                name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
            self._work = self.target.parent / f".{name}.netweight-run"
            self._hold()
        return self

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except NetweightError:
            self._remove_made()
            raise
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL in the name
            self._remove_made()
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise OutputError(
                f"{_shown(self._given)}: cannot take the result: {printable(why)}; choose another file"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What cannot be removed here is cleared by the next run; it must not hide `value`.
        with contextlib.suppress(OSError):
            self._new.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            unlock(self._work / "lock", self._descriptor)
        with contextlib.suppress(OSError):
            self._work.rmdir()
        if not self._committed:
            self._remove_made()
        if isinstance(value, OSError) and not self._committed:
            raise JobError(
                f"{_shown(self.target)}: the result could not be written: {value.strerror or value}; what stood there "
                "is untouched; make room, then run again"
            ) from value

    def commit(self, write: Callable[[Path], None]) -> None:
        """Have `write` make the file, bring it to the disk and put it at `target` in one step; OSError where the disk
        refuses.
        """
        write(self._new)
        sync_file(self._new)
        self._new.replace(self.target)
        self._committed = True
        for path in (self.target, *self._made):
            with contextlib.suppress(PermissionError):  # a folder that may be written, but not read
                sync_folder(path.parent)
        self.journal_path.unlink(missing_ok=True)

    @property
    def _new(self) -> Path:
        return self._work / f"new{self.target.suffix}"

    def _check(self) -> None:
        self.target = self._given.absolute().parent.resolve() / self._given.name
        shown = _shown(self._given)
        if self.target.is_dir():
            raise OutputError(f"{shown}: is a folder; expected a file to write")
        if not self.target.name or self._given.name in {"", ".", ".."}:
            raise OutputError(f"{shown}: names no file; expected a file to write")
        for path in self._inputs:
            own = path.resolve()
            if own == self.target.resolve() or (own.is_dir() and own in self.target.resolve().parents):
                raise OutputError(
                    f"{shown}: lies in the model {_shown(path)}, which a result must not change; choose another place"
                )

    def _hold(self) -> None:
        parent = self.target.parent
        missing = [above for above in (parent, *parent.parents) if not above.exists()]
        for above in reversed(missing):
            above.mkdir(exist_ok=True)
            self._made.append(above)
        while True:
            self._work.mkdir(exist_ok=True)
            if self._work.is_symlink():
                raise OutputError(f"{_shown(self._work)}: is a link where a working folder must be; remove it")
            try:
                self._descriptor, _ = lock(self._work / "lock", _shown(self._given))
                break
            except FileNotFoundError:
                continue  # the run before us removed the folder just now
        if not self._resume:
            self.journal_path.unlink(missing_ok=True)

    def _remove_made(self) -> None:
        """Folders made for a run that gave no result; one that is no longer empty is somebody's."""
        with contextlib.suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()


def write_file(path: Path, write: Callable[[Path], None], inputs: Sequence[Path] = ()) -> None:
    """Put what `write` makes at `path` in one step; raises as ResultFile does."""
    with ResultFile(path, inputs) as file:
        file.commit(write)


def _shown(path: Path) -> str:
    return printable(str(path), 300)
