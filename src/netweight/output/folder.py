"""A folder of results that appears whole or not at all; what stood there before stays until then."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from netweight.errors import JobError, NetweightError, OutputError, printable
from netweight.output.carry import FolderEntries, NoSwapError, carry, leaves, obstacles, remove_tree, settle, survey
from netweight.output.entries import drop_unlisted, move_file, replace_entries
from netweight.output.exchange import is_mounted, put_in_place, sync_file, sync_folder, sync_tree
from netweight.output.lock import lock, unlock
from netweight.output.manifest import MANIFEST, read_manifest, write_manifest
from netweight.output.model_target import check_apart, check_model_target

__all__ = ["ResultFolder"]

_NOT_RENAMED = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRITING = {*_NO_ROOM, errno.EIO, errno.EROFS}
_NAMED = 3  # files that a message names


class ResultFolder:
    """The folder of one job's results: entered before the work, committed once at its end.

    `target` is where the results will stand, `inputs` the models' own paths (which no result may replace), `kind` the
    job, whose own earlier results a commit replaces; files that are not netweight's are kept, and where one has the
    name of a result, the run is refused: of `planned`, the names that are known before the work, on entry, of others by
    `commit`. A file of `named` was named by the user, and is replaced whoever made it. `resume` keeps the journal of a
    run that was killed. While it is entered, the folder is held against other runs.

    `keep_stage`: what is staged survives a failure or a kill, and is there again where `resume` finds the journal too.
    `sync` False: nothing is brought to the disk, for results that can be made again. `replace` True or False makes the
    results a model, whose folder must hold nothing else that loads (see `check_model_target`): an earlier one of this
    kind is replaced or refused, and inputs must lie apart; None lets results lie beside other files.

    Entering raises OutputError for a place that cannot take results and BusyError where another run holds it. An
    OSError from writing results (a full disk) leaves the `with` block as JobError.
    """

    def __init__(
        self,
        target: Path,
        inputs: Sequence[Path],
        kind: str,
        *,
        resume: bool = False,
        keep_stage: bool = False,
        sync: bool = True,
        replace: bool | None = None,
        planned: Collection[str] = (),
        named: Collection[str] = (),
    ) -> None:
        self._given = target
        self._inputs = tuple(inputs)
        self._kind = kind
        self._resume = resume
        self._keep_stage = keep_stage
        self._sync = sync
        self._replace = replace
        self._planned = frozenset(planned)
        self._named = frozenset(named)
        self._entrywise: str | None = None
        self._committed = False
        self._replacing = False
        self._made: list[Path] = []
        self._descriptor = -1
        self.target = target
        self._work = target
        self._notes: list[str] = []

    @property
    def stage(self) -> Path:
        """The folder to write into, on the target's file system: empty on entry, unless a kept stage is resumed."""
        return self._work / "stage"

    @property
    def journal_path(self) -> Path:
        """Where the job's journal lives: it survives a kill and is removed by `commit` (close it first)."""
        return self._work / "journal.jsonl"

    def check(self) -> None:
        """Check the target without making anything there; raises OutputError as entering would."""
        with self._refusals():
            self.target = self._given.resolve()
            if self.target.is_symlink():  # a loop of links, which Python 3.13 and later resolve to a link of it
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            self._check()

    def discard(self) -> None:
        """Keep nothing of this run for `resume`, whatever becomes of it; the journal must be closed."""
        self._unfinished.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)

    def is_left(self) -> bool:
        """Whether a run that was stopped has left something beside the target, which entering clears; OSError."""
        self.target = self._given.resolve()
        return self._place().is_dir()

    def outcome(self) -> str:
        """The state of the target so far, in words for a run that ends early."""
        if self._committed:
            return "the results are in place"
        return "some of the files there were replaced" if self._replacing else "what stood there is untouched"

    def __enter__(self) -> Self:
        self.check()
        with self._refusals():
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
                f"{_shown(self._given)}: cannot take results: {printable(why)}; choose another output folder"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What cannot be removed here is cleared by the next run into this folder; it must not hide `value`.
        with contextlib.suppress(OSError):
            self._recover()
            if self._committed or not self._is_kept():
                self._unfinished.unlink(missing_ok=True)
                remove_tree(self.stage)
        with contextlib.suppress(OSError):
            unlock(self._work / "lock", self._descriptor)
        with contextlib.suppress(OSError):
            self._work.rmdir()
        if not self._committed:
            self._remove_made()
        if isinstance(value, OSError) and not self._committed and self._is_writing(value):
            todo = "make room" if value.errno in _NO_ROOM else "check the disk"
            why = value.strerror or value
            raise JobError(
                f"{_shown(self.target)}: the results could not be written: {why}; {self.outcome()}; {todo}, then run "
                "again with --resume"
            ) from value

    def commit(self) -> tuple[str, ...]:
        """Bring the staged files to the disk and put them at `target`, in one step where that is possible.

        Returns notes for the user: what could not be done in one step, or not be cleaned up. Raises JobError where a
        foreign file stands where a result must go, or came into a model's folder meanwhile; OSError where the disk is
        full.
        """
        new = {name for name, entry in leaves(self.stage) if not entry.is_dir(follow_symlinks=False)}
        try:
            self._check_model()
            self._check_names(new)
        except OutputError as error:
            raise JobError(f"{error}; then run again with --resume") from error
        earlier, note = read_manifest(self.target)
        if note is not None:
            self._notes.append(note)
        own = {*earlier.get(self._kind, ()), MANIFEST}
        others = {
            kind: [file for file in files if file not in new and os.path.lexists(self.target / file)]
            for kind, files in earlier.items()
            if kind != self._kind
        }
        write_manifest(self.stage, {**others, self._kind: new})
        new.add(MANIFEST)
        if self._sync:
            sync_tree(self.stage)
        self._put(own, new, others)
        try:
            self.journal_path.unlink(missing_ok=True)
        except OSError as error:
            self._note_after(error)
        return tuple(self._notes)

    def _check(self) -> None:
        shown = _shown(self._given)
        for given in self._inputs:
            same = given.resolve() == self.target
            if same or (given.exists() and self.target.exists() and given.samefile(self.target)):
                raise OutputError(f"{shown}: is an input model; choose another output folder")
            if self.target in given.resolve().parents:
                self._entrywise = "an input model lies in it"
        if self._replace is not None:
            check_apart(self.target, self._given, self._inputs)
        if not self.target.exists():
            return
        if not self.target.is_dir():
            raise OutputError(f"{shown}: is not a folder; choose another output folder")
        if not os.access(self.target, os.W_OK | os.X_OK):
            raise OutputError(f"{shown}: cannot take results: it is read-only; choose another output folder")
        here = Path.cwd()
        if self.target == here or self.target in here.parents:
            self._entrywise = "it holds the current folder"
        self._check_model()
        self._check_names(self._planned)

    def _check_names(self, names: Collection[str]) -> None:
        """Raises OutputError where something that is not netweight's has one of `names`."""
        earlier, damaged = read_manifest(self.target)
        own = {*earlier.get(self._kind, ()), MANIFEST}
        listed = {name for files in earlier.values() for name in files} | {MANIFEST} | self._named
        found = obstacles(self.target, own, listed, {*names, MANIFEST})
        if not found:
            return
        shown = ", ".join(printable(name) for name in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        what, them = ("1 file that is", "it") if len(found) == 1 else (f"{len(found)} files that are", "them")
        why = f" ({MANIFEST}, which lists its files, is damaged)" if damaged is not None else ""
        raise OutputError(
            f"{_shown(self._given)}: holds {what} not netweight's{why} where results must go: {shown}{more}; "
            f"choose another output folder, or move {them} away"
        )

    def _check_model(self) -> None:
        if self._replace is not None:
            check_model_target(self.target, self._given, self._kind, overwrite=self._replace)

    def _place(self) -> Path:
        """Where the working folder is, or would be."""
        parent, name = self.target.parent, self.target.name
        if self.target.is_dir() and (
            os.path.ismount(self.target)
            or self.target.stat().st_dev != parent.stat().st_dev
            or not os.access(parent, os.W_OK | os.X_OK)
            or is_mounted(self.target)
        ):
            self._entrywise = "it cannot be renamed (a mount point, or a folder above that is read-only)"
            return self.target / ".netweight-run"
        if len(os.fsencode(name)) > 200:
            name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        return parent / f".{name}.netweight-run"

    def _hold(self) -> None:
        """Find the working folder's place, lock it, and clear what a killed run left in it."""
        self._work = self._place()
        if self._work.parent != self.target:
            self._make_parents(self._work.parent)
        while True:
            self._work.mkdir(exist_ok=True)
            if self._work.is_symlink():
                raise OutputError(f"{_shown(self._work)}: is a link where a working folder must be; remove it")
            try:
                self._descriptor, locked = lock(self._work / "lock", _shown(self._given))
                break
            except FileNotFoundError:
                continue  # the run before us removed the folder just now
        if not locked:
            self._notes.append(
                f"{_shown(self._given)}: the file system has no locks: start no other run into this folder meanwhile"
            )
        try:
            self._recover()
            self._check_model()  # again: it may be another folder now, put back or made by the run before us
            if not self._resume:
                self.journal_path.unlink(missing_ok=True)
            self._enter_stage()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _enter_stage(self) -> None:
        known = self._unfinished.is_file() and self.journal_path.is_file() and not self.stage.is_symlink()
        resumed = self._keep_stage and known
        if not resumed:
            self._unfinished.unlink(missing_ok=True)
            remove_tree(self.stage)
        elif not drop_unlisted(self.stage, self._kind):
            remove_tree(self.stage)
        self.stage.mkdir(exist_ok=resumed)
        if self._keep_stage:
            self._unfinished.touch()

    @property
    def _unfinished(self) -> Path:
        """Stands while the stage holds what is to be resumed. It does not after an exchange, when the stage is what was
        replaced.
        """
        return self._work / "unfinished"

    def _is_kept(self) -> bool:
        return self._keep_stage and self._unfinished.is_file() and any(self.stage.iterdir())

    @contextlib.contextmanager
    def _handing_over(self) -> Iterator[None]:
        self._unfinished.unlink(missing_ok=True)
        try:
            if self._sync:  # what stood there goes into the working folder, which must be there, and without that mark
                sync_folder(self._work)
                with contextlib.suppress(PermissionError):  # a folder above that may be written, but not read
                    sync_folder(self._work.parent)
            yield
        except OSError:  # refused, so that the stage is what it was; of other endings nobody knows
            if self._keep_stage:
                self._unfinished.touch()
            raise

    def _put(self, own: set[str], new: set[str], others: Mapping[str, list[str]]) -> None:
        if not self.target.exists():
            with self._handing_over():
                self.stage.rename(self.target)
            self._conclude()
            return
        reason = self._entrywise
        if reason is None:
            try:
                entries = survey(self.target, own, new)
                carry(self.target, self.stage, entries, sync=self._sync)
                if self._sync:
                    sync_tree(self.stage, files=False)
                with self._handing_over():
                    put_in_place(self.stage, self.target, self._aside)
            except NoSwapError as error:
                reason = str(error)
            except OSError as error:
                if error.errno not in _NOT_RENAMED:
                    raise
                reason = f"it cannot be renamed ({error.strerror})"
            else:
                self._conclude()  # before the old results go
                self._settle(self._aside if self._aside.exists() else self.stage, new, entries)
                return
        # Killed among the files below, the next run must know all of them for netweight's.
        write_manifest(self._work, {**others, self._kind: own | new})
        if self._sync:
            sync_file(self._work / MANIFEST)
        move_file(self._work / MANIFEST, self.target / MANIFEST, sync=self._sync)
        if self._sync:
            sync_folder(self.target)
        self._replacing = True
        replace_entries(self.stage, self.target, new, own - new, sync=self._sync)
        self._committed = True
        self._notes.append(
            f"{_shown(self._given)}: the results were put in place file by file, not in one step: {printable(reason)}"
        )

    def _conclude(self) -> None:
        """The folder stands at its place: that is brought to the disk, with the folders made above it."""
        self._committed = True
        try:
            for folder in (self.target, *self._made) if self._sync else ():
                sync_folder(folder.parent)
        except OSError as error:
            self._note_after(error)

    def _note_after(self, error: OSError) -> None:
        self._notes.append(f"{_shown(self.target)}: the results are in place, but: {error}")

    def _settle(self, old: Path, new: set[str], entries: FolderEntries) -> None:
        try:
            settle(old, self.target, entries, new)
        except OSError as error:
            self._notes.append(f"{_shown(old)}: the replaced folder cannot be deleted: {error.strerror}; delete it")

    @property
    def _aside(self) -> Path:
        return self._work / "aside"

    def _recover(self) -> None:
        """Where a run was killed between the two renames, the earlier results are put back."""
        if self._aside.is_dir():
            if self.target.exists():
                remove_tree(self._aside)
            else:
                self._aside.rename(self.target)

    def _make_parents(self, folder: Path) -> None:
        missing = [above for above in (folder, *folder.parents) if not above.exists()]
        for above in reversed(missing):
            above.mkdir(exist_ok=True)
            self._made.append(above)

    def _remove_made(self) -> None:
        """Folders made for a run that gave no results; one that is no longer empty is somebody's."""
        with contextlib.suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()

    def _is_writing(self, error: OSError) -> bool:
        name = error.filename
        below = isinstance(name, str | os.PathLike) and self._work in Path(name).parents
        return error.errno in _WRITING or below


def _shown(path: Path) -> str:
    return printable(str(path), 300)
