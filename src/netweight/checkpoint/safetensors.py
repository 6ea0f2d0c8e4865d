"""safetensors headers: an 8-byte length, JSON, data. Accepts exactly the files that the safetensors package accepts."""

from __future__ import annotations

import hashlib
import re
from array import array

from netweight.checkpoint.jsontext import JsonCursor, JsonError
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.table import Kinds, TensorTable
from netweight.checkpoint.tensor import CheckpointFile
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["MAX_HEADER", "READER", "read_safetensors"]

MAX_HEADER = 100_000_000  # bytes; the package's own limit
_LIMIT = 1 << 64
_OVERFLOW = _LIMIT - 1  # stands for any number of bits that the package cannot count
_DTYPES = {name: dtype for name, dtype in DTYPES.items() if name != "C128"}
_N = r"(?:0|[1-9][0-9]{0,17})"
_W = r"[ \t\n\r]*"
_USUAL = re.compile(  # an entry as every writer writes it, with the comma before it: no cursor needed
    rf'{_W}(,?){_W}"([^"\\\x00-\x1f]*)"{_W}:{_W}\{{{_W}"dtype"{_W}:{_W}"([A-Z0-9_]+)"{_W},{_W}"shape"{_W}:{_W}'
    rf'\[([0-9, \t\n\r]{{0,300}})\]{_W},{_W}"data_offsets"{_W}:{_W}\[{_W}({_N}){_W},{_W}({_N}){_W}\]{_W}\}}'
)
_SHAPE = re.compile(rf"{_W}(?:{_N}(?:{_W},{_W}{_N})*{_W})?")


def read_safetensors(source: Source) -> Part:
    """Read and check the header of `source`; no tensor data is read.

    Raises FormatError where the safetensors package would refuse the file too, ReadError where it cannot be read.
    """
    text, digest, start = _header_text(source)
    where = printable(source.name)
    entries = _Entries()
    try:
        _parse(JsonCursor(text), entries)
    except JsonError as problem:
        raise FormatError(f"{where}: its header is not valid: {problem}; download the file again") from None
    del text
    order = entries.in_file_order()
    _check_layout(entries, order, where, source.size - start)
    offsets = array("Q", (begin + start for begin in entries.begin))
    rows = entries.rows
    if not isinstance(order, range):
        names = list(rows)
        rows = {names[row]: row for row in order}
    table = TensorTable(rows, offsets, entries.kind, entries.kinds, source)
    notes = tuple(
        f"{where}: names tensor {printable(name)!r} more than once; the last one counts" for name in entries.twice
    )
    file = CheckpointFile(source.name, source.size, digest)
    return Part("safetensors", source, file, table, metadata=entries.metadata, notes=notes)


def _header_text(source: Source) -> tuple[str, str, int]:
    where = printable(source.name)
    if source.size < 8:
        raise FormatError(f"{where}: {source.size} bytes, expected at least the 8 of a safetensors header length")
    prefix = bytearray(8)
    source.read_into(0, memoryview(prefix))
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise FormatError(f"{where}: says that its header takes {length} bytes, expected at most {MAX_HEADER}")
    if length > source.size - 8:
        raise FormatError(
            f"{where}: says that its header takes {length} bytes, but only {source.size - 8} follow; "
            "the file is cut short: download it again"
        )
    header = bytearray(length)
    source.read_into(8, memoryview(header))
    try:
        text = str(header, "utf-8")
    except UnicodeDecodeError as problem:
        raise FormatError(f"{where}: its header is not UTF-8 at byte {8 + problem.start}") from None
    return text, hashlib.sha256(header).hexdigest(), 8 + length


