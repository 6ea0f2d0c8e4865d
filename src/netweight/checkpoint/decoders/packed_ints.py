"""Integers of compressed-tensors: packed (`pack-quantized`, 1 to 8 bits), or bytes with zero points (`int-quantized`).

A packed weight `X.weight` [.., out, in] is stored as

- `X.weight_packed` I32 [.., out, ceil(in * bits / 32)]: the codes of a row one after the other, the lowest bits first,
  also across words; a code stands for code - 2^(bits - 1);
- `X.weight_scale`, one for all, for every row, or for every group of a row's columns ([.., out, groups]);
- `X.weight_zero_point`, I8 of the scales' shape, or I32 and packed like the codes, but along the rows: [.., ceil(out *
  bits / 32), groups];
- `X.weight_g_idx` [in], the group of every column, where they are no neighbours; -1 in it says nothing;
- `X.weight_shape`, which is read where config's group size does not tell how many columns there are.

The weight is (code - zero point) * scale in the scales' type, as the package's `decompress` gives it. Source:
compressed-tensors' `compressors/pack_quantized` and `naive_quantized`, and version 0.10 for the groups of columns.
Before version 0.18, codes of 3, 5, 6 and 7 bits did not cross words: such a weight is refused, by its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from netweight.checkpoint.decoders.blocks import Blocks, blocks_of
from netweight.checkpoint.decoders.found import Found, several, shown, wrong
from netweight.checkpoint.decoders.quantisation import Compressed, compressed_tensors
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.packed import PackedTensor, whole_numbers
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["find"]

_PACKED = "weight_packed"
_FLOATS = frozenset({"F32", "F16", "BF16"})
_WHOLE = frozenset({"I32", "I64"})
_ASIDE = ("_zero_point", "_g_idx")


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight of packed integers, and of bytes with zero points, as one; raises FormatError where parts do not fit
    each other, or config.
    """
    made = compressed_tensors(config)
    if made and "marlin-24" in made.formats:
        raise FormatError(
            f"{where}: its quantization_config has the format 'marlin-24', laid out for one GPU kernel and not decoded;"
            " take the model that it was made from"
        )
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name in [name for name in tensors if name.endswith((_PACKED, *_ASIDE))]:
        weight = next((name.removesuffix(ending) for ending in _ASIDE if name.endswith(ending)), "")
        if not weight and tensors[name].dtype.name == "I32":
            found = _packed(name, tensors, made, where)
        elif weight not in instead and _is_bytes(weight, tensors):
            found = _bytes(weight, tensors, config, where)
        else:
            continue
        instead[weight or name] = found
        parts.update(part.name for part in found.stored_parts)
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    what = several(len(instead), "weight is", "weights are")
    note = (
        f"{what} stored as integers of compressed-tensors ({kinds}): what is read is code times scale, less the zero"
        " point where there is one, in the scales' type"
    )
    return Found(instead, frozenset(parts - instead.keys()), note=note if instead else "")


