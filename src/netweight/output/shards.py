"""The layout of a model's safetensors files, known to the byte before any tensor is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netweight.output.safetensors_file import TensorEntry, header_bytes

__all__ = ["INDEX", "Shard", "index_json", "plan_shards"]

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shard:
    """One file: its tensors in their order, its first bytes, where in the file each tensor begins, and its size."""

    name: str
    entries: dict[str, TensorEntry]
    header: bytes = field(repr=False)
    offsets: dict[str, int] = field(repr=False)
    size: int


def plan_shards(
    entries: Mapping[str, TensorEntry], limit: int, metadata: Mapping[str, str] | None = None
) -> tuple[Shard, ...]:
    """Cut `entries` into files of at most `limit` bytes of tensors (as transformers counts), in the order given.

    One file is `model.safetensors`, several are `model-00001-of-0000N.safetensors`; a tensor larger than the limit has
    a file of its own. `metadata` is by default {"format": "pt"}, which transformers looks for. Raises ValueError for a
    limit below 1 and for what safetensors cannot hold.
    """
    if limit < 1:
        raise ValueError(f"limit of a shard: expected 1 byte or more, got {limit}")
    groups = list(_groups(entries, limit))
    total = len(groups)
    names = [f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
    if total == 1:
        names = ["model.safetensors"]
    shown = {"format": "pt"} if metadata is None else metadata
    return tuple(_shard(name, group, shown) for name, group in zip(names, groups, strict=True))


def index_json(shards: Sequence[Shard]) -> bytes | None:
    """What stands in `model.safetensors.index.json`; None for one file, which needs no index."""
    if len(shards) == 1:
        return None
    total = sum(entry.nbytes for shard in shards for entry in shard.entries.values())
    weight_map = {name: shard.name for shard in shards for name in shard.entries}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2).encode("ascii") + b"\n"


def _groups(entries: Mapping[str, TensorEntry], limit: int) -> Iterator[dict[str, TensorEntry]]:
    group: dict[str, TensorEntry] = {}
    held = 0
    for name, entry in entries.items():
        if group and held + entry.nbytes > limit:
            yield group
            group, held = {}, 0
        group[name] = entry
        held += entry.nbytes
    yield group


def _shard(name: str, entries: dict[str, TensorEntry], metadata: Mapping[str, str]) -> Shard:
    header = header_bytes(entries, metadata)
    offsets = {}
    end = len(header)
    for tensor, entry in entries.items():
        offsets[tensor] = end
        end += entry.nbytes
    return Shard(name, entries, header, offsets, end)
