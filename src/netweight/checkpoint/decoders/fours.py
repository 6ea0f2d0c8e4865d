"""Floats of 4 bits, two in a byte, the low half first, with a scale for every 16 or 32 columns.

compressed-tensors: `X.weight_packed` U8 [.., out, in / 2] and `X.weight_scale`, as bfloat16, which its `decompress`
gives:

- `nvfp4-pack-quantized`: E2M1, a scale F8_E4M3 for every 16; it is divided by `X.weight_global_scale`;
- `mxfp4-pack-quantized`: E2M1, a scale U8 for every 32: the exponent of a power of two, above 127;
- `mxfp6-pack-quantized`: E2M3, four numbers in three bytes, such a scale for every 32.

modelopt: `X.weight` U8 (of fused experts `X`), `X.weight_scale` F8_E4M3 for every 16, which is multiplied by
`X.weight_scale_2`, one for all or for every expert. What is read is the float32 that its `dequantize` computes. The
experts of Llama 4 are [experts, in, out] there: two rows are in one of bytes, and 16 rows share a scale.

DeepSeek-V4: experts `X.weight` I8 and `X.scale` F8_E8M0 for every 32, as bfloat16, which has every number.

The code 8, minus zero, is zero in the tables of modelopt and DeepSeek.

Source: compressed-tensors' `compressors/nvfp4`, `mxfp4` and `mxfp6`; modelopt's `qtensor/nvfp4_tensor.py` and
`export/unified_export_hf.py`; DeepSeek-V4's `inference/convert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netweight.checkpoint.decoders.found import Found, several, shown, wrong
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.microscaled import GROUP
from netweight.checkpoint.tensors.packed import PackedTensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor
from netweight.dtypes import DTYPES
from netweight.errors import printable

__all__ = ["find"]

_PACKED, _FIRST, _SECOND, _SCALE = "weight_packed", "weight_scale", "weight_scale_2", ".scale"
_NVIDIA = 16  # columns that share a scale
_LOW_RANK = ("svdquant_lora_a", "svdquant_lora_b")


def find(tensors: Mapping[str, Tensor], _config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight of packed floats as one; raises FormatError where parts do not fit each other."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    smoothed = 0
    found: Tensor
    candidates = [name for name in tensors if name.endswith((_PACKED, _SECOND, _FIRST, _SCALE))]
    for name in candidates:
        if name.endswith(_PACKED) and tensors[name].dtype.name != "I32":
            stored, found = name, _compressed(name, tensors, where)
        elif name.endswith(_SECOND) and (weight := _weight_of(name)) in tensors and _is_bytes(tensors[weight], "U8"):
            stored, found = weight, _modelopt(weight, name, tensors, where)
            smoothed += name.removesuffix(_SECOND) + "pre_quant_scale" in tensors
        elif name.endswith(_SCALE) and _is_expert(name, tensors):
            stored, found = name.removesuffix(_SCALE) + ".weight", _deepseek(name, tensors, where)
        else:
            continue
        instead[stored] = found
        parts.update(part.name for part in found.stored_parts)
    others = [name.removesuffix("_scale") for name in candidates if name.endswith(_FIRST)]
    unread = sum(name in tensors and name not in instead and _is_bytes(tensors[name], "U8") for name in others)
    notes = [_note(instead, smoothed)] if instead else []
    if unread:
        what = several(unread, "weight is bytes with scales", "weights are bytes with scales")
        notes.append(f"{what} of a format that is not read: they are left as they are stored, and not measured")
    return Found(instead, frozenset(parts - instead.keys()), note="; ".join(notes))


def _note(instead: Mapping[str, Tensor], smoothed: int) -> str:
    """What was found; `smoothed`: of how many of them a layer's inputs are multiplied first."""
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    types = " or ".join(sorted({"float32" if t.dtype.name == "F32" else "bfloat16" for t in instead.values()}))
    what = several(len(instead), "weight is", "weights are")
    note = f"{what} stored as packed floats ({kinds}): what is read is number times scale, as {types}"
    if smoothed:
        of_them = several(smoothed, "layer's inputs are", "layers' inputs are")
        note += f"; {of_them} multiplied by a tensor 'pre_quant_scale' first, which is no part of what is read"
    return note


def _is_bytes(tensor: Tensor, dtype: str) -> bool:
    return tensor.dtype.name == dtype


def _is_expert(name: str, tensors: Mapping[str, Tensor]) -> bool:
    weight = tensors.get(name.removesuffix(_SCALE) + ".weight")
    return weight is not None and _is_bytes(weight, "I8") and _is_bytes(tensors[name], "F8_E8M0")


def _weight_of(second: str) -> str:
    """The weight's name by that of its second scale: `X.weight`, of fused experts `X`."""
    before = second.removesuffix(_SECOND)
    return before[:-1] if before.endswith("_") else f"{before}weight"