class _Entries:
    """The header's tensors in columns, in the header's order; a name given again replaces its row."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.kinds = Kinds()
        self.kind = array("I")
        self.begin = array("Q")
        self.end = array("Q")
        self.twice: list[str] = []
        self.metadata: dict[str, str] = {}

    def put(self, name: str, kind: int, begin: int, end: int) -> None:
        row = self.rows.setdefault(name, len(self.begin))
        if row == len(self.begin):
            self.kind.append(kind)
            self.begin.append(begin)
            self.end.append(end)
            return
        if len(self.twice) < 100:
            self.twice.append(name)
        self.kind[row], self.begin[row], self.end[row] = kind, begin, end

    def in_file_order(self) -> range | list[int]:
        begin, end = self.begin, self.end
        rows = range(len(begin))
        if all(begin[i] <= begin[i + 1] and end[i] <= end[i + 1] for i in range(len(begin) - 1)):
            return rows
        return sorted(rows, key=lambda row: (begin[row] << 64) + end[row])


def _parse(cursor: JsonCursor, entries: _Entries) -> None:
    cursor.expect("{")
    cursor.peek()
    first = True
    texts: dict[str, dict[str, int]] = {name: {} for name in _DTYPES}  # kinds by dtype and the shape as it is written
    seen_metadata = False
    match, text = _USUAL.match, cursor.text
    while True:
        usual = match(text, cursor.position)
        if usual:
            comma, name, dtype, shape_text, begin, end = usual.groups()
            kind = texts[dtype].get(shape_text) if dtype in texts else None
            if kind is None and dtype in texts and _SHAPE.fullmatch(shape_text):
                shape = tuple(map(int, shape_text.split(","))) if shape_text.strip() else ()
                kind = entries.kinds.number(dtype, shape)
                if len(texts[dtype]) < 10_000:
                    texts[dtype][shape_text] = kind
            if kind is not None and (not comma) == first and name != "__metadata__":
                entries.put(name, kind, int(begin), int(end))
                cursor.position = usual.end()
                first = False
                continue
        if not cursor.more("}", first=first):
            break
        first = False
        name = cursor.string()
        cursor.expect(":")
        if name == "__metadata__":
            if seen_metadata:
                raise JsonError("'__metadata__' is there twice")
            seen_metadata = True
            _parse_metadata(cursor, entries)
            continue
        try:
            _parse_tensor(cursor, entries, name)
        except JsonError as problem:
            raise JsonError(f"tensor {printable(name)!r}: {problem}") from None
    if cursor.peek():
        raise cursor.fail("nothing more")


def _parse_metadata(cursor: JsonCursor, entries: _Entries) -> None:
    if cursor.null():
        return
    for key in cursor.members():
        entries.metadata[key] = cursor.string()


def _parse_tensor(cursor: JsonCursor, entries: _Entries, name: str) -> None:
    """One tensor's entry with anything that the package takes: other orders, unknown keys, an array of the three."""
    fields: dict[str, object] = {}
    if cursor.take("["):
        for key in ("dtype", "shape", "data_offsets"):
            if fields:
                cursor.expect(",")
            fields[key] = _parse_field(cursor, key)
        cursor.expect("]")
    else:
        for key in cursor.members():
            if key not in {"dtype", "shape", "data_offsets"}:
                cursor.skip(2)
            elif key in fields:
                raise JsonError(f"{key!r} is there twice")
            else:
                fields[key] = _parse_field(cursor, key)
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and isinstance(shape, tuple) and isinstance(offsets, tuple)):
        missing = [key for key in ("dtype", "shape", "data_offsets") if key not in fields]
        raise JsonError(f"has no {' and no '.join(missing)}")
    if len(offsets) != 2:
        raise JsonError(f"data_offsets holds {len(offsets)} numbers, expected 2")
    entries.put(name, entries.kinds.number(dtype, shape), offsets[0], offsets[1])


def _parse_field(cursor: JsonCursor, key: str) -> str | tuple[int, ...]:
    if key != "dtype":
        return cursor.unsigneds()
    wrapped = cursor.take("{")  # {"F32": null} is the long form of "F32" to the package
    name = cursor.string()
    if wrapped:
        cursor.expect(":")
        if not cursor.null():
            raise cursor.fail("null")
        cursor.expect("}")
    if name not in _DTYPES:
        raise JsonError(f"dtype {printable(name)!r} is unknown, expected one of {', '.join(_DTYPES)}")
    return name


def _check_layout(entries: _Entries, order: range | list[int], where: str, data_size: int) -> None:
    """Offsets must start at 0, be gapless in order, equal shape x bits / 8, and end at the end of the file."""
    kinds = entries.kinds
    bits = array("Q", (_bits(kinds.shape(kind), _DTYPES[kinds.dtype(kind)].bits) for kind in range(len(kinds))))
    at = 0
    for row in order:
        begin, end, total = entries.begin[row], entries.end[row], bits[entries.kind[row]]
        if begin == at <= end and total != _OVERFLOW and total == (end - begin) * 8:
            at = end
            continue
        kind = entries.kind[row]
        tensor = f"{where}: tensor {printable(list(entries.rows)[row])!r}"
        shape = f"shape {printable(str(list(kinds.shape(kind))))} of {kinds.dtype(kind)}"
        span = f"data_offsets [{begin}, {end}]"
        if begin != at or end < begin:
            raise FormatError(f"{tensor}: {span}, expected to start at {at} and not to end before")
        if total == _OVERFLOW:
            raise FormatError(f"{tensor}: {shape} is more than 2**64 bits")
        if total % 8:
            raise FormatError(f"{tensor}: {shape} is {total} bits, expected whole bytes")
        raise FormatError(f"{tensor}: {span} hold {end - begin} bytes, but {shape} takes {total // 8}")
    if at != data_size:
        raise FormatError(
            f"{where}: its header describes {at} bytes of data, but {data_size} follow it; "
            + ("the file is cut short: download it again" if at > data_size else "the rest belongs to no tensor")
        )


def _bits(shape: tuple[int, ...], bits: int) -> int:
    """Bits of `shape`; _OVERFLOW where a partial product passes 2**64 (as the package counts it, from the left)."""
    count = 1
    for n in (*shape, bits):
        count *= n
        if count >= _LIMIT:
            return _OVERFLOW
    return count


def _matches(start: bytes, size: int) -> bool:
    length = int.from_bytes(start[:8], "little")
    return len(start) > 8 and length <= min(MAX_HEADER, size - 8) and start[8:].lstrip(b" \t\r\n")[:1] in (b"{", b"")


READER = Reader("safetensors", _matches, read_safetensors)