def _is_bytes(weight: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether it is a weight of bytes with scales."""
    return weight in tensors and f"{weight}_scale" in tensors and tensors[weight].dtype.name == "I8"


def _packed(name: str, tensors: Mapping[str, Tensor], made: Compressed | None, where: str) -> PackedTensor:
    weight = name.removesuffix("_packed")
    codes, scales, declared = tensors[name], tensors.get(f"{weight}_scale"), tensors.get(f"{weight}_shape")
    if weight in tensors:
        raise wrong(where, weight, "is stored twice, as packed integers too")
    if scales is None:
        raise wrong(where, name, f"has no scales {printable(weight + '_scale')!r} beside it")
    lead = codes.shape[:-1]
    groups = scales.shape[-1] if len(scales.shape) > 1 and scales.shape[:-1] == lead else 0
    if not lead or not (groups or scales.size == 1) or scales.dtype.name not in _FLOATS:
        expected = "F32, F16 or BF16, one for all or [.., rows, groups]"
        raise wrong(where, name, f"{list(codes.shape)} and its scales {shown(scales)} do not fit; expected {expected}")
    bits, cols = _bits_and_columns(codes, groups or 1, declared, made, where)
    shape = (*lead, cols)
    if groups:
        blocks = Blocks((*(1 for _ in lead), max(1, cols // groups)), scales.shape)
    else:
        blocks = Blocks(tuple(max(1, n) for n in shape), (1,) * len(shape))
    zeros, index = _beside(weight, tensors, scales, (*lead[:-1], _width(bits, lead[-1]), groups or 1), where)
    return _made(
        weight, shape, codes, scales, blocks, bits, "int", zeros, _index(index, shape, blocks, where), declared
    )


def _bytes(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> PackedTensor:
    codes, scales = tensors[name], tensors[f"{name}_scale"]
    blocks = blocks_of(codes.shape, scales, config) if len(codes.shape) > 1 else None
    if blocks is None or scales.dtype.name not in _FLOATS:
        expected = "F32, F16 or BF16, one for all, for every row, or for groups of the size that config.json has"
        raise wrong(where, name, f"{shown(codes)} and its scales {shown(scales)} do not fit; expected {expected}")
    zeros, index = _beside(name, tensors, scales, None, where)
    return _made(name, codes.shape, codes, scales, blocks, 8, "I8", zeros, _index(index, codes.shape, blocks, where))


def _beside(
    weight: str, tensors: Mapping[str, Tensor], scales: Tensor, packed: tuple[int, ...] | None, where: str
) -> tuple[Tensor | None, Tensor | None]:
    """The weight's zero points and its groups of columns; `packed` is the shape of packed zero points."""
    zeros, index = (tensors.get(weight + ending) for ending in _ASIDE)
    if zeros is not None:
        plain = zeros.shape == scales.shape or zeros.size == scales.size == 1
        if not (zeros.dtype.name == "I8" and plain) and not (zeros.dtype.name == "I32" and zeros.shape == packed):
            either = f" or I32 {list(packed)}" if packed else ""
            raise wrong(where, weight, f"has zero points {shown(zeros)}; expected I8 {list(scales.shape)}{either}")
    return zeros, index


def _index(index: Tensor | None, shape: tuple[int, ...], blocks: Blocks, where: str) -> Tensor | None:
    whole = shape[-1] % blocks.grid[-1] == 0
    if index is not None and (index.dtype.name not in _WHOLE or index.shape != shape[-1:] or not whole):
        expected = f"I32 [{shape[-1]}], of {blocks.grid[-1]} groups of one size"
        raise wrong(where, index.name, f"says the group of every column in {shown(index)}; expected {expected}")
    return index


def _made(
    weight: str,
    shape: tuple[int, ...],
    codes: Tensor,
    scales: Tensor,
    blocks: Blocks,
    bits: int,
    values: str,
    zeros: Tensor | None,
    index: Tensor | None,
    declared: Tensor | None = None,
) -> PackedTensor:
    steps, grid = blocks
    kind = "tensor" if prod(grid) == 1 else "channel" if grid[-1] == 1 else f"g{steps[-1]}"
    label = f"int{bits} {kind}{'' if zeros is None else ' with zero points'}"
    dtype = DTYPES[scales.dtype.name]
    return PackedTensor(
        weight, shape, dtype, codes, scales, steps, grid, bits, values, label, zeros, index, declared=declared
    )


def _bits_and_columns(
    codes: Tensor, groups: int, declared: Tensor | None, made: Compressed | None, where: str
) -> tuple[int, int]:
    """How many bits a code has, and a row codes: from config's schemes, or from the shape that is stored."""
    width = codes.shape[-1]
    schemes = [scheme for scheme in (made.schemes if made else ()) if scheme.integers and scheme.bits <= 8]
    if schemes and all(scheme.group for scheme in schemes):
        fitting = {(s.bits, groups * s.group) for s in schemes if s.group and _width(s.bits, groups * s.group) == width}
        if len(fitting) == 1:
            return fitting.pop()
    shape = whole_numbers(declared) if declared is not None and _is_shape(declared, codes) else ()
    cols = shape[-1] if shape[:-1] == codes.shape[:-1] and shape else 0
    bits = {scheme.bits for scheme in schemes} or set(range(1, 9))
    bits = {n for n in bits if cols > 0 and cols % groups == 0 and _width(n, cols) == width}
    if len(bits) != 1:
        stored = f"the shape {list(shape)}" if shape else "no shape"
        expected = "a shape and, in config.json's config_groups, a number of bits that fit"
        raise wrong(
            where, codes.name, f"{shown(codes)}, {groups} groups in a row and {stored} beside it; expected {expected}"
        )
    return bits.pop(), cols


def _is_shape(declared: Tensor, codes: Tensor) -> bool:
    return declared.dtype.name in _WHOLE and declared.shape == (len(codes.shape),)


def _width(bits: int, count: int) -> int:
    return -(-count * bits // 32)
