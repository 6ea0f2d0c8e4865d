"""torch.save's zip archives (torch 1.6 and later) and TorchScript's: `<root>/data.pkl` and `<root>/data/<key>`."""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.foreign import archive_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile
from netweight.checkpoint.torch_layout import Region, build_part
from netweight.checkpoint.torch_nodes import Storage, TensorNodes, Unreadable, storage_dtype
from netweight.checkpoint.unpickler import load_pickle
from netweight.checkpoint.unwrap import unwrap
from netweight.checkpoint.zip_directory import LOCAL_HEADER, ZipEntry, data_offset, read_directory, read_small
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source
from netweight.source.remote import announce

__all__ = ["MAX_PICKLE", "READER", "read_torch_zip", "storage_of"]

MAX_PICKLE = 256 << 20  # bytes of a stored pickle: it is read in pieces
MAX_PACKED_PICKLE = 16 << 20


def read_torch_zip(source: Source) -> Part:
    """Read the directory and the pickle; no tensor data. Raises FormatError, UnsafeFileError, ReadError."""
    where = printable(source.name)
    entries = read_directory(source)
    root, pickle = _root(entries, where)
    stream: BinaryIO
    if pickle.method == 0:
        if pickle.size > MAX_PICKLE:
            raise FormatError(f"{where}: its pickle takes {pickle.size} bytes, expected at most {MAX_PICKLE}")
        start = data_offset(source, pickle)
        stream, digest = stream_of(source, start, start + pickle.size), digest_of(source, start, start + pickle.size)
    else:
        packed = read_small(source, pickle, MAX_PACKED_PICKLE)
        stream, digest = io.BytesIO(packed), hashlib.sha256(packed).hexdigest()
    outside: dict[str, None] = {}
    content = load_pickle(stream, where, outside=outside)
    unwrapped = unwrap(content, TensorNodes(storage_of), where)
    order = entries.get(f"{root}byteorder")
    byteorder = read_small(source, order, 16).decode("ascii", "replace").strip() if order else "little"
    if byteorder not in {"little", "big"}:
        raise FormatError(f"{where}: its byte order is {printable(byteorder)!r}, expected 'little' or 'big'")

    data = f"{root}data/"
    announce((source, entry.offset, LOCAL_HEADER) for name, entry in entries.items() if name.startswith(data))

    def locate(key: str) -> Region:
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            raise FormatError(
                f"{where}: the storage {printable(key)!r} is missing; the file is damaged: download it again"
            )
        return Region(data_offset(source, entry), entry.size)

    file = CheckpointFile(source.name, source.size, digest)
    return build_part(
        unwrapped, locate, source=source, file=file, format="torch zip", byteorder=byteorder, outside=outside
    )


def _root(entries: dict[str, ZipEntry], where: str) -> tuple[str, ZipEntry]:
    """The folder that data.pkl is in, with its slash; it can have dots, and be empty."""
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickles:
        raise FormatError(f"{where}: {_other_archive(entries)}")
    name = min(pickles, key=lambda name: (name.count("/"), name))
    return name.removesuffix("data.pkl"), entries[name]


def _other_archive(entries: dict[str, ZipEntry]) -> str:
    sizes = {name: entry.size for name, entry in entries.items()}
    return f"is {archive_of('zip', sizes) or 'a zip archive without data.pkl, not a torch file'}"


def storage_of(pid: Any) -> Storage | Unreadable:
    """The storage of a persistent id `('storage', class, key, device, count)`, legacy streams' view data included."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        return Unreadable("a reference to something that is no storage", broken=True)
    key, count = pid[2], pid[4]
    if not isinstance(key, (str, int)) or type(count) is not int or not 0 <= count < 1 << 63:
        return Unreadable("its storage has no key and number of elements", broken=True)
    dtype = storage_dtype(pid[1])
    if isinstance(dtype, Unreadable):
        return dtype
    shift = 0
    if len(pid) == 6 and pid[5] is not None:
        view = pid[5]
        if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
            return Unreadable("its storage is a view without offset and size", broken=True)
        if view[1] + view[2] > count:
            return Unreadable(
                f"its storage is a view of elements {view[1]} to {view[1] + view[2]} of {count}", broken=True
            )
        shift, count = view[1], view[2]
    return Storage(str(key), dtype, count, shift)


def _matches(start: bytes, _size: int) -> bool:
    return start.startswith((b"PK\x03\x04", b"PK\x05\x06"))


READER = Reader("torch zip", _matches, read_torch_zip)
