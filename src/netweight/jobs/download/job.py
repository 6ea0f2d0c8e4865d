"""`download`: a model from the hub into a folder, whole and verified, or nothing of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import BusyError, Interrupted, OptionError, OutputError, printable
from netweight.jobs.download.progress import DownloadProgress, Silent
from netweight.jobs.inputs import globs
from netweight.run.plan import digest_of
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.download.choice import Choice
    from netweight.jobs.download.hub import HubFile, HubModel
    from netweight.output.folder import ResultFolder
    from netweight.run.journal import Journal

__all__ = ["RECORD", "DownloadPlan", "Downloaded", "DownloadedFile", "check_target", "download", "plan_download"]

RECORD = ".netweight-download.json"
"""What stands in the folder beside the files: the id, the commit, and each file's size and digest."""

WORKERS = 8
_ROOM_LEFT = 64 << 20  # bytes that stay free
_LARGEST_RECORD = 64 << 20


@dataclass(frozen=True)
class DownloadedFile:
    """One file, `size` in bytes; `fetched` is False where it was there already, or in the hub's local cache."""

    name: str
    size: int
    algorithm: str
    digest: str
    fetched: bool


@dataclass(frozen=True)
class Downloaded:
    """The files of model `id` at `commit`, which `revision` stood for, in `folder`."""

    id: str
    revision: str
    commit: str
    endpoint: str
    folder: str
    files: tuple[DownloadedFile, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    @property
    def fetched(self) -> int:
        """Bytes of files that were not there before."""
        return sum(file.size for file in self.files if file.fetched)

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "bytes": self.bytes, "bytes_fetched": self.fetched}


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would fetch, from the hub's list and an index alone."""

    model: HubModel
    choice: Choice

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.choice.files)

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "id": self.model.id,
            "revision": self.model.revision,
            "commit": self.model.commit,
            "endpoint": self.model.endpoint,
            "files": [asdict(file) for file in self.choice.files],
            "notes": list(self.choice.notes),
            "bytes": self.bytes,
        }


def plan_download(
    ref: str,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    folder: Path | None = None,
) -> DownloadPlan:
    """Ask the hub what `ref` (`org/name`, `org/name@revision`, `hf://org/name`) holds, and choose files. An index that
    `folder` has from an earlier download is not read from the hub.

    Raises what `download` raises before it fetches anything.
    """
    from netweight.jobs.download.choice import MAX_INDEX, choose
    from netweight.jobs.download.fetch import is_right
    from netweight.jobs.download.hub import parse_hub_id, read_file_list, read_small

    def read(file: HubFile) -> bytes:
        with contextlib.suppress(OSError):  # then the hub has it
            if folder is not None and file.size <= MAX_INDEX and is_right(folder / file.name, file):
                return (folder / file.name).read_bytes()
        return read_small(model, file, MAX_INDEX)

    model = read_file_list(*parse_hub_id(ref, revision))
    return DownloadPlan(model, choose(model, include, exclude, read))


def download(
    ref: str,
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    workers: int | None = None,
    progress: DownloadProgress | None = None,
) -> Downloaded:
    """Bring a model from the hub into the folder `out`; it appears there when every file is whole and verified.

    `ref` is `org/name`, `org/name@revision` or either behind `hf://`. The commit is found once, and all files are of
    it. Without `include`: the weights (safetensors rather than torch files) and what belongs to them, see
    `jobs.download.choice.BESIDE`; with it, the files that its globs match. `workers` requests are in flight (8).

    What is fetched lies in a folder beside `out` until all is there, also after a kill: the next run goes on with it.
    A file that stands in `out` from an earlier download, or is in the hub's local cache, is not fetched again. Where
    `out` holds an earlier commit of the model, it is replaced in one step. Sizes are checked, and SHA-256 of large
    files, git's SHA-1 of small ones.

    Raises ModelNotFoundError where there is no such model or no access to it, FormatError and UnsafeFileError for what
    the hub must not hold, OutputError for a folder that cannot take it, ReadError where bytes cannot be had or are not
    what the hub lists, JobError where the disk refuses, Interrupted.
    """
    if not os.fspath(out):
        raise OptionError("--out: expected the folder that the model goes into, got an empty name")
    if workers is not None and workers < 1:
        raise OptionError(f"--workers: expected 1 or more, got {workers}")
    include, exclude = globs(include), globs(exclude)
    progress = progress or Silent()
    try:
        target = Path(out)
        plan = plan_download(ref, revision=revision, include=include, exclude=exclude, folder=target)
        present = _present(target, plan)
        if len(present.kept) == len(plan.choice.files):
            _clear_beside(_folder(target, plan))
            return _result(plan, target, set(), ())
        return _download(plan, target, workers or WORKERS, progress)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; nothing in {printable(os.fspath(out))} was changed; run again to go on") from None


