"""config.json: read where it is, never a reason to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netweight.checkpoint.byte_stream import read_whole
from netweight.checkpoint.place import Place
from netweight.errors import FormatError, NetweightError, printable
from netweight.source.local import open_local
from netweight.source.protocol import Source

__all__ = ["MAX_CONFIG", "read_config", "read_json_array_in", "read_json_in", "read_json_object"]

MAX_CONFIG = 16 << 20  # bytes


def read_config(place: Place) -> tuple[dict[str, Any] | None, str | None]:
    """config.json of `place` as (object, None), or (None, why there is none, in one line)."""
    try:
        if not place.has("config.json"):
            return None, f"{printable(place.label)}: has no config.json"
        return _object_in(place.open("config.json"), MAX_CONFIG), None
    except NetweightError as problem:
        return None, str(problem)


def read_json_object(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in the file at `path`, of at most `limit` bytes; raises FormatError where it is none."""
    return _object_in(open_local(path), limit)


def read_json_in(place: Place, name: str, limit: int) -> dict[str, Any]:
    """The JSON object in the file `name` of `place`, of at most `limit` bytes; raises FormatError where it is none."""
    return _object_in(place.open(name), limit)


def read_json_array_in(place: Place, name: str, limit: int) -> list[Any]:
    """The JSON array in the file `name` of `place`, of at most `limit` bytes; raises FormatError where it is none."""
    source = place.open(name)
    value = _value_in(source, limit, "array")
    if not isinstance(value, list):
        raise FormatError(f"{printable(source.name)}: holds a JSON {_KINDS[type(value)]}, expected an array")
    return value


def _object_in(source: Source, limit: int) -> dict[str, Any]:
    value = _value_in(source, limit, "object")
    if not isinstance(value, dict):
        raise FormatError(f"{printable(source.name)}: holds a JSON {_KINDS[type(value)]}, expected an object")
    return value


def _value_in(source: Source, limit: int, kind: str) -> Any:
    where = printable(source.name)
    if source.size > limit:
        raise FormatError(f"{where}: {source.size} bytes, expected at most {limit}")
    if not source.size:
        raise FormatError(f"{where}: is empty, expected a JSON {kind}")
    try:
        return json.loads(read_whole(source))
    except RecursionError:
        raise FormatError(f"{where}: is nested too deeply") from None
    except ValueError as problem:
        raise FormatError(f"{where}: is not valid JSON: {printable(str(problem))}") from None


_KINDS: dict[type, str] = {
    list: "array", dict: "object", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip
