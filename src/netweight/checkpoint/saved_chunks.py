"""Safetensors files that torch.distributed.checkpoint writes for Hugging Face: each rank's chunks, under the tensors'
names, with the places of the chunks in the header's metadata (torch/distributed/checkpoint/_hf_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from netweight.checkpoint.part import Part
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.sharded import Chunk, put_together
from netweight.errors import FormatError, printable

__all__ = ["are_chunks", "join_chunks"]

_KEY = "DCP_SHARDING_INFO"


def are_chunks(parts: Sequence[Part]) -> bool:
    """Whether the files say where their tensors lie in larger ones."""
    return any(_KEY in part.metadata for part in parts)


def join_chunks(parts: Sequence[Part]) -> tuple[Mapping[str, Tensor], list[str]]:
    """The tensors that the chunks of `parts` make together, and notes. Raises FormatError where they fill none.

    No file says how large a tensor is as a whole: it ends where the last chunk does, as torch takes it.
    """
    chunks: dict[str, list[Chunk]] = {}
    for part in parts:
        places = _places(part)
        for name, tensor in part.tensors.items():
            chunks.setdefault(name, []).append(Chunk(_offsets(part, places, name, tensor), tensor))
    tensors: dict[str, Tensor] = {}
    cut = 0
    for name, pieces in chunks.items():
        if len({len(piece.offsets) for piece in pieces}) > 1:
            raise FormatError(
                f"{printable(parts[0].source.name)}: tensor {printable(name)!r} has chunks of other ranks"
            )
        shape = tuple(map(max, zip(*(piece.stops for piece in pieces), strict=True)))
        try:
            tensors[name] = put_together(name, shape, pieces[0].tensor.dtype, pieces)
        except FormatError as problem:
            raise FormatError(
                f"{printable(parts[0].source.name)}: tensor {printable(name)!r}: {problem}; the files of all ranks make"
                " one model: bring them into the same folder, and name it"
            ) from None
        cut += len(pieces) > 1
    note = (
        f"{cut} tensors are put together of the chunks that ranks saved in {len(parts)} files; no file says how large"
        " they are as a whole: they end where the last chunk does"
    )
    return tensors, [note] if cut else []


def _places(part: Part) -> dict[str, Any]:
    if _KEY not in part.metadata:
        return {}
    try:
        places = json.loads(part.metadata[_KEY])
    except (ValueError, RecursionError):
        places = None
    if not isinstance(places, dict):
        raise FormatError(f"{printable(part.source.name)}: its metadata {_KEY} is no JSON object")
    return places


def _offsets(part: Part, places: dict[str, Any], name: str, tensor: Tensor) -> tuple[int, ...]:
    if not places:
        return (0,) * len(tensor.shape)
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
