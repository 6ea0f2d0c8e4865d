"""Index files of sharded checkpoints, and shards joined; where the two differ, the shards' headers count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from netweight.checkpoint.byte_stream import read_whole
from netweight.checkpoint.jsontext import JsonCursor, JsonError
from netweight.checkpoint.part import Part
from netweight.checkpoint.place import LocalPlace, Place, check_inside
from netweight.checkpoint.table import JoinedTables
from netweight.checkpoint.tensor import Tensor
from netweight.errors import FormatError, UnsafeFileError, printable

__all__ = ["Index", "check_inside", "check_shard_name", "join", "listed", "read_index", "read_index_of"]

MAX_INDEX = 100_000_000  # bytes
MAX_ENTRIES = 2_000_000
MAX_SHARDS = 100_000
_TEXT = r'"([^"\\\x00-\x1f]*)"'
_USUAL = re.compile(rf"[ \t\n\r]*(,?)[ \t\n\r]*{_TEXT}[ \t\n\r]*:[ \t\n\r]*{_TEXT}")  # an entry without escapes


@dataclass(frozen=True)
class Index:
    """`weight_map` of an index file: tensor name -> shard, a path below the index's folder; `total_size` in bytes.
    `path` is the whole path or URL, `name` its last part.
    """

    name: str
    path: str
    weight_map: dict[str, str]
    total_size: int | None

    @property
    def shards(self) -> list[str]:
        """The shards' names, sorted."""
        return sorted(set(self.weight_map.values()))


def read_index(path: Path) -> Index:
    """Read and check an index; raises FormatError, or UnsafeFileError where a shard's name leaves the folder."""
    return read_index_of(LocalPlace(path.parent), path.name)


def read_index_of(place: Place, name: str) -> Index:
    """`read_index` of the file `name` in `place`."""
    path = place.path(name)
    where = printable(path)
    source = place.open(name)
    if source.size > MAX_INDEX:
        raise FormatError(
            f"{where}: {source.size} bytes, expected at most {MAX_INDEX}; name the shards' folder without it"
        )
    try:
        text = str(read_whole(source), "utf-8")
        weight_map, total_size = _parse(JsonCursor(text))
    except UnicodeDecodeError as problem:
        raise FormatError(f"{where}: is not UTF-8 at byte {problem.start}") from None
    except JsonError as problem:
        raise FormatError(f"{where}: is not a valid index: {problem}") from None
    if not weight_map:
        raise FormatError(f"{where}: its weight_map lists no tensors; expected tensor names and their shards")
    shards = set(weight_map.values())
    if len(shards) > MAX_SHARDS:
        raise FormatError(f"{where}: names {len(shards)} shards, expected at most {MAX_SHARDS}")
    for shard in shards:
        check_shard_name(where, shard)
    return Index(name, path, weight_map, total_size)


def _parse(cursor: JsonCursor) -> tuple[dict[str, str], int | None]:
    weight_map: dict[str, str] = {}
    total: int | None = None
    for key in cursor.members():
        if key == "weight_map":
            _parse_weight_map(cursor, weight_map)
        elif key == "metadata" and cursor.peek() == "{":
            total = _total_size(cursor)
        else:
            cursor.skip(1)
    if cursor.peek():
        raise cursor.fail("nothing more")
    return weight_map, total


def _parse_weight_map(cursor: JsonCursor, weight_map: dict[str, str]) -> None:
    shards: dict[str, str] = {}  # a hundred names for a million tensors: one string each
    cursor.expect("{")
    first = True
    while True:
        usual = _USUAL.match(cursor.text, cursor.position)
        if usual and (not usual[1]) == first:
            name, shard = usual[2], usual[3]
            cursor.position = usual.end()
        elif cursor.more("}", first=first):
            name = cursor.string()
            cursor.expect(":")
            shard = cursor.string()
        else:
            return
        first = False
        weight_map[name] = shards.setdefault(shard, shard)
        if len(weight_map) > MAX_ENTRIES:
            raise JsonError(f"more than {MAX_ENTRIES} tensors")


def _total_size(cursor: JsonCursor) -> int | None:
    total: int | None = None
    for key in cursor.members():
        cursor.peek()
        start = cursor.position
        cursor.skip(2)
        written = cursor.text[start : cursor.position]
        if key == "total_size" and len(written) < 20 and written.isdecimal():
            total = int(written)
    return total


def check_shard_name(where: str, shard: str) -> None:
    """Raises UnsafeFileError where the name of a `shard`, which the file `where` gives, leads out of the folder."""
    parts = shard.replace("\\", "/").split("/")
    windows = PureWindowsPath(shard)
    if (
        not shard
        or "\0" in shard
        or ".." in parts
        or PurePosixPath(shard).is_absolute()
        or windows.drive
        or windows.root
    ):
        raise UnsafeFileError(
            f"{where}: names the shard {printable(shard)!r}, expected a file inside its own folder; nothing was read"
        )


def listed(names: list[str], limit: int = 5) -> str:
    """A few of `names` for a message, with the number of the others."""
    shown = ", ".join(repr(printable(name, 80)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def join(parts: Sequence[Part], shards: Sequence[str], index: Index | None) -> tuple[Mapping[str, Tensor], list[str]]:
    """The tensors of all parts in their order, and findings; FormatError where they are not one model. `shards` are
    the parts' names in their folder.
    """
    weight_map = index.weight_map if index else {}
    owner: dict[str, int] = {}
    twice: list[str] = []
    for number, part in enumerate(parts):
        for name in part.tensors:
            if owner.setdefault(name, number) == number:
                continue
            if weight_map.get(name) not in (shards[number], shards[owner[name]]):
                raise FormatError(
                    f"{printable(part.source.name)}: tensor {printable(name)!r} is also in "
                    f"{printable(shards[owner[name]])!r}; these files are not one model: name one of them"
                )
            twice.append(name)
            if weight_map[name] == shards[number]:
                del owner[name]  # so that it comes in its own shard's place
                owner[name] = number
    notes = _disagreements(index, owner, shards) if index else []
    if twice:
        notes.append(f"tensors in two shards, taken from the one that the index names: {listed(twice)}")
    return JoinedTables([part.tensors for part in parts], owner), notes


def _disagreements(index: Index, owner: dict[str, int], shards: Sequence[str]) -> list[str]:
    where = printable(index.name)
    lost = [name for name in index.weight_map if name not in owner]
    if lost:
        raise FormatError(
            f"{printable(index.path)}: lists {len(lost)} tensors that no shard holds: {listed(lost)}; "
            "shards of another version? download the model again"
        )
    notes = []
    moved = [name for name, shard in index.weight_map.items() if PurePosixPath(shard).as_posix() != shards[owner[name]]]
    if moved:
        notes.append(
            f"{where}: names the wrong shard for {len(moved)} tensors, {listed(moved)}; taken from where they are"
        )
    unlisted = [name for name in owner if name not in index.weight_map]
    if unlisted:
        notes.append(f"{where}: does not list {len(unlisted)} tensors that are in its shards: {listed(unlisted)}")
    return notes
