"""A sketch of a model: what it is made of and a small part of every tensor, in one Parquet file of a few MB.

Two sketches are enough to say how two models are related; the models themselves are not needed then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from netweight.errors import FormatError, printable
from netweight.kernels.arrays import F32Array
from netweight.params.role import Parameter
from netweight.params.units import Units, units_of
from netweight.passes.corners import Corner
from netweight.version import __version__

__all__ = ["SKETCH_VERSION", "About", "Sketch", "load_sketch", "save_sketch"]

SKETCH_VERSION = 1
"""Raised when what is read of a model, or how it is kept, changes."""

_PARAMETER = ("name", "layer", "role", "group", "part", "expert", "stack", "slot", "kind")


@dataclass(frozen=True)
class About:
    """What a sketch says of its model beside tensors. `identity`: as in other results; `structure`: (parameters,
    layers, stored types with their elements); `claims`: what card and config say of its descent; `adapters`: what it is
    put together of, on the model at `base`; `read_bytes` of `file_bytes` were read.
    """

    name: str
    identity: Mapping[str, Any]
    parameters: int
    layers: int
    stored: Mapping[str, int]
    config: Mapping[str, Any]
    claims: Sequence[Mapping[str, Any]] = ()
    adapters: Sequence[str] = ()
    base: str = ""
    notes: Sequence[str] = ()
    read_bytes: int = 0
    file_bytes: int = 0
    sketch_version: int = SKETCH_VERSION
    netweight: str = __version__


@dataclass(frozen=True)
class Sketch:
    """A model in short; `tensors` by key."""

    about: About
    tensors: Mapping[str, Corner] = field(repr=False)
    known_digest: str = ""

    def light(self) -> Sketch:
        """The same without its tensors, for a result of many models."""
        return replace(self, tensors={}, known_digest=self.digest)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.about.name

    @cached_property
    def units(self) -> dict[str, Units]:
        """The blocks of hidden units by their labels."""
        names = {held.parameter.name: held for held in self.tensors.values()}
        keys = {name: held.key for name, held in names.items()}
        found = units_of(keys, {n: h.parameter for n, h in names.items()}, {n: h.shape for n, h in names.items()})
        return {block.label: block for block in found}

    @cached_property
    def digest(self) -> str:
        """Of all tensors: equal for models whose parts that were read are equal, with their types."""
        if self.known_digest:
            return self.known_digest
        whole = hashlib.sha256()
        for key in sorted(self.tensors):
            whole.update(f"{key} {self.tensors[key].digest}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()[:32]

    def embedding(self) -> Corner | None:
        """The token embedding."""
        return self.tensors.get("token_embedding")


def _content(table: Mapping[str, Sequence[Any]]) -> str:
    """A digest of all that a sketch's file holds of tensors."""
    whole = hashlib.sha256()
    for *said, data in zip(*(table[name] for name in _ORDER), strict=True):
        whole.update(json.dumps(said).encode())
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


def _packed(values: F32Array) -> tuple[str, bytes]:
    """The values as bytes: of bfloat16 where that has them all."""
    bits = np.ascontiguousarray(values, "<f4").view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "BF16", (bits >> 16).astype("<u2").tobytes()
    return "F32", bits.tobytes()


def _unpacked(kind: str, data: bytes, columns: int) -> F32Array:
    if kind == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(-1, columns)
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, columns)


def save_sketch(sketch: Sketch, path: Path) -> None:
    """Write it as a Parquet file, whose metadata have `about` and a digest of the rows; raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: dict[str, list[Any]] = {"key": [], "parameter": [], "shape": [], "dtype": [], "stored": [], "rows": []}
    table |= {"columns": [], "digest": [], "kept": [], "values": []}
    for held in sketch.tensors.values():
        kept, data = _packed(held.values)
        said = {name: getattr(held.parameter, name) for name in _PARAMETER}
        row = (held.key, json.dumps(said), list(held.shape), held.dtype, held.stored, [list(run) for run in held.rows])
        for name, cell in zip(table, (*row, held.values.shape[1], held.digest, kept, data), strict=True):
            table[name].append(cell)
    metadata = {"netweight.sketch": json.dumps(asdict(sketch.about)), "netweight.sketch_digest": _content(table)}
    arrow = pa.table(table).replace_schema_metadata(metadata)
    pq.write_table(arrow, path, compression="zstd", use_dictionary=False)


def load_sketch(path: Path) -> Sketch:
    """Read a sketch back; raises FormatError for a file that is none, of another version, or whose rows are not what
    its digest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = printable(str(path))
    try:
        arrow = pq.read_table(path)
        metadata = arrow.schema.metadata or {}
        about = About(**json.loads(metadata[b"netweight.sketch"]))
        if about.sketch_version != SKETCH_VERSION:
            raise FormatError(
                f"{where}: is a sketch of version {about.sketch_version}, expected {SKETCH_VERSION}; index the model"
                " again"
            )
        table = {name: arrow.column(name).to_pylist() for name in _ORDER}
        if _content(table).encode() != metadata.get(b"netweight.sketch_digest"):
            raise FormatError(f"{where}: its tensors are not those that its digest is of; index the model again")
        tensors = {}
        for row in zip(*(table[name] for name in _ORDER), strict=True):
            key, parameter, shape, dtype, stored, rows, columns, digest, kept, data = row
            values = _unpacked(kept, data, columns)
            runs = tuple((int(first), int(count)) for first, count in rows)
            if sum(count for _, count in runs) != len(values):
                raise FormatError(f"{where}: {printable(key)}: {len(values)} rows, expected as many as {runs} have")
            place = Parameter(**json.loads(parameter))
            tensors[key] = Corner(key, place, tuple(shape), dtype, stored, runs, values, digest)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{where}: is no sketch of `netweight lineage index`: {error}; make it again") from error
    return Sketch(about, tensors)


_ORDER = ("key", "parameter", "shape", "dtype", "stored", "rows", "columns", "digest", "kept", "values")
