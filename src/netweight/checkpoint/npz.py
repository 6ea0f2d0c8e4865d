"""numpy's archives (`numpy.savez`, `mlx.core.savez`): a zip of `.npy` files, stored as they are and read in place.

The headers are those of numpy/lib/format.py, versions 1 to 3. A header is matched as text and never evaluated.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.strided import is_c_order
from netweight.checkpoint.tensor import CheckpointFile, Skipped, Tensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.checkpoint.zip_directory import LOCAL_HEADER, ZipEntry, data_offset, read_directory
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source
from netweight.source.remote import announce

__all__ = ["MAX_NPY_HEADER", "READER", "read_npz"]

MAX_NPY_HEADER = 64 << 10  # bytes
_USUAL = 256  # bytes of a header that are read at once
_MAX_DIMENSIONS = 64
_DTYPES = {
    "f2": "F16", "f4": "F32", "f8": "F64", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16",
    "u4": "U32", "u8": "U64", "b1": "BOOL", "c8": "C64", "c16": "C128", "V2": "BF16",
}  # fmt: skip
_REASONS = {
    "O": "an array of Python objects, which are pickled and not read",
    "U": "an array of text, not of numbers",
    "S": "an array of text, not of numbers",
    "M": "an array of dates, not of numbers",
    "m": "an array of times, not of numbers",
}
_ENTRY = re.compile(
    r"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?:(['"])(?P<text>[^'"\\]{1,64})\3|(?P<flag>True|False)|\((?P<sizes>[0-9,L\s]{0,2000})\)|(?P<list>\[))\s*"""
)
_SIZE = re.compile(r"\s*([0-9]{1,19})L?\s*")


@dataclass(frozen=True)
class _Header:
    """What an .npy header says: `descr` is numpy's name of the type, None where the array has fields."""

    descr: str | None
    fortran: bool = False
    shape: tuple[int, ...] = ()


def read_npz(source: Source) -> Part:
    """Read the directory and the arrays' headers; no data. Raises FormatError, ReadError."""
    where = printable(source.name)
    entries = [entry for name, entry in read_directory(source).items() if not name.endswith("/")]
    announce((source, entry.offset, LOCAL_HEADER + len(entry.name) + _USUAL) for entry in entries)
    digest = hashlib.sha256()
    tensors: list[Tensor] = []
    skipped: list[Skipped] = []
    spans: list[tuple[int, int, str]] = []
    untyped = beyond = 0
    for entry in entries:
        name = entry.name.removesuffix(".npy")
        if name == entry.name:
            skipped.append(Skipped(name, "not a numpy array (.npy)"))
            continue
        start = data_offset(source, entry, "numpy.savez")
        spans.append((entry.offset, start + entry.size, entry.name))
        text, length = _header_text(source, entry, start)
        digest.update(f"{len(entry.name)} {entry.name} {text}".encode("utf-8", "surrogateescape"))
        header = _parse(text, f"{where}: array {printable(name)!r}")
        found = _tensor(source, name, header, start + length, entry.size - length)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        tensors.append(found)
        untyped += header.descr is not None and header.descr.endswith("V2")
        beyond += entry.size - length - found.nbytes
    _check_apart(where, spans)
    return Part(
        "npz",
        source,
        CheckpointFile(source.name, source.size, digest.hexdigest()),
        {tensor.name: tensor for tensor in tensors},
        skipped=tuple(skipped),
        notes=tuple(_notes(where, untyped, beyond)),
    )


def _notes(where: str, untyped: int, beyond: int) -> Iterable[str]:
    if untyped:
        yield f"{where}: {untyped} arrays of two-byte elements without a type (V2) are read as bfloat16, as MLX does"
    if beyond:
        yield f"{where}: {beyond} bytes behind its arrays belong to none (hidden bytes)"


