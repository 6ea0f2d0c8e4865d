"""What a record says of its inputs: read without trust, found where they are now, and the same as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.checkpoint.adapters.references import split_adapters
from netweight.checkpoint.reference import at_commit, parse_reference
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, ModelNotFoundError, OptionError, did_you_mean, printable
from netweight.jobs.inputs import identity
from netweight.source.local import open_local

__all__ = ["check_inputs", "places_of", "read_record"]

_LARGEST = 1 << 29  # bytes of a record: some 200,000 parameters of eight models


def read_record(path: Path, what: str, again: str, reduce: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The JSON of a record. `what` it is of ("a merge") and `again` what to do ("merge again") are for messages;
    `reduce` makes less of every object in it. Raises FormatError.
    """
    label = printable(str(path), 300)
    source = open_local(path)
    if source.size > _LARGEST:
        raise FormatError(f"{label}: {source.size} bytes: larger than any record of {what}")
    data = bytearray(source.size)
    source.read_into(0, memoryview(data))
    source.close()
    try:
        text = data.decode()
        del data  # both at once would be much for a large record
        return json.loads(text, object_hook=reduce)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{label}: not the record of {what}: {printable(str(error))}; {again}") from None


def places_of(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    references: Sequence[str],
    moved: Mapping[str, str],
    names: str = "the recipe",
    again: str = "merge again",
    given: Collection[str] = (),
) -> dict[str, str]:
    """Where every one of `references` is now that is not `given`; `name` is the record's file. Raises OptionError for a
    `moved` that `names` does not name, FormatError, and ModelNotFoundError for an input that is not there.
    """
    for old in moved:
        if old not in references:
            raise OptionError(
                f"--moved {printable(old)}: {names} names no such model{did_you_mean(old, references)}; it names"
                f" {', '.join(printable(r) for r in references)}"
            )
    entries = record["inputs"]
    if len(entries) != len(references) or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError(
            f"{printable(str(folder / name), 300)}: expected {len(references)} inputs, as {names} has, got"
            f" {len(entries)}; {again}"
        )
    paths = {}
    for ref, entry in zip(references, entries, strict=True):
        if split_adapters(ref)[0] in given:
            continue
        near = _near(folder, entry) or ref
        candidates = [moved[ref]] if ref in moved else [ref, near] if Path(ref).is_absolute() else [near, ref]
        path = next((path for path in candidates if _is_there(path)), None)
        if path is None and ref not in moved and isinstance(entry.get("revision"), str):
            path = at_commit(ref, entry["revision"])
        if path is None and ref not in moved and _is_stage(split_adapters(ref)[0], record):
            raise ModelNotFoundError(
                f"{printable(ref)}: is a stage of this merge, which was removed at its end; merge again with"
                f" --intermediate-dir, which keeps it, or say where it is: --moved {printable(ref)}=FOLDER"
            )
        if path is None and ref not in moved:
            raise ModelNotFoundError(
                f"{printable(ref)}: the input is not where it was; say where it is: --moved {printable(ref)}=FOLDER"
            )
        paths[ref] = path or moved[ref]
    return paths


def _is_stage(name: str, record: Mapping[str, Any]) -> bool:
    stages = record.get("stages")
    return isinstance(stages, list) and any(isinstance(s, dict) and s.get("name") == name for s in stages)


def _near(folder: Path, entry: Mapping[str, Any]) -> str:
    """Where an input lies from the folder, as when it was made; "" where the record does not say."""
    if isinstance(parts := entry.get("parts"), list) and all(isinstance(part, str) for part in parts):
        return "+".join(str(folder / part) if (folder / part).exists() else part for part in parts)
    return str(folder / entry["path"]) if isinstance(entry.get("path"), str) else ""


def _is_there(ref: str) -> bool:
    """Whether it is a path here; of a base with adapters, whether each is one, or a model of the hub."""
    parts = split_adapters(ref)
    if len(parts) == 1:
        return os.path.exists(ref)  # noqa: PTH110 - never raises
    return all(os.path.exists(part) or parse_reference(part) is not None for part in parts)  # noqa: PTH110


def check_inputs(record: Mapping[str, Any], checkpoints: Sequence[Checkpoint], done: str = "merged") -> None:
    """Raises ModelNotFoundError for a checkpoint that is not the one that was `done`."""
    for entry, checkpoint in zip(record["inputs"], checkpoints, strict=True):
        if entry.get("files") != identity(checkpoint)["files"]:
            raise ModelNotFoundError(
                f"{printable(checkpoint.ref)}: its files are not those that were {done} (names, sizes or headers);"
                f" say where those are: --moved {printable(str(entry.get('ref')))}=FOLDER"
            )
