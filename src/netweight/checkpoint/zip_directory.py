"""The directory of a zip archive, read in bounded memory, and where its stored entries lie.

The standard library's zipfile takes any number of entries that an archive claims. Layout: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from netweight.checkpoint.byte_stream import stream_of
from netweight.checkpoint.foreign import JOIN
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["LOCAL_HEADER", "ZipEntry", "data_offset", "read_directory", "read_small"]

MAX_ENTRIES = 200_000
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF
_SEVERAL = f"is several zip archives one after the other, as parts of a torch.distributed checkpoint are; {JOIN}"
LOCAL_HEADER = _LOCAL.size
"""Bytes of an entry's own header that say where its data start."""


@dataclass(frozen=True)
class ZipEntry:
    """One file of an archive: `offset` is that of its local header, `method` 0 where it is stored as it is."""

    name: str
    offset: int
    packed: int
    size: int
    method: int
    encrypted: bool


def read_directory(source: Source) -> dict[str, ZipEntry]:
    """The entries by name, in the directory's order; raises FormatError where the archive is damaged."""
    where = printable(source.name)
    count, size, start, end = _end_record(source, where)
    if count > MAX_ENTRIES:
        raise FormatError(f"{where}: a zip archive of {count} entries, expected at most {MAX_ENTRIES}")
    if start + size > source.size:
        raise FormatError(
            f"{where}: its zip directory is said to be at bytes {start} to {start + size} of {source.size}"
        )
    if start + size < end:
        raise FormatError(f"{where}: {_SEVERAL}")
    stream = stream_of(source, start, start + size)
    entries: dict[str, ZipEntry] = {}
    for _ in range(count):
        head = stream.read(_CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02":
            raise FormatError(f"{where}: its zip directory is damaged after {len(entries)} of {count} entries")
        fields = _CENTRAL.unpack(head)
        flags, method, packed, whole = fields[3], fields[4], fields[8], fields[9]
        name = stream.read(fields[10]).decode("utf-8", "replace")
        extra = stream.read(fields[11])
        stream.read(fields[12])
        whole, packed, offset = _wide(extra, whole, packed, fields[16])
        if name in entries:
            raise FormatError(f"{where}: its zip directory holds {printable(name)!r} twice; the archive is damaged")
        entries[name] = ZipEntry(name, offset, packed, whole, method, bool(flags & 1))
    return entries


def _end_record(source: Source, where: str) -> tuple[int, int, int, int]:
    """(entries, bytes, offset) of the directory, and where the record that says so starts."""
    length = min(source.size, (1 << 16) + _END.size)
    tail = bytearray(length)
    source.read_into(source.size - length, memoryview(tail))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise FormatError(f"{where}: a zip archive without its end: the file is cut short; download it again")
    *_, count, size, start, _comment = _END.unpack_from(tail, at)
    end = source.size - length + at
    locator = at - _END64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        end64 = _END64_LOCATOR.unpack_from(tail, locator)[2]
        if end64 + _END64.size > source.size:
            raise FormatError(f"{where}: its zip64 end record is said to be at byte {end64} of {source.size}")
        record = bytearray(_END64.size)
        source.read_into(end64, memoryview(record))
        fields = _END64.unpack(record)
        if fields[0] != b"PK\x06\x06":
            raise FormatError(f"{where}: has no zip64 end record at byte {end64}; the archive is damaged")
        count, size, start = fields[7], fields[8], fields[9]
        end = source.size - length + locator - fields[1] - 12
        if end64 < end:
            raise FormatError(f"{where}: {_SEVERAL}")
    return count, size, start, end


def _wide(extra: bytes, whole: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The 64-bit values of those of the three that do not fit 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            whole = next(values, whole) if whole == _FULL else whole
            packed = next(values, packed) if packed == _FULL else packed
            offset = next(values, offset) if offset == _FULL else offset
        at += 4 + length
    return whole, packed, offset


def data_offset(source: Source, entry: ZipEntry, writer: str = "torch.save") -> int:
    """Where the bytes of an entry start that `writer` stores as it is; raises FormatError where it is packed, encrypted
    or out of the file.
    """
    where = f"{printable(source.name)}: entry {printable(entry.name)!r}"
    if entry.encrypted:
        raise FormatError(f"{where}: is encrypted; unpack the archive and save the model again")
    if entry.method != 0 or entry.packed != entry.size:
        raise FormatError(
            f"{where}: is compressed, expected tensors stored as they are, as {writer} does; save the model again"
        )
    return _start_of(source, entry, where)


def _start_of(source: Source, entry: ZipEntry, where: str) -> int:
    if entry.offset + _LOCAL.size > source.size:
        raise FormatError(f"{where}: is said to start at byte {entry.offset} of {source.size}; the file is cut short")
    head = bytearray(_LOCAL.size)
    source.read_into(entry.offset, memoryview(head))
    fields = _LOCAL.unpack(head)
    if fields[0] != b"PK\x03\x04":
        raise FormatError(f"{where}: has no header at byte {entry.offset}; the archive is damaged")
    start: int = entry.offset + _LOCAL.size + fields[9] + fields[10]
    if start + entry.packed > source.size:
        raise FormatError(
            f"{where}: bytes {start} to {start + entry.packed} are beyond the end, {source.size}; the file is cut short"
        )
    return start


def read_small(source: Source, entry: ZipEntry, limit: int) -> bytes:
    """The content of an entry of at most `limit` bytes, unpacked if need be; raises FormatError where it is larger."""
    where = f"{printable(source.name)}: entry {printable(entry.name)!r}"
    if entry.size > limit or entry.packed > limit:
        raise FormatError(f"{where}: {max(entry.size, entry.packed)} bytes, expected at most {limit}")
    if entry.encrypted or entry.method not in (0, 8):
        raise FormatError(f"{where}: is packed by method {entry.method} or encrypted; save the model again")
    data = bytearray(entry.packed)
    source.read_into(_start_of(source, entry, where), memoryview(data))
    if entry.method == 0:
        return bytes(data)
    try:
        unpacker = zlib.decompressobj(-15)
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as problem:
        raise FormatError(f"{where}: is damaged: {printable(str(problem))}") from None
    if len(unpacked) > limit or unpacker.unconsumed_tail:
        raise FormatError(f"{where}: unpacks to more than the {limit} bytes allowed")
    return unpacked
