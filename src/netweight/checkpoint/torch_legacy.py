"""torch.save's stream before 1.6: five pickles (magic, protocol, system, object, storage keys), then raw storages."""

from __future__ import annotations

from typing import Any

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.foreign import JOIN
from netweight.checkpoint.part import Part
from netweight.checkpoint.pickle_nodes import Call, Mapped
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile
from netweight.checkpoint.torch_layout import Region, build_part
from netweight.checkpoint.torch_nodes import TensorNodes, element_width
from netweight.checkpoint.torch_zip import storage_of
from netweight.checkpoint.unpickler import load_pickle
from netweight.checkpoint.unwrap import unwrap
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["READER", "read_torch_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_AS_TEXT = b"L119547037146038801333356L\n."  # in the text protocols of pickle
_PROTOCOL = 1001


def read_torch_legacy(source: Source) -> Part:
    """Read the pickles and the storages' sizes; no tensor data. Raises FormatError, UnsafeFileError, ReadError."""
    where = printable(source.name)
    stream = stream_of(source, 0, source.size)
    first = load_pickle(stream, where)
    if first != _MAGIC:
        raise FormatError(
            f"{where}: is a plain pickle{_of(first)}, expected a file made by torch.save; {_way_on(first)}"
        )
    protocol = load_pickle(stream, where)
    if protocol != _PROTOCOL:
        raise FormatError(f"{where}: its torch protocol is not {_PROTOCOL}, expected a file made by torch.save")
    load_pickle(stream, where)  # sizes of C types on the machine that wrote it: torch itself looks at none of them
    widths: dict[str, int] = {}
    outside: dict[str, None] = {}
    content = load_pickle(stream, where, lambda pid: _remember_width(pid, widths), outside)
    keys = load_pickle(stream, where, outside=outside)
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, (str, int)) for key in keys):
        raise FormatError(f"{where}: has no list of storages after its pickle; the file is damaged")
    data_start = stream.tell()
    regions = _regions(source, [str(key) for key in keys], data_start, widths)
    unwrapped = unwrap(content, TensorNodes(storage_of), where)

    def locate(key: str) -> Region:
        if key not in regions:
            raise FormatError(f"{where}: the storage {printable(key)!r} is not in the file; it is damaged")
        return regions[key]

    file = CheckpointFile(source.name, source.size, digest_of(source, 0, data_start))
    return build_part(unwrapped, locate, source=source, file=file, format="torch legacy", outside=outside)


def _of(content: Any) -> str:
    """What a pickle is of, where that is worth a word."""
    if isinstance(content, Call) and content.of:
        return f" of an object of {printable(content.of)}"
    return " of numpy arrays" if _holds_arrays(content) else ""


def _way_on(content: Any) -> str:
    if isinstance(content, Call) and content.of.startswith("torch.distributed.checkpoint."):
        return JOIN
    if isinstance(content, Call) and content.of.startswith(("sklearn.", "xgboost.", "lightgbm.", "catboost.")):
        return "it is no neural network of torch"
    return "save them with numpy.savez" if _holds_arrays(content) else "save the model with it"


def _holds_arrays(content: Any) -> bool:
    values = [value for _, value in content.pairs[:100]] if isinstance(content, Mapped) else []
    return any(isinstance(value, Call) and value.of.startswith("numpy.") for value in values)


def _remember_width(pid: Any, widths: dict[str, int]) -> None:
    if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[2], (str, int)):
        widths[str(pid[2])] = element_width(pid[1])


def _regions(source: Source, keys: list[str], start: int, widths: dict[str, int]) -> dict[str, Region]:
    """Each storage is its number of elements in 8 bytes, little-endian, and then its data."""
    where = printable(source.name)
    regions: dict[str, Region] = {}
    at = start
    head = bytearray(8)
    for key in keys:
        if at + 8 > source.size:
            raise FormatError(f"{where}: ends at byte {source.size} before storage {printable(key)!r}; it is cut short")
        source.read_into(at, memoryview(head))
        count = int.from_bytes(head, "little", signed=True)
        nbytes = count * widths.get(key, 0)
        if key not in widths or count < 0 or at + 8 + nbytes > source.size:
            raise FormatError(
                f"{where}: storage {printable(key)!r} at byte {at} is said to hold {count} elements, more than it "
                "has or of a type that its pickle does not name; it is cut short or damaged: download it again"
            )
        regions[key] = Region(at + 8, nbytes)
        at += 8 + nbytes
    return regions


def _matches(start: bytes, _size: int) -> bool:
    if start[8:9] == b"{" and start[2:4] != b"\x8a\x0a":
        return False  # the length of a safetensors header
    return (start[0] == 0x80 and len(start) > 1 and start[1] <= 5) or start.startswith(_MAGIC_AS_TEXT)


READER = Reader("torch legacy", _matches, read_torch_legacy)
