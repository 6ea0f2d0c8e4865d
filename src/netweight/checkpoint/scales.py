"""Weights of 8 bits that have scales beside them (DeepSeek-V3, Qwen3-FP8, compressed-tensors, modelopt): each is one
tensor under the weight's name, `code * scale`.

Stored are `NAME` in F8_E4M3, F8_E5M2 or I8, and `NAME_scale_inv` or `NAME_scale`, by which it is multiplied in spite
of the name: one for all, one for every row, or one for every block (`weight_block_size` in config; the last blocks are
cut). Integers that have zero points too are left as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.quantised import Found
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.checkpoint.tensors.scaled import ScaledTensor
from netweight.dtypes import DTYPES, Kind
from netweight.errors import FormatError, printable

__all__ = ["find"]

_CODES = frozenset({"F8_E4M3", "F8_E5M2", "I8"})
_SCALES = ("_scale_inv", "_scale")
_ZERO = "_zero_point"
_OF_INPUTS = ("input_scale", "input_scale_inv", "activation_scale", "act_scale")
_USUAL = 128  # elements of a block's side, where config does not say


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight with scales as one; raises FormatError where they do not fit, naming the model by `where`."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name in tensors:
        ending = next((ending for ending in _SCALES if name.endswith(ending)), None)
        weight = name.removesuffix(ending) if ending else ""
        if not ending or weight not in tensors or tensors[weight].dtype.name not in _CODES or weight + _ZERO in tensors:
            continue
        if weight in instead:
            raise FormatError(f"{where}: tensor {printable(weight)!r}: has two tensors of scales")
        instead[weight] = _scaled(tensors[weight], tensors[name], config, where)
        parts.add(name)
    if not instead:
        return Found()
    modules = {name.rpartition(".")[0] for name in instead}
    unused = [name for name in tensors if name.endswith(_OF_INPUTS) and name.rpartition(".")[0] in modules]
    skipped = tuple(Skipped(name, "a scale of a layer's inputs, no weight") for name in unused)
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    note = f"{len(instead)} weights are stored with scales ({kinds}): what is read is code times scale, as float32"
    return Found(instead, frozenset(parts.union(unused)), skipped, note)


def _scaled(codes: Tensor, scales: Tensor, config: Mapping[str, Any] | None, where: str) -> ScaledTensor:
    shape, grid = codes.shape, scales.shape
    if scales.size == 1:
        grid = (1,) * len(shape)
    elif len(grid) == 1 and len(shape) > 1:
        grid = (*grid, *(1,) * (len(shape) - 1))  # one for every row
    declared = _declared(config)
    floats = scales.dtype.kind is Kind.FLOAT
    if not shape or len(grid) != len(shape) or not floats:
        raise _do_not_fit(codes, scales, where)
    steps = []
    for axis, (n, count) in enumerate(zip(shape, grid, strict=True)):
        side = declared[axis - len(shape)] if declared and axis >= len(shape) - 2 else _USUAL
        step = max(n, 1) if count == 1 else 1 if count == n else side
        if count != max(1, -(-n // step)):
            raise _do_not_fit(codes, scales, where)
        steps.append(step)
    return ScaledTensor(codes.name, shape, DTYPES["F32"], codes, scales, tuple(steps), grid)


def _do_not_fit(codes: Tensor, scales: Tensor, where: str) -> FormatError:
    return FormatError(
        f"{where}: tensor {printable(codes.name)!r}: its shape {list(codes.shape)} and its scales"
        f" {printable(scales.name)!r}, {scales.dtype} {list(scales.shape)}, do not fit; expected one scale for all, for"
        " every row, or for every block of config.json's weight_block_size (128 x 128 where it has none)"
    )


def _declared(config: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """The sides of a block, [rows, columns], where config says them."""
    about = (config or {}).get("quantization_config")
    sides = about.get("weight_block_size") if isinstance(about, Mapping) else None
    if isinstance(sides, list) and len(sides) == 2 and all(type(n) is int and n > 0 for n in sides):
        return sides[0], sides[1]
    return None
