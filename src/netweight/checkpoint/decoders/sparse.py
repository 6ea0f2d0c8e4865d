"""Sparse weights of compressed-tensors, before its version 0.15: each is one tensor, dense, in the type of its numbers.

`X.weight` [out, in] is stored as `X.compressed`, the numbers that are kept; `X.bitmask` U8 [out, ceil(in / 8)], a bit
for every place, the lowest first; `X.shape`; and

- `sparse-bitmask`: `X.row_offsets` I64 [out], where in `X.compressed` [n] those of a row begin;
- `sparse-24-bitmask`: nothing, since every row keeps half of its columns: `X.compressed` is [out, in / 2].

Numbers of 8 bits may have scales: what is read here are the codes then. The oldest versions have `X.weight.compressed`.
Source: compressed-tensors 0.14, `compressors/sparse_compressors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from netweight.checkpoint.decoders.found import Found, several, shown, wrong
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.packed import whole_numbers
from netweight.checkpoint.tensors.sparse import SparseTensor

__all__ = ["find"]

_KEPT = ".compressed"
_PARTS = ("bitmask", "row_offsets", "shape")


def find(tensors: Mapping[str, Tensor], _config: Mapping[str, Any] | None, where: str) -> Found:
    """Every sparse weight as one; raises FormatError where parts do not fit each other."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name in [name for name in tensors if name.endswith(_KEPT)]:
        before = name.removesuffix(_KEPT)
        if f"{before}.bitmask" not in tensors or f"{before}.shape" not in tensors:
            continue
        weight = before if before.rpartition(".")[2] == "weight" else f"{before}.weight"
        if weight in tensors:
            raise wrong(where, weight, "is stored twice, sparse too")
        named = {part: tensors[full] for part in _PARTS if (full := f"{before}.{part}") in tensors}
        instead[name] = _sparse(weight, tensors[name], named, where)
        parts.update(part.name for part in named.values())
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    note = f"{several(len(instead), 'weight is', 'weights are')} stored without zeros ({kinds})"
    return Found(instead, frozenset(parts), note=note if instead else "")


def _sparse(weight: str, kept: Tensor, named: Mapping[str, Tensor], where: str) -> SparseTensor:
    mask, offsets, declared = named["bitmask"], named.get("row_offsets"), named["shape"]
    shape = _shape(kept, mask, offsets, declared)
    if shape is None:
        stored = ", ".join(f"{part} {shown(tensor)}" for part, tensor in named.items())
        raise wrong(
            where,
            weight,
            f"its numbers {shown(kept)} and its {stored} do not fit; expected a bit for every place of a vector or a"
            " matrix, and half of the columns in every row, or an I64 offset for each",
        )
    return SparseTensor(weight, shape, kept.dtype, kept, mask, offsets, declared)


def _shape(kept: Tensor, mask: Tensor, offsets: Tensor | None, declared: Tensor) -> tuple[int, ...] | None:
    """The weight's shape; None where parts do not fit."""
    if mask.dtype.name != "U8" or len(mask.shape) not in {1, 2}:
        return None
    rank = len(mask.shape)
    if declared.dtype.name not in {"I32", "I64"} or declared.size != rank or kept.dtype.bits % 8:
        return None
    if offsets is None:
        shape = (*kept.shape[:-1], 2 * kept.shape[-1]) if len(kept.shape) == rank else ()
    elif offsets.dtype.name != "I64" or offsets.size != prod(mask.shape[:-1]) or len(kept.shape) != 1:
        return None
    else:
        shape = whole_numbers(declared)
    fits = len(shape) == rank and shape[-1] > 0 and mask.shape == (*shape[:-1], -(-shape[-1] // 8))
    return shape if fits else None
