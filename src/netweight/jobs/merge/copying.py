"""Small files of a model, copied as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from netweight.checkpoint.vocabulary import MAX_TOKENIZER
from netweight.errors import InputError, printable

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place

__all__ = ["check_there", "copy_file", "shown"]

_BLOCK = 1 << 20


def copy_file(folder: Place, name: str, target: Path, largest: int | None = None) -> None:
    """Raises InputError for what is no regular file inside of `folder`, or is larger than `largest` bytes."""
    limit = MAX_TOKENIZER if largest is None else largest
    check_there(folder, name)
    source = folder.open(name)
    if source.size > limit:
        raise InputError(f"{printable(folder.path(name), 300)}: {source.size} bytes, expected at most {limit}")
    target.parent.mkdir(exist_ok=True)
    buffer = memoryview(bytearray(min(_BLOCK, source.size)))
    try:
        with target.open("wb") as out:
            for start in range(0, source.size, _BLOCK):
                view = buffer[: source.size - start]
                source.read_into(start, view)
                out.write(view)
        source.check_unchanged()
    finally:
        source.close()


def check_there(folder: Place, name: str) -> None:
    """Raises InputError for a link that leads to nothing."""
    if not folder.has(name):
        raise InputError(f"{printable(folder.path(name), 300)}: is a link that leads to nothing")


def shown(folder: Place) -> str:
    """The folder's path or URL, for messages."""
    return printable(folder.label, 300)
