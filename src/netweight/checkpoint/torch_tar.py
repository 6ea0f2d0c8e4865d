"""torch.save's tar archives before 0.1.10: `storages`, `tensors` and `pickle` (torch/serialization.py, legacy_load)."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.foreign import archive_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile
from netweight.checkpoint.torch_layout import Region, build_part
from netweight.checkpoint.torch_nodes import Storage, TensorNodes, Unreadable, View, element_width, storage_dtype
from netweight.checkpoint.unpickler import load_pickle
from netweight.checkpoint.unwrap import unwrap
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["READER", "read_torch_tar"]

_BLOCK = 512
_MAX_MEMBERS = 1000
_MAX_DIMENSIONS = 64


def read_torch_tar(source: Source) -> Part:
    """Read the members' pickles; no tensor data. Raises FormatError, UnsafeFileError, ReadError."""
    where = printable(source.name)
    members = _members(source, where)
    if "storages" not in members or "pickle" not in members:
        other = "a tar archive without 'storages' and 'pickle', no torch file; unpack it first"
        inside = archive_of("tar", {name: end - start for name, (start, end) in members.items()})
        raise FormatError(f"{where}: is {inside or other}")
    contents = _Contents(source, where)
    contents.read_storages(*members["storages"])
    if "tensors" in members:
        contents.read_tensors(*members["tensors"])
    start, end = members["pickle"]
    outside: dict[str, None] = {}
    content = load_pickle(stream_of(source, start, end), where, outside=outside)
    unwrapped = unwrap(content, TensorNodes(contents.storage_of, contents.tensor_of), where)
    file = CheckpointFile(source.name, source.size, digest_of(source, start, end))
    return build_part(
        unwrapped, contents.regions.__getitem__, source=source, file=file, format="torch tar", outside=outside
    )


