"""The folder that holds a model's files: on this machine, or remote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from netweight.errors import ModelNotFoundError, UnsafeFileError, printable
from netweight.source.local import open_local
from netweight.source.protocol import Source

__all__ = ["LocalPlace", "Place", "check_inside"]


class Place(Protocol):
    """A folder, local or remote."""

    @property
    def label(self) -> str:
        """The path or URL, for messages; not yet made printable."""
        ...

    @property
    def can_list(self) -> bool:
        """Whether `names` lists all files. Otherwise it lists the usual ones, and `has` tells of others."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The files in it, or in a folder of it, sorted, without those in folders below; raises ModelNotFoundError,
        ReadError. There are none in a folder that is not there.
        """
        ...

    def folders(self) -> list[str]:
        """The folders in it, sorted."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, which may lie in a folder (`a/b`)."""
        ...

    def path(self, name: str) -> str:
        """The path or URL of a file of that name, for messages and results."""
        ...

    def open(self, name: str) -> Source:
        """The file; raises UnsafeFileError for a link that leads out of the folder, ModelNotFoundError, ReadError."""
        ...


class LocalPlace:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def label(self) -> str:
        """See Place."""
        return str(self.folder)

    @property
    def can_list(self) -> bool:
        """See Place."""
        return True

    def names(self, folder: str = "") -> list[str]:
        """See Place."""
        if folder and not (self.folder / folder).is_dir():
            return []
        try:
            return sorted(p.name for p in (self.folder / folder).iterdir() if p.is_file() or p.is_symlink())
        except OSError as problem:
            raise ModelNotFoundError(f"{printable(self.label)}: cannot be listed: {problem.strerror}") from None

    def folders(self) -> list[str]:
        """See Place."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def has(self, name: str) -> bool:
        """See Place."""
        try:
            return (self.folder / name).exists()
        except OSError:  # a name that is too long for any file
            return False

    def path(self, name: str) -> str:
        """See Place."""
        return str(self.folder / name)

    def open(self, name: str) -> Source:
        """See Place."""
        check_inside(self.folder, self.folder / name)
        return open_local(self.folder / name)


def check_inside(folder: Path, path: Path) -> None:
    """Raises UnsafeFileError where `path` in `folder` is a link that leads out of it.

    The links of a Hugging Face cache, from `snapshots/<revision>/` to `blobs/` beside it, are fine, and those of a
    folder elsewhere that lead to the `blobs/` of such a cache.
    """
    home = folder.resolve()
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # RuntimeError before Python 3.13
        raise ModelNotFoundError(f"{printable(str(path), 300)}: is a link that leads back to itself") from None
    if target.is_relative_to(home):
        return
    blobs, cache = target.parent, target.parent.parent
    if blobs.name == "blobs" and (cache / "snapshots").is_dir():
        return
    raise UnsafeFileError(
        f"{printable(str(path))}: is a link to {printable(str(target))}, outside its folder; name that file itself"
    )
