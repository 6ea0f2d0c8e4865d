"""GGUF files: tensors under the names that the file gives them. What they are called on the hub: see `hub.py`."""

from __future__ import annotations

from math import prod

from netweight.checkpoint.gguf.header import Header, Info, Omitted, read_header
from netweight.checkpoint.gguf.types import PLAIN, TYPES, BlockType
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile, Tensor
from netweight.checkpoint.tensors.blocks import BlockTensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["READER", "read_gguf"]

_MAX_BYTES = 1 << 63
_FORK = {42: BlockType("Q2_0", 128, 34)}
"""Types that a fork numbers alike and lays out in another way (Q2_0 of PrismML)."""
_NO_MODELS = {"imatrix": "an importance matrix", "vocab": "a vocabulary"}


def read_gguf(source: Source) -> Part:
    """Read and check the header; no tensor data. Raises FormatError, ReadError.

    Every tensor lies inside the file and shares no byte with another, or this is no model.
    """
    header = read_header(source)
    types, notes = TYPES, tuple[str, ...]()
    spans = _spans(header, types)
    if any(info.kind in _FORK for info in header.tensors):
        other = _spans(header, TYPES | _FORK)
        if _fit(other, header.alignment) and _fit(spans, header.alignment):
            notes = (f"{printable(source.name)}: Q2_0 is read in blocks of 64 as ggml has it; of 128 would fit too",)
        elif _fit(other, header.alignment):
            types, spans = TYPES | _FORK, other
    notes += _check(source, header, spans)
    tensors = {info.name: _tensor(source, header.data, info, types) for info in header.tensors}
    kind = header.fields.get("general.type")
    metadata = {key: str(value) for key, value in header.fields.items() if not isinstance(value, (Omitted, tuple))}
    return Part(
        "gguf",
        source,
        CheckpointFile(source.name, source.size, header.digest),
        tensors if kind not in _NO_MODELS else {},
        metadata=metadata,
        notes=notes,
        fields=header.fields,
        instead=_NO_MODELS.get(kind, "") if isinstance(kind, str) else "",
    )


def _size(info: Info, types: dict[int, BlockType]) -> int:
    """Bytes that it takes; -1 where its rows are no whole blocks."""
    count = prod(info.shape)
    if info.kind in PLAIN:
        return count * DTYPES[PLAIN[info.kind]].bits // 8
    row = info.shape[-1] if info.shape else 1
    return -1 if row % types[info.kind].numbers else count // types[info.kind].numbers * types[info.kind].size


def _spans(header: Header, types: dict[int, BlockType]) -> list[tuple[int, int, Info]]:
    """(first byte, number of bytes, tensor), in the order of the data."""
    spans = [(info.offset, _size(info, types), info) for info in header.tensors]
    return sorted(spans, key=lambda span: span[:2])


def _fit(spans: list[tuple[int, int, Info]], alignment: int) -> bool:
    """Whether every tensor begins where the one before it ends, up to alignment."""
    at = 0
    for offset, size, _ in spans:
        if offset != at or size < 0:
            return False
        at = -(-(offset + size) // alignment) * alignment
    return True


def _check(source: Source, header: Header, spans: list[tuple[int, int, Info]]) -> tuple[str, ...]:
    where = printable(source.name)
    end = hidden = 0
    for offset, size, info in spans:
        tensor = f"{where}: tensor {printable(info.name)!r}"
        shape = printable(str(list(info.shape)))
        if size < 0:
            block = TYPES[info.kind]
            raise FormatError(
                f"{tensor}: shape {shape} of {block.name}, expected rows of whole blocks of {block.numbers}"
            )
        if max(size, 8 * prod(n for n in info.shape if n)) >= _MAX_BYTES:  # numpy's limit, without elements too
            raise FormatError(f"{tensor}: shape {shape} is more than 2**63 bytes")
        if offset % header.alignment:
            raise FormatError(f"{tensor}: begins at {offset} of the data, expected a multiple of {header.alignment}")
        if size and offset < end:
            raise FormatError(
                f"{tensor}: begins at {offset} of the data, where another ends at {end}; expected its own bytes"
            )
        if header.data + offset + size > source.size:
            raise FormatError(
                f"{tensor}: ends at byte {header.data + offset + size}, but the file has {source.size}; it is cut"
                " short: download it again"
            )
        hidden += max(0, offset - -(-end // header.alignment) * header.alignment)
        end = max(end, offset + size)
    hidden += max(0, source.size - (-(-(header.data + end) // header.alignment) * header.alignment))
    return (f"{where}: {hidden} bytes belong to no tensor",) if hidden else ()


def _tensor(source: Source, data: int, info: Info, types: dict[int, BlockType]) -> Tensor:
    if info.kind in PLAIN:
        return StoredTensor(info.name, info.shape, DTYPES[PLAIN[info.kind]], source, data + info.offset)
    name, numbers, size = types[info.kind]
    blocks = StoredTensor(info.name, (_size(info, types),), DTYPES["U8"], source, data + info.offset)
    return BlockTensor(info.name, info.shape, DTYPES["F32"], blocks, name, numbers, size)


def _matches(start: bytes, _size: int) -> bool:
    return start.startswith(b"GGUF")


READER = Reader("gguf", _matches, read_gguf, (".gguf",))
