"""Writing safetensors files: the header first, then the tensors block by block, none of them in memory whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.dtypes import DTYPES, DType
from netweight.errors import OutputError, printable
from netweight.output.exchange import sync_folder

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Block = bytes | bytearray | memoryview | Array

__all__ = ["TensorEntry", "entry_of", "file_size", "header_bytes", "little_endian"]
__all__ += ["write_safetensors", "write_safetensors_blocks"]

_HEADER_CAP = 100_000_000
_NOT_IN_SAFETENSORS = frozenset({"C128"})


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file to be written: its element type and shape."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data; raises ValueError where the elements do not fill whole bytes."""
        return self.dtype.nbytes(prod(self.shape))


def header_bytes(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str] | None = None) -> bytes:
    """Length, JSON and padding spaces: everything that stands before the data, a multiple of 8 bytes.

    Tensors lie in the order of `entries` without gaps, as the format demands, so that they are aligned to their element
    size only where larger element types come first. Raises ValueError for a name, type or size that the format cannot
    hold.
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            raise ValueError("a tensor cannot be named '__metadata__': safetensors keeps that name for the metadata")
        if entry.dtype.name in _NOT_IN_SAFETENSORS:
            raise ValueError(f"tensor {printable(name)!r} is {entry.dtype}, which safetensors does not have")
        start, end = end, end + entry.nbytes
        header[name] = {"dtype": entry.dtype.name, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER_CAP:
        raise ValueError(
            f"the header of {len(entries)} tensors takes {len(text)} bytes; safetensors allows {_HEADER_CAP}"
        )
    return len(text).to_bytes(8, "little") + text


def file_size(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str] | None = None) -> int:
    """Bytes of the whole file that `entries` make."""
    return len(header_bytes(entries, metadata)) + sum(entry.nbytes for entry in entries.values())


def write_safetensors_blocks(
    path: Path,
    entries: Mapping[str, TensorEntry],
    blocks: Iterable[Block],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `path` from `blocks`: the little-endian bytes of all tensors in the order of `entries`, cut anywhere.

    The file appears whole or not at all: it is written to a hidden sibling, synced, then renamed, and an error leaves
    what stood at `path` before. Raises ValueError where the blocks do not add up to the entries, OutputError where the
    disk refuses; what `blocks` itself raises passes through.
    """
    header = header_bytes(entries, metadata)
    expected = sum(entry.nbytes for entry in entries.values())
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    refusals = partial(_as_output_error, path, len(header) + expected)
    with refusals():
        out = part.open("wb", buffering=0)
    try:
        with out:
            with refusals():
                _write_all(out.fileno(), memoryview(header))
            written = 0
            for block in blocks:
                view = _bytes_of(block)
                written += view.nbytes
                if written > expected:
                    break
                with refusals():
                    _write_all(out.fileno(), view)
            if written != expected:
                more = "at least " if written > expected else ""
                raise ValueError(f"the blocks for {path.name} hold {more}{written} bytes; its tensors take {expected}")
            with refusals():
                os.fsync(out.fileno())
        with refusals():
            part.replace(path)
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays of any shape and memory layout, in the order given, as safely as `write_safetensors_blocks`.

    bfloat16 and fp8 arrays are those of ml_dtypes. Raises ValueError for an element type that safetensors lacks.
    """
    entries = {name: entry_of(name, array) for name, array in tensors.items()}
    write_safetensors_blocks(path, entries, map(little_endian, tensors.values()), metadata)


@contextmanager
def _as_output_error(path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise OutputError(
            f"cannot write {printable(str(path))}: {problem.strerror or problem}; {needed} bytes are needed: "
            "check the folder's permissions and free space"
        ) from problem


def entry_of(name: str, array: Array) -> TensorEntry:
    """The entry of an array; raises ValueError for an element type that safetensors lacks."""
    return TensorEntry(_dtype_of(name, array), tuple(array.shape))


def _dtype_of(name: str, array: Array) -> DType:
    wanted = array.dtype.newbyteorder("<")
    for dtype in DTYPES.values():
        if dtype.numpy_name is not None and dtype.to_numpy() == wanted:
            return dtype
    raise ValueError(f"tensor {printable(name)!r} is of numpy type {array.dtype}, which safetensors does not have")


def little_endian(array: Array) -> Array:
    """The array in C order and little-endian, itself where it is so."""
    import numpy as np  # noqa: PLC0415 - headers are written without numpy

    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _bytes_of(block: Block) -> memoryview:
    if isinstance(block, bytes | bytearray | memoryview):
        return memoryview(block).cast("B")
    if not block.flags.c_contiguous:
        raise ValueError(f"a block of shape {block.shape} is not contiguous: its bytes have no order to be written in")
    # ml_dtypes' types have no buffer format of their own, bytes always have
    return block.reshape(-1).view("u1").data


def _write_all(descriptor: int, view: memoryview) -> None:
    # one write() takes at most 2 GiB - 4 KiB on Linux, INT_MAX elsewhere
    while view.nbytes:
        view = view[os.write(descriptor, view[: 1 << 30]) :]
