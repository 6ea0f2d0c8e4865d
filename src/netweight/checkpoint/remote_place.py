"""Folders far away: a repository of the hub at one commit, and what fsspec's URLs lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netweight.checkpoint.reference import HubReference
from netweight.errors import ModelNotFoundError, OptionError, ReadError, printable
from netweight.source.fsspec_ranges import FsspecRanges
from netweight.source.http_ranges import HttpRanges, open_http
from netweight.source.protocol import Source
from netweight.source.ranges import Ranges
from netweight.source.remote import RemoteFile

__all__ = ["HubFile", "HubPlace", "UrlPlace", "place_of_url"]

_LOOKED_FOR = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
)
"""What a web server's folder is searched for: it cannot be listed."""

_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".index.json")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository: `size` in bytes, `tag` its digest (SHA-256 of large files, git's of small ones)."""

    size: int
    tag: str


@dataclass(frozen=True)
class HubPlace:
    """A repository of the hub, or a folder in it, at `commit`: see Place. `files` are those of the whole repository."""

    reference: HubReference
    commit: str
    files: Mapping[str, HubFile] = field(repr=False)
    prefix: str = ""

    @property
    def label(self) -> str:
        """See Place."""
        return f"{self.reference.label}/{self.prefix}".rstrip("/")

    @property
    def can_list(self) -> bool:
        """See Place."""
        return True

    def names(self, folder: str = "") -> list[str]:
        """See Place."""
        return sorted(name for name in self._below(f"{folder}/" if folder else "") if "/" not in name)

    def folders(self) -> list[str]:
        """See Place."""
        return sorted({name.partition("/")[0] for name in self._below("") if "/" in name})

    def has(self, name: str) -> bool:
        """See Place."""
        return self.prefix + name in self.files

    def path(self, name: str) -> str:
        """See Place."""
        return f"{self.reference.label}/{self.prefix}{name}"

    def open(self, name: str) -> Source:
        """See Place; nothing is asked of the hub before the first read."""
        from huggingface_hub import constants, hf_hub_url  # noqa: PLC0415 - nothing of it is loaded for local files
        from huggingface_hub.utils._headers import build_hf_headers  # noqa: PLC0415

        file = self.files.get(self.prefix + name)
        if file is None:
            raise ModelNotFoundError(f"{printable(self.path(name))}: there is no such file")
        url = hf_hub_url(self.reference.repo, self.prefix + name, revision=self.commit, endpoint=constants.ENDPOINT)
        ranges = HttpRanges(url, self.path(name), size=file.size, tag=file.tag, headers=build_hf_headers)
        return RemoteFile(ranges)

    def _below(self, folder: str) -> list[str]:
        prefix = self.prefix + folder
        return [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]


class UrlPlace:
    """The folder of a URL: see Place. `system` is its fsspec file system, None for `http(s)://`."""

    def __init__(self, url: str, system: Any = None, path: str = "") -> None:
        self._url = url.rstrip("/")
        self._system = system
        self._path = f"{path.rstrip('/')}/" if path else ""  # a path from the root stays one
        self._opened: dict[str, Ranges | None] = {}
        self._listed: dict[str, tuple[list[str], list[str]]] = {}

    @property
    def label(self) -> str:
        """See Place."""
        return self._url

    @property
    def can_list(self) -> bool:
        """See Place."""
        return self._system is not None

    def names(self, folder: str = "") -> list[str]:
        """See Place; of a web server those of the usual names that are there."""
        if self._system is None:
            return [] if folder else sorted(name for name in _LOOKED_FOR if self.has(name))
        return self._list(folder)[0] if not folder or folder in self.folders() else []

    def folders(self) -> list[str]:
        """See Place."""
        return [] if self._system is None else self._list("")[1]

    def has(self, name: str) -> bool:
        """See Place."""
        return self._ranges(name) is not None

    def path(self, name: str) -> str:
        """See Place."""
        return f"{self._url}/{name}"

    def open(self, name: str) -> Source:
        """See Place."""
        ranges = self._ranges(name)
        if ranges is None:
            raise ModelNotFoundError(f"{printable(self.path(name))}: there is no such file")
        return RemoteFile(ranges)

    def _ranges(self, name: str) -> Ranges | None:
        if name not in self._opened:
            try:
                self._opened[name] = (
                    open_http(self.path(name))
                    if self._system is None
                    else FsspecRanges(self._system, f"{self._path}{name}", self.path(name))
                )
            except FileNotFoundError:
                self._opened[name] = None
        return self._opened[name]

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._listed:
            shown = printable(f"{self._url}/{folder}".rstrip("/"))
            try:
                entries = self._system.ls(f"{self._path}{folder}".rstrip("/") or self._path, detail=True)
            except FileNotFoundError:
                raise ModelNotFoundError(f"{shown}: there is no such file or folder") from None
            except Exception as problem:  # drivers have exceptions of their own
                raise ReadError(f"{shown}: cannot be listed: {printable(str(problem) or repr(problem), 300)}") from None
            base = [(str(entry["name"]).rstrip("/").rpartition("/")[2], entry.get("type")) for entry in entries]
            self._listed[folder] = (
                sorted(name for name, kind in base if kind != "directory"),
                sorted(name for name, kind in base if kind == "directory"),
            )
        return self._listed[folder]


def place_of_url(url: str) -> tuple[UrlPlace, str]:
    """(folder, file) of a URL, the file "" where the URL leads to a folder. Raises ModelNotFoundError, OptionError for
    a kind of URL that no installed package reads, ReadError.
    """
    if url.startswith(("http://", "https://")):
        address, mark, query = url.partition("?")
        above, _, last = address.rstrip("/").rpartition("/")
        if last.endswith(_ENDINGS):
            return UrlPlace(above), last + mark + query
        return UrlPlace(url), ""
    above, _, last = url.rstrip("/").rpartition("/")
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - nothing of it is loaded for local files
    except ImportError as problem:
        raise OptionError(f"{printable(url)}: reading URLs takes fsspec: {printable(str(problem))}") from None
    try:
        system, path = url_to_fs(url)
    except ImportError as problem:
        raise OptionError(f"{printable(url)}: {printable(str(problem))}") from None
    except ValueError as problem:
        raise ModelNotFoundError(f"{printable(url)}: {printable(str(problem))}") from None
    except Exception as problem:  # drivers have exceptions of their own
        raise ReadError(
            f"{printable(url)}: cannot be reached: {printable(str(problem) or repr(problem), 300)}"
        ) from None
    if last.endswith(_ENDINGS) or _is_file(system, path, url):
        return UrlPlace(above, system, "".join(str(path).rpartition("/")[:2])), last
    return UrlPlace(url, system, path), ""


def _is_file(system: Any, path: str, url: str) -> bool:
    try:
        return bool(system.info(path)["type"] == "file")
    except FileNotFoundError:
        raise ModelNotFoundError(f"{printable(url)}: there is no such file or folder") from None
    except Exception as problem:  # drivers have exceptions of their own
        raise ReadError(
            f"{printable(url)}: cannot be reached: {printable(str(problem) or repr(problem), 300)}"
        ) from None