def _download(plan: DownloadPlan, target: Path, workers: int, progress: DownloadProgress) -> Downloaded:
    from netweight.jobs.download.fetch import fetch_all

    with ExitStack() as stack:
        folder = stack.enter_context(_folder(target, plan))
        present = _present(target, plan)  # again: the run before us may have put it there just now
        absent = [file for file in plan.choice.files if file.name not in present.kept]
        if not absent:
            return _result(plan, target, set(), ())
        journal, records = _journal(folder, plan, progress)
        with journal:
            _clear(folder.stage, {file.name for file in absent})
            for name in present.kept | present.more:
                _link(target / name, folder.stage / name)
            missing = [file for file in absent if not _from_cache(plan.model, file, folder.stage)]
            _check_room(target, folder.stage, missing)
            fetch_all(plan.model, missing, folder.stage, journal, records, progress, workers)
        _write_record(plan, present, folder.stage)
        notes = folder.commit()
        for note in notes:
            progress.note(note)
        return _result(plan, target, {file.name for file in missing}, notes)


def _folder(target: Path, plan: DownloadPlan) -> ResultFolder:
    from netweight.output.folder import ResultFolder

    planned = [RECORD, *(file.name for file in plan.choice.files)]
    return ResultFolder(target, (), "download", resume=True, keep_stage=True, replace=True, planned=planned)


def _clear_beside(folder: ResultFolder) -> None:
    """Remove what a run that was killed after its end has left: it may be the model that was replaced. What an
    unfinished run has fetched stays.
    """
    with contextlib.suppress(OSError, OutputError, BusyError):
        if folder.is_left():
            with folder:
                if not any(folder.stage.iterdir()):
                    folder.discard()


def check_target(out: str | os.PathLike[str], plan: DownloadPlan) -> None:
    """Raises OutputError where the folder `out` cannot become this model's; makes nothing there."""
    _present(Path(out), plan)
    _folder(Path(out), plan).check()


@dataclass(frozen=True)
class _Present:
    """What the target holds: `kept` are files of the plan that are right, `more` other files of the same commit."""

    kept: frozenset[str] = frozenset()
    more: frozenset[str] = frozenset()
    record: dict[str, dict[str, Any]] | None = None


def _present(target: Path, plan: DownloadPlan) -> _Present:
    """Raises OutputError where another model stands there."""
    from netweight.jobs.download.fetch import is_right

    record = _read_record(target)
    if record is None:
        return _Present()
    if record["id"] != plan.model.id:
        raise OutputError(
            f"{printable(str(target), 300)}: holds the model {printable(str(record['id']))}; choose another folder"
        )
    files = record["files"]
    names = {file.name for file in plan.choice.files}
    same_commit = record["commit"] == plan.model.commit
    kept = set()
    for file in plan.choice.files:
        entry = files.get(file.name)
        with contextlib.suppress(OSError):  # then it is fetched
            state = (target / file.name).stat()
            known = isinstance(entry, dict) and entry.get("digest") == file.digest and (file.digest or same_commit)
            same = known and (state.st_size, state.st_mtime_ns) == (file.size, entry.get("mtime_ns"))
            if same or is_right(target / file.name, file):
                kept.add(file.name)
    more = set()
    if same_commit:
        more = {name for name in files if name not in names and _is_plain(target, name)}
    return _Present(frozenset(kept), frozenset(more), files)


