"""MLX: `NAME.weight` uint32 [.., in bits / 32], codes one after the other, the low bits first, and `NAME.scales` [..,
groups].

config's `quantization` (or `quantization_config`) has bits, group_size and mode, and the same by module where some
differ. Mode affine, of 2, 3, 4, 5, 6 or 8 bits, has `NAME.biases` [.., groups] too: the weight is code * scale + bias
in their type, the product and the sum rounded each, as mlx.core.dequantize gives it on a CPU; a GPU may round once.
Modes mxfp4, mxfp8 (a power of two for every 32 numbers) and nvfp4 (an E4M3 for every 16) have scales in bytes; the
weight is number * scale, rounded to bfloat16, which dequantize returns (all are exact, but for some below 2^-126).
Sources: mlx/ops.cpp (affine_dequantize, fp_dequantize), mlx.nn's layers/quantized.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.decoders.found import Found, do_not_fit, several
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.grouped import AffineTensor
from netweight.checkpoint.tensors.looked_up import LookedUpTensor
from netweight.checkpoint.tensors.unpacked import UnpackedTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["find"]

_AFFINE = "affine"
_AFFINE_BITS = frozenset({2, 3, 4, 5, 6, 8})
_USUAL = {_AFFINE: (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
"""Group size and bits where a module's entry does not say them (mlx.nn)."""
_TABLES = {"mxfp4": ("e2m1", "e8m0"), "mxfp8": ("e4m3", "e8m0"), "nvfp4": ("e2m1", "e4m3")}


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight of MLX's as one; raises FormatError where its parts do not fit each other or config."""
    about = _settings(config)
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    unsaid = 0
    for name in tensors:
        if not name.endswith(".scales"):
            continue
        module = name.removesuffix(".scales")
        weight = f"{module}.weight"
        if weight not in tensors or tensors[weight].dtype.name != "U32":
            continue
        biases = tensors.get(f"{module}.biases")
        if biases is None and tensors[name].dtype.name != "U8":
            continue  # another program's
        if about is None:
            unsaid += 1
            continue
        instead[weight] = _decoded(module, tensors[weight], tensors[name], biases, about, where)
        parts |= {name} | ({biases.name} if biases is not None else set())
    if instead:
        kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
        what = several(len(instead), "weight is", "weights are")
        note = f"{what} stored by MLX ({kinds}): what is read is what its dequantize gives on a CPU"
        return Found(instead, frozenset(parts), note=note)
    if unsaid:
        what = several(unsaid, "weight is", "weights are")
        note = (
            f"{what} quantised by MLX, and no config says how: codes are packed into U32 and not decoded; elements are"
            " counted as stored, and no measure of them is taken"
        )
        return Found(note=note)
    return Found()


def _settings(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What config says of all modules, and of some by name; None where it says nothing."""
    text = (config or {}).get("text_config")
    for level in (config, text if isinstance(text, Mapping) else None):
        for key in ("quantization", "quantization_config"):
            about = (level or {}).get(key)
            if isinstance(about, Mapping) and ("bits" in about or "mode" in about):
                return about
    return None


def _decoded(
    module: str, codes: Tensor, scales: Tensor, biases: Tensor | None, about: Mapping[str, Any], where: str
) -> Tensor:
    own = about.get(module)
    said = own if isinstance(own, Mapping) else about
    mode = said.get("mode", _AFFINE if biases is not None else None)
    if not isinstance(mode, str) or mode not in _USUAL:
        raise FormatError(
            f"{where}: tensor {printable(codes.name)!r}: config's quantization mode for it is {printable(repr(mode))};"
            f" expected one of {', '.join(_USUAL)}"
        )
    group, bits = (said.get(key) or usual for key, usual in zip(("group_size", "bits"), _USUAL[mode], strict=True))
    fits = (
        type(group) is int and type(bits) is int and group > 0
        and (bits in _AFFINE_BITS if mode == _AFFINE else (group, bits) == _USUAL[mode])
        and len(codes.shape) >= 2 and codes.size > 0 and scales.shape[:-1] == codes.shape[:-1]
        and codes.shape[-1] * 32 == scales.shape[-1] * group * bits
        and _are_scales(mode, scales, biases)
    )  # fmt: skip
    if not fits:
        parts = [part for part in (codes, scales, biases) if part is not None]
        raise do_not_fit(
            parts, f"codes and scales of mode {mode}, {bits} bits in groups of {group}, as config says", where
        )
    shape = (*codes.shape[:-1], scales.shape[-1] * group)
    dense = UnpackedTensor(codes.name, shape, DTYPES["U8"], codes, bits)
    if biases is not None:
        return AffineTensor(codes.name, shape, scales.dtype, f"MLX int{bits} g{group}", dense, scales, biases, group)
    table, scale_table = _TABLES[mode]
    label = f"MLX {mode.upper()}"
    return LookedUpTensor(codes.name, shape, DTYPES["BF16"], label, dense, table, scales, group, scale_table)


def _are_scales(mode: str, scales: Tensor, biases: Tensor | None) -> bool:
    if mode != _AFFINE:
        return biases is None and scales.dtype.name == "U8"
    floats = scales.dtype.name in {"F16", "BF16", "F32"}
    return biases is not None and floats and biases.dtype == scales.dtype and biases.shape == scales.shape
