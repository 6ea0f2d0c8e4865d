"""A folder of sketches: one Parquet file a model, a vector of each in one file that is mapped, and a list of both.

The list is written last, by a rename, so a run that is stopped leaves the index as it was. A model that is indexed
again replaces what was there under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netweight.checkpoint.config import read_json_object
from netweight.errors import FormatError, JobError, ModelNotFoundError, OutputError, printable
from netweight.jobs.lineage.features import SIZE, feature_of
from netweight.jobs.lineage.sketch import SKETCH_VERSION, Sketch, load_sketch, save_sketch
from netweight.output.exchange import sync_file, sync_folder
from netweight.output.lock import lock, unlock

__all__ = ["Entry", "Index", "adding"]

_LIST, _SKETCHES, _LOCK = "index.json", "sketches", ".lock"
_VECTORS = "features-0.f16"
_LARGEST = 1 << 30


@dataclass(frozen=True)
class Entry:
    """One model of an index: `file` has its sketch, `row` its vector; `stamp` tells whether the model has changed."""

    name: str
    ref: str
    path: str
    file: str
    row: int
    digest: str
    stamp: str


class Index:
    """The models of the folder `folder`; raises ModelNotFoundError where there is none, FormatError for another
    version or files that do not fit together.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], vectors: str = _VECTORS) -> None:
        self.folder = folder
        self.vectors = folder / vectors
        self.entries = list(entries)
        self._by_name = {entry.name: entry for entry in self.entries}

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Read the list of an index."""
        where = printable(str(folder))
        if not (folder / _LIST).is_file():
            raise ModelNotFoundError(
                f"{where}: is no index; make one with `netweight lineage index MODEL... --output {where}`"
            )
        held = read_json_object(folder / _LIST, _LARGEST)
        if held.get("sketch_version") != SKETCH_VERSION:
            raise FormatError(
                f"{where}: is an index of version {held.get('sketch_version')!r}, expected {SKETCH_VERSION}; make it"
                " again"
            )
        try:
            index = cls(folder, [Entry(**entry) for entry in held["models"]], Path(held["vectors"]).name)
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{where}: {_LIST} is not as `lineage index` writes it: {error}; make it again"
            ) from error
        size = index.vectors.stat().st_size if index.vectors.is_file() else 0
        if any(not 0 <= entry.row < size // (2 * SIZE) for entry in index.entries):
            raise FormatError(f"{where}: {index.vectors.name} has fewer models than {_LIST}; make the index again")
        return index

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def entry(self, name: str) -> Entry:
        """The entry of a model."""
        return self._by_name[name]

    def load(self, name: str) -> Sketch:
        """The sketch of a model; raises FormatError where the file is not the one that the list is of."""
        entry = self._by_name[name]
        path = self.folder / _SKETCHES / entry.file
        sketch = load_sketch(path)
        if sketch.digest != entry.digest or sketch.name != name:
            raise FormatError(
                f"{printable(str(path))}: is the sketch of other weights than the index says ({printable(name)}); index"
                " the model again"
            )
        return sketch

    def features(self) -> np.ndarray[Any, np.dtype[np.float16]]:
        """The vectors of all models, in the order of `entries`, mapped where they lie in that order."""
        if not self.entries:
            return np.empty((0, SIZE), np.float16)
        size = self.vectors.stat().st_size // (2 * SIZE)
        mapped = np.memmap(self.vectors, np.float16, "r", shape=(size, SIZE))
        rows = [entry.row for entry in self.entries]
        return mapped if rows == list(range(size)) else np.asarray(mapped[rows])


class Adding:
    """An index while models are added to it."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def name_for(self, name: str, path: str) -> str:
        """The name under which the model at `path` goes in: that which it has, else `name`, with as many parts of the
        path before it as no other model has.
        """
        for entry in self.index.entries:
            if entry.path == path:
                return entry.name
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        names = [name, *("/".join(parts[-count:]) for count in range(2, len(parts) + 1))]
        free = next((one for one in names if one not in self.index), None)
        if free is None:
            raise OutputError(f"{printable(path)}: another model of the index has every name that it could have")
        return free

    def is_there(self, name: str, stamp: str) -> bool:
        """Whether this model is in it, unchanged."""
        return name in self.index and self.index.entry(name).stamp == stamp

    def add(self, sketch: Sketch, stamp: str) -> None:
        """Put one model in, in place of one of this name; OSError where the disk refuses."""
        folder = self.index.folder
        unique = hashlib.sha256(sketch.name.encode(errors="surrogateescape")).hexdigest()[:8]
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in sketch.name)[:80]
        file = f"{plain.lstrip('.')}-{unique}.parquet"
        new = folder / _SKETCHES / f".{file}.new"
        save_sketch(sketch, new)
        sync_file(new)
        new.replace(folder / _SKETCHES / file)
        with self.index.vectors.open("ab") as vectors:
            row, rest = divmod(vectors.tell(), 2 * SIZE)
            if rest:  # what a stopped run has left
                vectors.truncate(row * 2 * SIZE)
            vectors.write(feature_of(sketch).astype("<f2").tobytes())
        identity = sketch.about.identity
        entry = Entry(sketch.name, str(identity["ref"]), str(identity["path"]), file, row, sketch.digest, stamp)
        kept = [one for one in self.index.entries if one.name != sketch.name]
        self.index = Index(folder, [*kept, entry], self.index.vectors.name)

    def write(self) -> None:
        """Put the list in place; vectors that no model has any more are left out, in a new file."""
        index = self.index
        size = index.vectors.stat().st_size // (2 * SIZE)
        if size == len(index.entries):
            self._write_list(index)
            return
        number = int(index.vectors.stem.rpartition("-")[2]) + 1
        entries = [replace(entry, row=row) for row, entry in enumerate(index.entries)]
        new = Index(index.folder, entries, f"features-{number}.f16")
        np.array(index.features()).astype("<f2").tofile(new.vectors)
        self._write_list(new)
        index.vectors.unlink()
        self.index = new

    @staticmethod
    def _write_list(index: Index) -> None:
        new = index.folder / f".{_LIST}.new"
        held = {
            "sketch_version": SKETCH_VERSION,
            "vectors": index.vectors.name,
            "models": [asdict(entry) for entry in index.entries],
        }
        new.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        sync_file(new)
        sync_file(index.vectors)
        new.replace(index.folder / _LIST)
        sync_folder(index.folder)