def _read_record(target: Path) -> dict[str, Any] | None:
    path = target / RECORD
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_RECORD:
            return None
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # then no file in the folder is known; the manifest decides whether it may be replaced
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        return None
    return value if isinstance(value.get("id"), str) and isinstance(value.get("commit"), str) else None


def _is_plain(target: Path, name: str) -> bool:
    """Whether a name of the record is a file in the folder, and no way out of it."""
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        return False
    path = target / name
    return path.is_file() and path.resolve() == target.resolve() / name


def _write_record(plan: DownloadPlan, present: _Present, stage: Path) -> None:
    files = {name: present.record[name] for name in present.more} if present.record else {}
    for file in plan.choice.files:
        state = (stage / file.name).stat()
        files[file.name] = {
            "size": file.size,
            "algorithm": file.algorithm,
            "digest": file.digest,
            "mtime_ns": state.st_mtime_ns,
        }
    value = {
        "netweight": __version__,
        "schema": 1,
        "id": plan.model.id,
        "revision": plan.model.revision,
        "commit": plan.model.commit,
        "endpoint": plan.model.endpoint,
        "files": dict(sorted(files.items())),
    }
    (stage / RECORD).write_text(json.dumps(value, indent=1) + "\n", encoding="ascii", newline="\n")


def _journal(
    folder: ResultFolder, plan: DownloadPlan, progress: DownloadProgress
) -> tuple[Journal, dict[str, dict[str, Any]]]:
    """The journal of this model at any commit: what is the same in another one is not fetched again."""
    from netweight.run.journal import Journal

    digest = digest_of({"job": "download", "id": plan.model.id})
    try:
        return Journal.resume(folder.journal_path, digest)
    except OptionError:
        progress.note("an unfinished download of another model, or by another version, is thrown away")
        return Journal.create(folder.journal_path, digest), {}


def _clear(stage: Path, names: Iterable[str]) -> None:
    """Remove from an earlier run's stage all files but `names`."""
    from netweight.output.carry import leaves

    keep = set(names)
    for name, entry in list(leaves(stage)):
        if entry.is_dir(follow_symlinks=False):
            Path(entry.path).rmdir()
        elif name not in keep:
            Path(entry.path).unlink()


def _link(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old.resolve(), new)
    except OSError:  # no links between or on these file systems
        shutil.copy2(old, new)


def _from_cache(model: HubModel, file: HubFile, stage: Path) -> bool:
    """Whether the hub's local cache had the file, at this commit and undamaged; it is copied."""
    from huggingface_hub import try_to_load_from_cache

    from netweight.jobs.download.fetch import is_right

    cached = try_to_load_from_cache(model.id, file.name, revision=model.commit)
    try:
        if not isinstance(cached, str) or not is_right(Path(cached), file):
            return False
    except OSError:
        return False  # a damaged cache is no reason to fail: the hub has the file
    copy = stage / file.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    shutil.copyfile(cached, copy)
    return True


def _check_room(target: Path, stage: Path, missing: Sequence[HubFile]) -> None:
    needed = 0
    for file in missing:
        path = stage / file.name
        there = path.lstat().st_blocks * 512 if path.is_file() and hasattr(path.lstat(), "st_blocks") else 0
        needed += max(file.size - there, 0)
    free = shutil.disk_usage(stage).free
    if missing and needed + _ROOM_LEFT > free:
        raise OutputError(
            f"{printable(str(target), 300)}: needs {needed:,} bytes more, and {free:,} are free on its disk; make room,"
            " or choose a folder elsewhere"
        )


def _result(plan: DownloadPlan, target: Path, fetched: set[str], notes: Sequence[str]) -> Downloaded:
    files = tuple(
        DownloadedFile(file.name, file.size, file.algorithm, file.digest, file.name in fetched)
        for file in plan.choice.files
    )
    model = plan.model
    return Downloaded(
        model.id, model.revision, model.commit, model.endpoint, str(target), files, (*plan.choice.notes, *notes)
    )
