"""Files of single ranks, each with its chunks of tensors under the tensors' names, put together to one model.

Torch files say it by their DTensors; safetensors files that torch.distributed.checkpoint writes for Hugging Face by
their metadata (torch/distributed/checkpoint/_hf_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from netweight.checkpoint.part import Part
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.sharded import Chunk, put_together, same_bytes
from netweight.errors import FormatError, printable

__all__ = ["are_chunks", "join_chunks"]

_KEY = "DCP_SHARDING_INFO"

_Place = tuple[tuple[int, ...], tuple[int, ...] | None]


def are_chunks(parts: Sequence[Part]) -> bool:
    """Whether the files say where their tensors lie in larger ones."""
    return any(_KEY in part.metadata or part.chunks for part in parts)


def join_chunks(parts: Sequence[Part]) -> tuple[Mapping[str, Tensor], list[str]]:
    """The tensors that the chunks of `parts` make together, and notes. Raises FormatError where they fill none.

    Where no file says how large a tensor is as a whole, it ends where the last chunk does, as torch takes it.
    """
    where = printable(parts[0].source.name)
    chunks: dict[str, dict[tuple[int, ...], Chunk]] = {}
    wholes: dict[str, tuple[int, ...] | None] = {}
    for part in parts:
        places = {**_places(part), **part.chunks}
        for name, tensor in part.tensors.items():
            begin, whole = places.get(name, ((0,) * len(tensor.shape), tensor.shape))
            known, held = wholes.setdefault(name, whole), chunks.setdefault(name, {})
            there = held.setdefault(begin, Chunk(begin, tensor)).tensor if tensor.size or not held else tensor
            same = known == whole and len(begin) == len(tensor.shape) and there.shape == tensor.shape
            if not same or (name not in places and not same_bytes(there, tensor)):
                raise FormatError(
                    f"{printable(part.source.name)}: tensor {printable(name)!r} is another than in the files before it;"
                    " the files are not of one model"
                )
    tensors: dict[str, Tensor] = {}
    cut = guessed = 0
    for name, held in chunks.items():
        pieces = list(held.values())
        whole = wholes[name]
        shape = whole if whole is not None else tuple(map(max, zip(*(piece.stops for piece in pieces), strict=True)))
        try:
            tensors[name] = put_together(name, shape, pieces[0].tensor.dtype, pieces)
        except FormatError as problem:
            raise FormatError(
                f"{where}: tensor {printable(name)!r}: {problem}; the files of all ranks make one model: bring them"
                " into the same folder, and name it"
            ) from None
        cut += len(pieces) > 1
        guessed += len(pieces) > 1 and whole is None
    notes = [f"{cut} tensors are put together of what ranks saved in {len(parts)} files"] if cut else []
    if guessed:
        notes[0] += "; no file says how large they are as a whole: they end where the last chunk does"
    return tensors, notes


def _places(part: Part) -> dict[str, _Place]:
    """Where the metadata of a safetensors file say that its tensors begin."""
    if _KEY not in part.metadata:
        return {}
    try:
        places = json.loads(part.metadata[_KEY])
    except (ValueError, RecursionError):
        places = None
    if not isinstance(places, dict):
        raise FormatError(f"{printable(part.source.name)}: its metadata {_KEY} is no JSON object")
    return {name: (_offsets(part, places, name, tensor), None) for name, tensor in part.tensors.items()}


def _offsets(part: Part, places: dict[str, Any], name: str, tensor: Tensor) -> tuple[int, ...]:
    entry = places.get(name)
    offsets = entry.get("saved_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != len(tensor.shape)
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in offsets)
    ):
        raise FormatError(
            f"{printable(part.source.name)}: its metadata {_KEY} does not say where the chunk of {printable(name)!r}"
            f" lies; expected {len(tensor.shape)} whole numbers"
        )
    return tuple(offsets)