def _members(source: Source, where: str) -> dict[str, tuple[int, int]]:
    """Where each member's bytes start and end (POSIX ustar: blocks of 512 bytes, the size in octal)."""
    members: dict[str, tuple[int, int]] = {}
    at = 0
    head = bytearray(_BLOCK)
    for _ in range(_MAX_MEMBERS):
        if at + _BLOCK > source.size:
            return members
        source.read_into(at, memoryview(head))
        name = bytes(head[:100]).partition(b"\0")[0].decode("utf-8", "replace")
        if not name:
            return members
        digits = bytes(head[124:136]).strip(b" \0")
        if not digits or digits.strip(b"01234567"):
            raise FormatError(f"{where}: tar member {printable(name)!r} at byte {at} has no valid size")
        size = int(digits, 8)
        start = at + _BLOCK
        if start + size > source.size:
            raise FormatError(f"{where}: tar member {printable(name)!r} of {size} bytes at byte {start} is cut short")
        members[name.removeprefix("./")] = (start, start + size)
        at = start + -(-size // _BLOCK) * _BLOCK
    raise FormatError(f"{where}: a tar archive of more than {_MAX_MEMBERS} members, not a torch file")


class _Contents:
    """Storages and tensors by the keys that the pickle refers to them with."""

    def __init__(self, source: Source, where: str) -> None:
        self.source = source
        self.where = where
        self.regions: dict[str, Region] = {}
        self.storages: dict[str, Storage | Unreadable] = {}
        self.tensors: dict[str, View | Unreadable] = {}

    def read_storages(self, start: int, end: int) -> None:
        stream = stream_of(self.source, start, end)
        for _ in range(self._count(stream)):
            key, _, kind = self._triple(stream)
            count = self._numbers(stream, 1)[0]
            nbytes = count * element_width(kind)
            at = stream.tell()
            if count < 0 or at + nbytes > end - start:
                raise FormatError(
                    f"{self.where}: storage {printable(key)!r} at byte {start + at} is said to hold {count} elements, "
                    "more than the file has; it is cut short: download it again"
                )
            stream.seek(at + nbytes)
            dtype = storage_dtype(kind)
            self.regions[key] = Region(start + at, nbytes)
            self.storages[key] = dtype if isinstance(dtype, Unreadable) else Storage(key, dtype, count)
        if stream.tell() < end - start:
            self._read_views(load_pickle(stream, self.where))

    def _read_views(self, views: Any) -> None:
        for view in views if isinstance(views, (list, tuple)) else ():
            if not (isinstance(view, tuple) and len(view) == 4 and all(type(n) is int and n >= 0 for n in view[2:])):
                raise FormatError(f"{self.where}: its list of storage views is damaged")
            root = self.storages.get(str(_plain(view[1])))
            if root is None:
                raise FormatError(f"{self.where}: a storage view refers to a storage that is not in the file")
            if isinstance(root, Storage):
                if view[2] + view[3] > root.count:
                    raise FormatError(
                        f"{self.where}: a storage view of elements {view[2]} to {view[2] + view[3]} of {root.count}"
                    )
                root = Storage(root.key, root.dtype, view[3], root.shift + view[2])
            self.storages[str(_plain(view[0]))] = root

    def read_tensors(self, start: int, end: int) -> None:
        stream = stream_of(self.source, start, end)
        for _ in range(self._count(stream)):
            key, storage_key, _ = self._triple(stream)
            dimensions = self._numbers(stream, 1)[0] & 0xFFFFFFFF  # the upper half of the eight bytes means nothing
            if dimensions > _MAX_DIMENSIONS:
                raise FormatError(
                    f"{self.where}: a tensor of {dimensions} dimensions, expected at most {_MAX_DIMENSIONS}"
                )
            shape, strides = self._numbers(stream, dimensions), self._numbers(stream, dimensions)
            offset = self._numbers(stream, 1)[0]
            storage = self.storages.get(str(_plain(storage_key)))
            if storage is None:
                raise FormatError(f"{self.where}: tensor {printable(key)!r} has no storage in the file")
            if min((offset, *shape, *strides)) < 0:
                raise FormatError(
                    f"{self.where}: tensor {printable(key)!r}: negative offset {offset}, shape {list(shape)} "
                    f"or strides {list(strides)}; the file is damaged"
                )
            if isinstance(storage, Storage):
                assert storage.dtype is not None  # noqa: S101 - untyped storages came with torch 2
                self.tensors[key] = View(storage, storage.dtype, offset, shape, strides)
            else:
                self.tensors[key] = storage

    def storage_of(self, pid: Any) -> Storage | Unreadable:
        key = pid[2] if isinstance(pid, tuple) and len(pid) > 2 and pid[0] == "storage" else pid
        storage = self.storages.get(str(_plain(key)))
        return Unreadable("its storage is not in the file", broken=True) if storage is None else storage

    def tensor_of(self, pid: Any) -> View | Unreadable | None:
        return self.tensors.get(str(_plain(pid)))

    def _count(self, stream: BinaryIO) -> int:
        count = load_pickle(stream, self.where)
        if type(count) is not int or count < 0:
            raise FormatError(f"{self.where}: does not say how many storages or tensors it holds; the file is damaged")
        return count

    def _triple(self, stream: BinaryIO) -> tuple[str, Any, Any]:
        entry = load_pickle(stream, self.where)
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise FormatError(f"{self.where}: a storage or tensor without key, place and type; the file is damaged")
        return str(_plain(entry[0])), entry[1], entry[2]

    def _numbers(self, stream: BinaryIO, count: int) -> tuple[int, ...]:
        data = stream.read(8 * count)
        if len(data) < 8 * count:
            raise FormatError(f"{self.where}: ends in the middle of a storage or tensor; it is cut short")
        return struct.unpack(f"<{count}q", data)


def _plain(key: Any) -> str | int:
    """A key as it is written; anything else can name nothing."""
    return key if isinstance(key, (str, int)) else ""


def _matches(start: bytes, _size: int) -> bool:
    return start[257:262] == b"ustar"


READER = Reader("torch tar", _matches, read_torch_tar)
