"""What is in a checkpoint, from its headers alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.errors import NetweightError, printable
from netweight.jobs.info.adapter import AdapterInfo, adapter_info
from netweight.jobs.info.page import section_of_info
from netweight.jobs.info.tree import Branch, grow
from netweight.jobs.pages import Reported
from netweight.output.table import Row
from netweight.page.section import Section
from netweight.params.architecture import describe
from netweight.params.families import family
from netweight.params.model import Model
from netweight.params.opening import open_model
from netweight.params.role import ROLES, Parameter

__all__ = ["DtypeRow", "FileRow", "Info", "RoleRow", "info"]

_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")

_ADAPTER_CONFIG = "adapter_config.json"

BUFFER = "buffer"
"""The row of what the model's code computes; not counted as parameters."""


@dataclass(frozen=True)
class FileRow:
    """One file of weights, `size` in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class DtypeRow:
    """The tensors that are stored in one way, ties counted once: as a dtype, or decoded from codes (`Q4_K`, `NF4` ...).
    `bytes` in files, scales and all; `bits_per_weight` are 8 of them for an element, None without elements.
    """

    dtype: str
    tensors: int
    elements: int
    bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class RoleRow:
    """The tensors of one role; `share` is the percentage of all parameters (0 for buffers)."""

    role: str
    tensors: int
    parameters: int
    bytes: int
    share: float


@dataclass(frozen=True)
class OtherRow:
    """The tensors of the role "other" whose names have one form, with numbers as N, and one of their names."""

    pattern: str
    tensors: int
    parameters: int
    example: str


@dataclass(frozen=True)
class Info(Reported):
    """What a checkpoint's headers and config say. Counts are elements as they are stored, tied weights counted once.

    `parameters` leaves out `buffers` (causal masks, rotary frequencies, running statistics). `layers` and what follows
    are None where neither config nor shapes tell. `stacks` counts the blocks of each tower, the main one as "". `tied`
    maps an alias to the name that it repeats; `other`: what has the role "other", by the form of the names, most
    parameters first; `head_is` names the embedding that serves as the head, where the file holds none. `outside`: what
    pickles name beside what is harmless. `revision` is the commit that was read of a model of the hub. `adapter`: what
    an adapter alone is; `listed`: every tensor under jobs.info.page.COLUMNS, where it was asked for.
    """

    ref: str
    format: str
    family: str
    files: tuple[FileRow, ...]
    tensors: int
    parameters: int
    buffers: int
    bytes: int
    dtypes: tuple[DtypeRow, ...]
    layers: int | None
    heads: int | None
    kv_heads: int | None
    hidden_size: int | None
    intermediate_size: int | None
    vocabulary: int | None
    stacks: dict[str, int]
    tied: dict[str, str]
    head_is: str | None
    roles: tuple[RoleRow, ...]
    other: tuple[OtherRow, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    config_problem: str | None
    metadata: dict[str, str]
    revision: str | None = None
    outside: tuple[str, ...] = ()
    adapter: AdapterInfo | None = None
    tree: Branch | None = field(default=None, repr=False)
    listed: tuple[Row, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields for JSON: no NaN, no Infinity; the tree of tensors only where there is one."""
        entry = {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name not in ("tree", "listed")
        }
        return entry if self.tree is None else entry | {"tree": self.tree.to_dict()}

    def locations(self) -> list[Path]:
        """See Reported."""
        return [Path(self.ref)]

    def section(self) -> Section:
        """See Reported; with `listed` also the tensors."""
        return section_of_info(self.to_dict(), self.listed)


def info(
    ref: str | os.PathLike[str], *, count_tied_twice: bool = False, tree: bool = False, listed: bool = False
) -> Info:
    """Describe the checkpoint at `ref` without reading tensor data; with its `tree`, and every tensor `listed`.

    `count_tied_twice` counts tied weights under each name, and a head that is not stored once more, as tools do that
    instantiate the model. Raises what `open_model` raises.
    """
    with open_model(ref) as checkpoint:
        return _describe(checkpoint, count_tied_twice=count_tied_twice, tree=tree, listed=listed)