def _header_text(source: Source, entry: ZipEntry, start: int) -> tuple[str, int]:
    """The header's dict, and how many bytes lie before the data."""
    where = f"{printable(source.name)}: array {printable(entry.name.removesuffix('.npy'))!r}"
    head = bytearray(min(_USUAL, entry.size))
    source.read_into(start, memoryview(head))
    if len(head) < 10 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise FormatError(f"{where}: has no header of an .npy file of version 1 to 3; the archive is damaged")
    before = 10 if head[6] == 1 else 12
    length = struct.unpack_from("<H" if head[6] == 1 else "<I", head.ljust(12, b"\0"), 8)[0]
    if length > MAX_NPY_HEADER:
        raise FormatError(f"{where}: its header takes {length} bytes, expected at most {MAX_NPY_HEADER}")
    if before + length > entry.size:
        raise FormatError(f"{where}: its header of {length} bytes is cut short; the archive is damaged")
    if before + length > len(head):
        head = bytearray(before + length)
        source.read_into(start, memoryview(head))
    content = bytes(head[before : before + length])
    return content.decode("utf-8" if head[6] == 3 else "latin-1", "replace"), before + length


def _parse(text: str, where: str) -> _Header:
    """The header from its dict of three entries, in any order."""
    values: dict[str, re.Match[str]] = {}
    at = text.find("{") + 1
    end = text.rstrip().removesuffix("}").rstrip().removesuffix(",")
    while at and at < len(end):
        match = _ENTRY.match(end, at)
        if match is None or match[2] in values:
            break
        values[match[2]] = match
        if match[2] == "descr" and match["list"]:
            return _Header(None)
        at = match.end() + 1
        if match.end() < len(end) and end[match.end()] != ",":
            break
    complete = len(values) == 3 and at >= len(end) and text.rstrip().endswith("}")
    if not complete or None in (values["descr"]["text"], values["fortran_order"]["flag"], values["shape"]["sizes"]):
        raise FormatError(
            f"{where}: its header is {printable(text.strip(), 80)!r}, expected a dict of descr, fortran_order and"
            " shape; the archive is damaged"
        )
    sizes = [part for part in values["shape"]["sizes"].split(",") if part.strip()]
    matches = [_SIZE.fullmatch(part) for part in sizes]
    shape = tuple(int(match[1]) for match in matches if match is not None)
    if len(shape) != len(sizes) or len(shape) > _MAX_DIMENSIONS or prod(shape) >= 1 << 63:
        raise FormatError(
            f"{where}: its shape is ({printable(values['shape']['sizes'], 80)}), expected at most {_MAX_DIMENSIONS}"
            " sizes that a file can have; the archive is damaged"
        )
    return _Header(values["descr"]["text"], values["fortran_order"]["flag"] == "True", shape)


def _tensor(source: Source, name: str, header: _Header, offset: int, room: int) -> StoredTensor | Skipped:
    """The array whose data start at `offset`, `room` bytes at most."""
    if header.descr is None:
        return Skipped(name, "an array of several fields, which is not read")
    kind = header.descr.lstrip("<>|=")
    dtype = DTYPES.get(_DTYPES.get(kind, ""))
    if dtype is None:
        reason = _REASONS.get(kind[:1], f"elements of the type {printable(header.descr, 40)}, which is not read")
        return Skipped(name, reason)
    needed = prod(header.shape) * dtype.bits // 8
    if needed > room:
        raise FormatError(
            f"{printable(source.name)}: array {printable(name)!r}: shape {list(header.shape)} of {dtype} takes {needed}"
            f" bytes, and it has {room}; the file is cut short"
        )
    order = "big" if header.descr.startswith(">") else "little"
    return StoredTensor(name, header.shape, dtype, source, offset, _strides(header), None, order)


def _strides(header: _Header) -> tuple[int, ...] | None:
    """Of an array in Fortran order, in elements; None where that is C order too."""
    if not header.fortran:
        return None
    strides = tuple(prod(header.shape[:axis]) for axis in range(len(header.shape)))
    return None if is_c_order(header.shape, strides) else strides


def _check_apart(where: str, spans: list[tuple[int, int, str]]) -> None:
    """Raises FormatError where two entries share bytes."""
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise FormatError(
                f"{where}: entries {printable(name)!r} and {printable(other)!r} overlap: one ends at byte {end}, the"
                f" other starts at {start}; the archive is damaged"
            )


def _matches(start: bytes, _size: int) -> bool:
    length = int.from_bytes(start[26:28], "little")
    return start.startswith(b"PK\x03\x04") and start[30 : 30 + length].endswith(b".npy")


READER = Reader("npz", _matches, read_npz, endings=(".npz",))