@contextmanager
def adding(folder: Path) -> Iterator[Adding]:
    """An index that models are added to, made where there is none, held against other runs; its list is written when
    the block ends, also by an error: what was added before it stays.

    Raises OutputError for a place that cannot be an index, BusyError where another run holds it.
    """
    where = printable(str(folder))
    made = not folder.exists()
    try:
        (folder / _SKETCHES).mkdir(parents=True, exist_ok=True)
        others = [path.name for path in folder.iterdir() if path.name not in (_SKETCHES, _LOCK, _VECTORS)]
        if not made and others and not (folder / _LIST).exists():
            raise OutputError(f"{where}: holds other files and no index; choose an empty folder, or a new one")
        descriptor, _ = lock(folder / _LOCK, where)
    except OSError as error:
        raise OutputError(f"{where}: cannot take an index: {error.strerror or error}; choose another folder") from error
    try:
        index = Index.open(folder) if (folder / _LIST).exists() else Index(folder, [])
        work = Adding(index)
        index.vectors.touch()
        try:
            try:
                yield work
            finally:
                work.write()
        except OSError as error:
            raise JobError(
                f"{where}: the index could not be written: {error.strerror or error}; make room, then run again:"
                " what was read before is kept"
            ) from error
    finally:
        unlock(folder / _LOCK, descriptor)


def stamp_text(stamps: object) -> str:
    """What tells that a model's files are the same."""
    return hashlib.sha256(json.dumps(stamps, default=os.fspath).encode(errors="surrogateescape")).hexdigest()[:32]
