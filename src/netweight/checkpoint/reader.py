"""What a reader of a file format declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netweight.checkpoint.part import Part
from netweight.source.protocol import Source

__all__ = ["Reader"]


@dataclass(frozen=True)
class Reader:
    """One format: its `name`, as in Checkpoint.format, and how a file of it is told and read.

    `matches` gets a file's first 512 bytes, or all of a shorter one, and its size in bytes. `read` makes a Part of a
    file that matches, from its header: no tensor data is read; it raises FormatError, UnsafeFileError and ReadError.
    `endings`: names of files that are taken from a folder where it holds no safetensors or torch files.
    """

    name: str
    matches: Callable[[bytes, int], bool]
    read: Callable[[Source], Part]
    endings: tuple[str, ...] = ()