def _compressed(name: str, tensors: Mapping[str, Tensor], where: str) -> PackedTensor:
    weight = name.removesuffix("_packed")
    codes, scales, overall = tensors[name], tensors.get(f"{weight}_scale"), tensors.get(f"{weight}_global_scale")
    if weight in tensors:
        raise wrong(where, weight, "is stored twice, as packed floats too")
    if scales is None:
        raise wrong(where, name, f"has no scales {printable(weight + '_scale')!r} beside it")
    if (shifted := f"{weight}_zero_point") in tensors:
        raise wrong(where, name, f"{shown(codes)} has zero points {printable(shifted)!r}; expected none, as of floats")
    kind = _kind(codes, scales)
    if kind is None or (overall is not None and (kind != "NVFP4" or overall.size != 1 or overall.dtype.name != "F32")):
        raise wrong(
            where,
            name,
            f"{shown(codes)}, its scales {shown(scales)} and the global one ({shown(overall)}) do not fit; expected U8"
            " [.., out, in / 2] and F8_E4M3 [.., out, in / 16] with a global F32 [1], or U8 [.., out, in / 32] without,"
            " or such with 6 bits a number",
        )
    bits, values, step = _KINDS[kind]
    shape = (*codes.shape[:-1], codes.shape[-1] * 8 // bits)
    steps = (*(1 for _ in shape[:-1]), step)
    return PackedTensor(
        weight, shape, DTYPES["BF16"], codes, scales, steps, scales.shape, bits, values, kind,
        overall=overall, divides=True,
    )  # fmt: skip


_KINDS = {"NVFP4": (4, "F4", _NVIDIA), "MXFP4": (4, "F4", GROUP), "MXFP6": (6, "F6_E2M3", GROUP)}


def _kind(codes: Tensor, scales: Tensor) -> str | None:
    """Which format has codes and scales of these shapes and types."""
    if codes.dtype.name != "U8" or len(codes.shape) < 2 or scales.shape[:-1] != codes.shape[:-1]:
        return None
    of_type = ("NVFP4",) if scales.dtype.name == "F8_E4M3" else ("MXFP4", "MXFP6")
    if scales.dtype.name not in {"F8_E4M3", "U8", "F8_E8M0"} or len(scales.shape) != len(codes.shape):
        return None
    width = codes.shape[-1] * 8
    return next((kind for kind in of_type if width == scales.shape[-1] * _KINDS[kind][2] * _KINDS[kind][0]), None)


def _modelopt(weight: str, second: str, tensors: Mapping[str, Tensor], where: str) -> Tensor:
    codes, overall, scales = tensors[weight], tensors[second], tensors.get(second.removesuffix("_2"))
    before = second.removesuffix(_SECOND)
    if low_rank := next((before + name for name in _LOW_RANK if before + name in tensors), None):
        raise wrong(where, weight, f"has a part of low rank, {printable(low_rank)!r}, beside it, which is not read")
    found = _two_scales(weight, codes, scales, overall) if scales is not None else None
    if found is None:
        raise wrong(
            where,
            weight,
            f"{shown(codes)} and its scales {shown(scales)} and {shown(overall)} do not fit; expected F8_E4M3 for every"
            " 16 columns (of fused experts, also rows) and F32, one for all or for every expert",
        )
    return found


def _two_scales(name: str, codes: Tensor, scales: Tensor, overall: Tensor) -> Tensor | None:
    shape, wide = codes.shape, DTYPES["F32"]
    types = (scales.dtype.name, overall.dtype.name)
    experts = shape[0] if len(shape) == 3 else 1
    if types != ("F8_E4M3", "F32") or len(shape) not in {2, 3} or overall.size not in {1, experts}:
        return None
    if shape[-1] % 8 == 0 and scales.shape == (*shape[:-1], shape[-1] // 8):
        whole, steps = (*shape[:-1], 2 * shape[-1]), (*(1 for _ in shape[:-1]), _NVIDIA)
        return PackedTensor(name, whole, wide, codes, scales, steps, scales.shape, 4, "F4+0", "NVFP4", overall=overall)
    if len(shape) != 3 or shape[1] % 8 or scales.shape != (experts, shape[1] // 8, shape[2]):
        return None
    # as stored a row has two numbers for every column, of this row of the weight and the next
    rows, cols = shape[1:]
    held = PackedTensor(
        name,
        (experts, rows, 2 * cols),
        wide,
        codes,
        scales,
        (1, 8, 2),
        scales.shape,
        4,
        "F4+0",
        "NVFP4",
        overall=overall,
    )
    if not held.size:
        return replace(held, shape=(experts, 2 * rows, cols))
    placed = [
        Placed(range(experts * rows), range(half * cols, (half + 1) * cols), held, half, 2 * cols, 2) for half in (0, 1)
    ]
    return RearrangedTensor(name, (experts, 2 * rows, cols), wide, 2 * cols, tuple(placed), own=True)


def _deepseek(name: str, tensors: Mapping[str, Tensor], where: str) -> PackedTensor:
    weight = name.removesuffix(_SCALE) + ".weight"
    codes, scales = tensors[weight], tensors[name]
    *lead, width = codes.shape if len(codes.shape) > 1 else (0, 0)
    if width % (GROUP // 2) or scales.shape != (*lead, width // (GROUP // 2)):
        expected = "bytes of two numbers and a scale for every 32 columns"
        raise wrong(where, weight, f"{shown(codes)} and its scales {shown(scales)} do not fit; expected {expected}")
    shape, steps = (*lead, 2 * width), (*(1 for _ in lead), GROUP)
    return PackedTensor(weight, shape, DTYPES["BF16"], codes, scales, steps, scales.shape, 4, "F4+0", "MXFP4")
