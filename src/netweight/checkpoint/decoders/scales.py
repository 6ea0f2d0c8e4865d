"""Weights of 8 bits that have scales beside them: each is one tensor under the weight's name, `code * scale`.

Stored are `NAME` in F8_E4M3, F8_E5M2 or I8, and the scales by which it is multiplied, whatever they are called: one for
all, one for every row, or one for every block (see `blocks.py`):

- `NAME_scale_inv` (DeepSeek-V3, Qwen3-FP8), `NAME_scale` (compressed-tensors, modelopt, ComfyUI); in MXFP8 bytes, which
  are exponents, for every 32 columns;
- `X.scale` beside `X.weight` (DeepSeek-V4, and DeepSeek's own inference/convert.py): where it is E8M0, or has one
  number for every block. Else it may be a parameter of its own, and a note says so;
- `X.scale_weight` beside `X.weight` (older files of ComfyUI).

The product is float32; bfloat16 for MXFP8; and where config names compressed-tensors, of the scales' type, since its
`decompress` multiplies in that. Integers with zero points are read by `packed_ints.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from netweight.checkpoint.decoders.blocks import blocks_of
from netweight.checkpoint.decoders.found import Found, several
from netweight.checkpoint.decoders.quantisation import compressed_tensors
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.scaled import ScaledTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["find"]

_CODES = frozenset({"F8_E4M3", "F8_E5M2", "I8"})
_FLOATS = frozenset({"F32", "F16", "BF16"})
_SCALES = ("_scale_inv", "_scale")
_COMFY = ".scale_weight"
_BESIDE = (".scale", _COMFY)  # of a tensor `.weight`


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight with scales as one; raises FormatError where they do not fit, naming the model by `where`."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    unsure = whole = 0
    for name, weight in _pairs(tensors):
        codes, scales = tensors[weight], tensors[name]
        if name.endswith(_COMFY) and not codes.dtype.name.startswith("F8"):
            whole += 1
            continue
        if codes.dtype.name not in _CODES or _of_others(codes, scales, tensors, where):
            continue
        scaled = _scaled(codes, scales, config)
        if scaled is None and _perhaps_own(scales):
            unsure += codes.dtype.name != "I8"
            continue
        if scaled is None:
            raise _do_not_fit(codes, scales, where)
        if weight in instead:
            raise FormatError(f"{where}: tensor {printable(weight)!r}: has two tensors of scales")
        instead[weight] = scaled
        parts.add(name)
    notes = []
    if instead:
        kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
        made = " or ".join(sorted({_NAMES[tensor.dtype.name] for tensor in instead.values()}))
        what = several(len(instead), "weight is", "weights are")
        notes.append(f"{what} stored with scales ({kinds}): what is read is code times scale, as {made}")
    if unsure:
        what = several(unsure, "weight of 8 bits has", "weights of 8 bits have")
        notes.append(f"{what} a tensor 'scale' beside, which is no scale of blocks: both are read as they are stored")
    if whole:
        what = several(whole, "weight has", "weights have")
        notes.append(f"{what} a tensor 'scale_weight' beside and more than 8 bits: both are read as they are stored")
    return Found(instead, frozenset(parts), note="; ".join(notes))


_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(Name of what may be scales, name of the weight that they would be of)."""
    for name in [name for name in tensors if name.endswith((*_SCALES, *_BESIDE))]:
        ending = next((ending for ending in _SCALES if name.endswith(ending)), None)
        if ending and (weight := name.removesuffix(ending)) in tensors:
            yield name, weight
        beside = next((ending for ending in _BESIDE if name.endswith(ending)), None)
        if beside and (weight := f"{name.removesuffix(beside)}.weight") in tensors:
            yield name, weight


def _of_others(codes: Tensor, scales: Tensor, tensors: Mapping[str, Tensor], where: str) -> bool:
    """Whether they are another decoder's; raises FormatError for what none reads."""
    shifted = [end for end in ("_zero_point", "_g_idx") if codes.name + end in tensors]
    if codes.dtype.name == "I8":
        return bool(shifted) or scales.dtype.name == "F8_E8M0"  # bytes of two numbers: see `fours.py`
    beside = [*shifted, *([] if codes.name + "_scale_2" not in tensors else ["_scale_2"])]
    if beside and scales.name.startswith(codes.name):
        raise FormatError(
            f"{where}: tensor {printable(codes.name)!r}: {codes.dtype} with scales and"
            f" {printable(codes.name + beside[0])!r}; expected scales alone"
        )
    return False


def _perhaps_own(scales: Tensor) -> bool:
    """Whether it may be a parameter called `scale`, unless it fits blocks."""
    return scales.name.endswith(".scale") and scales.dtype.name != "F8_E8M0"


def _scaled(codes: Tensor, scales: Tensor, config: Mapping[str, Any] | None) -> ScaledTensor | None:
    blocks = blocks_of(codes.shape, scales, config, by_blocks=_perhaps_own(scales))
    if blocks is None:
        return None
    dtype = "BF16" if scales.dtype.name == "U8" else "F32"
    if scales.dtype.name in _FLOATS and compressed_tensors(config):
        dtype = scales.dtype.name
    return ScaledTensor(codes.name, codes.shape, DTYPES[dtype], codes, scales, blocks.steps, blocks.grid)


def _do_not_fit(codes: Tensor, scales: Tensor, where: str) -> FormatError:
    return FormatError(
        f"{where}: tensor {printable(codes.name)!r}: its shape {list(codes.shape)} and its scales"
        f" {printable(scales.name)!r}, {scales.dtype} {list(scales.shape)}, do not fit; expected one scale for all, for"
        " every row, or for every block of config.json's weight_block_size (128 x 128 where it has none)"
    )
