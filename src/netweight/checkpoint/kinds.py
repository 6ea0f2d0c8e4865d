"""Readers, and which of them a file is for: told by its first bytes, never by its name.

Adding a reader is a file in this folder, which ends with its `READER`, and the file's name here.
"""

from __future__ import annotations

from importlib import import_module

from netweight.checkpoint.reader import Reader
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["READERS", "reader_of"]

_FILES = (
    "torch_zip",
    "torch_tar",
    "safetensors",
    "torch_legacy",
)

READERS: dict[str, Reader] = {
    reader.name: reader for file in _FILES if (reader := import_module(f"netweight.checkpoint.{file}").READER)
}
"""Every reader by its format's name, in the order in which they are asked whether a file is theirs."""

_HEAD = 512
_FOREIGN = [
    (b"GGUF", "a GGUF file, which is not supported"),
    (b"ggjt", "a GGML file, which is not supported"),
    (b"lmgg", "a GGML file, which is not supported"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file, which is not supported"),
    (b"\x93NUMPY", "a numpy array, which is not supported"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: run `git lfs pull` in its folder"),
    (b"<!DOCTYPE", "an HTML page, not a model: the download failed"),
    (b"<html", "an HTML page, not a model: the download failed"),
    (b"\x08\x03\x12", "an ONNX file, which is not supported"),
    (b"\x08\x07\x12", "an ONNX file, which is not supported"),
    (b"\x08\x08\x12", "an ONNX file, which is not supported"),
]


def reader_of(source: Source) -> Reader:
    """The reader of this file; raises FormatError for a format that has none, saying what it is."""
    where = printable(source.name)
    if not source.size:
        raise FormatError(f"{where}: is empty (0 bytes), expected a model; download it again")
    head = bytearray(min(_HEAD, source.size))
    source.read_into(0, memoryview(head))
    start = bytes(head)
    for reader in READERS.values():
        if reader.matches(start, source.size):
            return reader
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise FormatError(f"{where}: is {what}")
    if start[4:8] == b"TFL3":
        raise FormatError(f"{where}: is a TensorFlow Lite file, which is not supported")
    if source.name.endswith(".safetensors"):
        return READERS["safetensors"]  # it says best what is wrong
    if start.lstrip()[:1] == b"{":
        raise FormatError(f"{where}: is JSON text, expected a model; name the model's folder or its weight file")
    raise FormatError(
        f"{where}: is no known model file: starts with {start[:8].hex(' ')}; expected safetensors or torch"
    )