def _describe(checkpoint: Checkpoint, *, count_tied_twice: bool, tree: bool, listed: bool) -> Info:
    model = Model(checkpoint)
    tensors, parameters, ties = model.tensors, model.parameters, model.ties
    counted = [tensor for name, tensor in tensors.items() if count_tied_twice or name not in ties.aliases]
    placed = [(BUFFER if parameters[t.name].buffer else parameters[t.name].role, t) for t in counted]
    notes = list(checkpoint.notes)
    notes += ties.notes("counted twice, as whether they are equal takes reading them")
    if count_tied_twice and ties.absent is not None:
        placed.append(("output", checkpoint[ties.absent]))
        notes.append(f"the head is {printable(ties.absent)}, counted once more")
    roles = _roles(placed)
    total = sum(row.parameters for row in roles if row.role != BUFFER)
    architecture = describe(checkpoint, parameters)
    said = _adapter(checkpoint)
    adapter, unread = adapter_info(checkpoint)
    return Info(
        ref=checkpoint.ref,
        format=checkpoint.format,
        family=family(checkpoint, checkpoint.config),
        files=tuple(FileRow(file.path, file.size) for file in checkpoint.files),
        tensors=len(checkpoint),
        parameters=total,
        buffers=sum(row.parameters for row in roles if row.role == BUFFER),
        bytes=sum(tensor.file_bytes for tensor in counted),
        dtypes=_dtypes(counted),
        layers=architecture.layers,
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        vocabulary=architecture.vocabulary,
        stacks=architecture.stacks,
        tied=ties.aliases,
        head_is=ties.absent,
        roles=roles,
        other=_other(tensor for role, tensor in placed if role == "other"),
        skipped=checkpoint.skipped,
        notes=(*notes, *architecture.notes, *([said] if said else []), *([unread] if unread else [])),
        config_problem=None if said and checkpoint.config is None else checkpoint.config_problem,
        metadata=checkpoint.metadata,
        revision=checkpoint.revision,
        outside=checkpoint.outside,
        adapter=adapter,
        tree=grow(tensors.values()) if tree else None,
        listed=tuple(_row(t, parameters[t.name], ties.aliases) for t in tensors.values()) if listed else (),
    )


def _row(tensor: Tensor, parameter: Parameter, aliases: Mapping[str, str]) -> Row:
    """A tensor under jobs.info.page.COLUMNS."""
    size, held = tensor.size, tensor.file_bytes
    role = BUFFER if parameter.buffer else parameter.role
    bits, same = 8 * held / size if size else None, aliases.get(tensor.name)
    return tensor.name, parameter.layer, role, list(tensor.shape), tensor.stored, size, held, bits, same


def _adapter(checkpoint: Checkpoint) -> str | None:
    """What PEFT's adapter_config.json says of an adapter, None where there is none."""
    place = checkpoint.place
    if place is None or not place.has(_ADAPTER_CONFIG):
        return None
    try:
        held = read_json_in(place, _ADAPTER_CONFIG, MAX_CONFIG)
    except NetweightError as problem:
        return str(problem)
    kind, base = held.get("peft_type"), held.get("base_model_name_or_path")
    numbers = [f"{key} = {printable(str(held[key]), 20)}" for key in ("r", "lora_alpha") if held.get(key) is not None]
    targets = held.get("target_modules")
    on = ", ".join(map(str, targets)) if isinstance(targets, list) else targets
    return (
        f"{_ADAPTER_CONFIG}: an adapter ({', '.join([printable(str(kind), 40), *numbers])}) of"
        f" {printable(str(base), 200)}{f', on {printable(str(on), 200)}' if on else ''}"
    )


def _roles(placed: Iterable[tuple[str, Tensor]]) -> tuple[RoleRow, ...]:
    """A row for each role that occurs, in the order of ROLES, buffers last."""
    counts = {role: [0, 0, 0] for role in (*ROLES, BUFFER)}
    for role, tensor in placed:
        count = counts[role]
        count[0] += 1
        count[1] += tensor.size
        count[2] += tensor.file_bytes
    total = sum(count[1] for role, count in counts.items() if role != BUFFER)
    return tuple(
        RoleRow(role, count[0], count[1], count[2], 100 * count[1] / total if total and role != BUFFER else 0.0)
        for role, count in counts.items()
        if count[0]
    )


def _other(tensors: Iterable[Tensor]) -> tuple[OtherRow, ...]:
    counts: dict[str, tuple[int, int, str]] = {}
    for tensor in tensors:
        pattern = _NUMBER.sub("N", tensor.name)
        count, size, example = counts.get(pattern, (0, 0, tensor.name))
        counts[pattern] = count + 1, size + tensor.size, example
    rows = [OtherRow(pattern, *count) for pattern, count in counts.items()]
    return tuple(sorted(rows, key=lambda row: (-row.parameters, row.pattern)))


def _dtypes(tensors: Iterable[Tensor]) -> tuple[DtypeRow, ...]:
    """A row for each dtype, the one with most bytes first."""
    counts: dict[str, list[int]] = {}
    for tensor in tensors:
        count = counts.setdefault(tensor.stored, [0, 0, 0])
        count[0] += 1
        count[1] += tensor.size
        count[2] += tensor.file_bytes
    rows = [
        DtypeRow(name, n, size, held, 8 * held / size if size else None) for name, (n, size, held) in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.dtype)))


def _plain(value: object) -> object:
    """Dataclasses and tuples as JSON has them."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
