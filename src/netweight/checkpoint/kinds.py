"""Telling file formats by their first bytes, never by their names."""

from __future__ import annotations

from netweight.checkpoint.safetensors import MAX_HEADER
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["kind_of"]

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
_MAGIC_AS_TEXT = b"L119547037146038801333356L\n."  # torch's magic number in the text protocols of pickle


def kind_of(source: Source) -> str:
    """`safetensors`, `torch zip`, `torch legacy` or `torch tar`; raises FormatError for all else, saying what it is."""
    where = printable(source.name)
    if not source.size:
        raise FormatError(f"{where}: is empty (0 bytes), expected a model; download it again")
    head = bytearray(min(_HEAD, source.size))
    source.read_into(0, memoryview(head))
    start = bytes(head)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "torch zip"
    if start[257:262] == b"ustar":
        return "torch tar"
    if _safetensors_like(start, source.size):
        return "safetensors"
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise FormatError(f"{where}: is {what}")
    if (start[0] == 0x80 and len(start) > 1 and start[1] <= 5) or start.startswith(_MAGIC_AS_TEXT):
        return "torch legacy"
    if start[4:8] == b"TFL3":
        raise FormatError(f"{where}: is a TensorFlow Lite file, which is not supported")
    if source.name.endswith(".safetensors"):
        return "safetensors"  # its reader says best what is wrong
    if start.lstrip()[:1] == b"{":
        raise FormatError(f"{where}: is JSON text, expected a model; name the model's folder or its weight file")
    raise FormatError(
        f"{where}: is no known model file: starts with {start[:8].hex(' ')}; expected safetensors or torch"
    )


def _safetensors_like(start: bytes, size: int) -> bool:
    length = int.from_bytes(start[:8], "little")
    return len(start) > 8 and length <= min(MAX_HEADER, size - 8) and start[8:].lstrip(b" \t\r\n")[:1] in (b"{", b"")
