"""Readers, and which of them a file is for: told by its first bytes. By its name only one thing is told: a file called
.safetensors is read as that or not at all.

Adding a reader is a file in this folder, which ends with its `READER`, and the file's name here.
"""

from __future__ import annotations

from importlib import import_module

from netweight.checkpoint.foreign import JOIN, named_like, what_is
from netweight.checkpoint.reader import Reader
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["READERS", "reader_of"]

_FILES = (
    "npz",
    "torch_zip",
    "torch_tar",
    "safetensors",
    "torch_legacy",
    "gguf.reader",
)

READERS: dict[str, Reader] = {
    reader.name: reader for file in _FILES if (reader := import_module(f"netweight.checkpoint.{file}").READER)
}
"""Every reader by its format's name, in the order in which they are asked whether a file is theirs."""

_HEAD = 512


def reader_of(source: Source) -> Reader:
    """The reader of this file; raises FormatError for a format that has none, saying what it is."""
    where = printable(source.name)
    if not source.size:
        raise FormatError(f"{where}: is empty (0 bytes), expected a model; download it again")
    head = bytearray(min(_HEAD, source.size))
    source.read_into(0, memoryview(head))
    start = bytes(head)
    if source.name.endswith(".distcp"):  # a part may pass for a zip archive with one tensor
        raise FormatError(f"{where}: is a part of a torch.distributed checkpoint, which is not supported: {JOIN}")
    fitting = [reader for reader in READERS.values() if reader.matches(start, source.size)]
    if fitting:
        return _the_one(fitting, source.name)
    what = what_is(start, source)
    if what:
        raise FormatError(f"{where}: is {what}")
    if source.name.endswith(".safetensors"):
        return READERS["safetensors"]  # it says best what is wrong
    if start.lstrip()[:1] == b"{" and b"\0" not in start:
        raise FormatError(f"{where}: is JSON text, expected a model; name the model's folder or its weight file")
    like = named_like(source.name)
    raise FormatError(
        f"{where}: is no known model file: starts with {start[:8].hex(' ')}; expected safetensors, torch, GGUF or npz"
        + (f"; it is named like {like}" if like else "")
    )


def _the_one(fitting: list[Reader], name: str) -> Reader:
    """The reader of a file that these take by its first bytes; raises FormatError where two would read other values."""
    names = [reader.name for reader in fitting]
    if name.endswith(".safetensors"):
        if "safetensors" in names:
            return READERS["safetensors"]  # as the safetensors package reads it, whatever else it may be
        raise FormatError(
            f"{printable(name)}: is no safetensors file, though its name says so, but a file of the format {names[0]};"
            " give it the name that it should have"
        )
    if len(fitting) > 1 and names != ["npz", "torch zip"]:  # an archive that begins with an array is of numpy
        raise FormatError(
            f"{printable(name)}: could be {' or '.join(names)}, which would be other tensors; expected one format: if"
            " it is a safetensors file, let its name end in .safetensors"
        )
    return fitting[0]
