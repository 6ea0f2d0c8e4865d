"""Results put in place file by file, where a folder cannot be exchanged as a whole; a stage taken up again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from netweight.output.carry import leaves, remove_tree
from netweight.output.exchange import sync_folder
from netweight.output.manifest import MANIFEST, read_manifest

__all__ = ["drop_unlisted", "move_file", "replace_entries"]


def replace_entries(
    stage: Path, target: Path, new: Collection[str], stale: Collection[str], *, sync: bool = True
) -> None:
    """Move the files `new` (POSIX paths) from `stage` over those of `target`, then delete the files `stale` from it.

    Each file is replaced in one step. Names in `stale` that lead out of `target` are left alone. Raises OSError.
    """
    # Configs and indexes after the weights that they speak of; the list of our files last: it ends the work. What comes
    # later is on the disk later, too.
    described = {name for name in new if name.endswith(".json")} - {MANIFEST}
    _move(stage, target, set(new) - described - {MANIFEST}, sync=sync)
    _move(stage, target, described, sync=sync)
    for name in sorted(stale):
        path = target / name
        if _inside(target, name) and (path.is_symlink() or path.is_file()):
            path.unlink()
            _remove_hollow(path.parent, target)
    if sync:
        _sync_above(target, stale)
    _move(stage, target, {MANIFEST}, sync=sync)


def _move(stage: Path, target: Path, names: Collection[str], *, sync: bool) -> None:
    for name in sorted(names):
        path = target / name
        _make_folder(path.parent, target)
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)  # it holds nothing but earlier results
        move_file(stage / name, path, sync=sync)
    if sync:
        _sync_above(target, names)


def _sync_above(target: Path, names: Collection[str]) -> None:
    """Bring the lists of names of all folders that are, or were, above the files `names` of `target` to the disk."""
    for folder in {target / above for name in names if _inside(target, name) for above in PurePosixPath(name).parents}:
        if folder.is_dir():
            sync_folder(folder)


def move_file(source: Path, target: Path, *, sync: bool) -> None:
    """Move a file over another in one step, by its name alone where that is possible; raises OSError."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name[:200]}.netweight-part")
        shutil.copy2(source, part)
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(target)


def drop_unlisted(stage: Path, kind: str) -> bool:
    """Take out of a stage what a commit that did not end has carried into it: all that its list does not name, and the
    list. False where the list is damaged, so that nobody knows. Raises OSError.
    """
    if not os.path.lexists(stage / MANIFEST):
        return True
    results, _ = read_manifest(stage)
    if kind not in results:
        return False
    for folder, _, _ in os.walk(stage):
        if not os.access(folder, os.W_OK | os.X_OK):  # carried folders have the rights of those they stand for
            Path(folder).chmod(0o700)
    for name, entry in list(leaves(stage)):
        if entry.is_dir(follow_symlinks=False):
            Path(entry.path).rmdir()
        elif name not in results[kind]:
            Path(entry.path).unlink()
    return True


def _make_folder(folder: Path, target: Path) -> None:
    if folder == target or (folder.is_dir() and not folder.is_symlink()):
        return
    _make_folder(folder.parent, target)
    folder.unlink(missing_ok=True)  # an earlier result
    folder.mkdir()


def _inside(target: Path, name: str) -> bool:
    """Whether `name`, which stood in a file that anybody may have written, stays below `target`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or (os.name == "nt" and set(part) & set("\\:")) for part in parts):
        return False
    return not any(target.joinpath(*parts[:depth]).is_symlink() for depth in range(1, len(parts)))


def _remove_hollow(folder: Path, target: Path) -> None:
    while folder != target and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
