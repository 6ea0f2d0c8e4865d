"""AWQ: `NAME.qweight`, `NAME.qzeros`, `NAME.scales`, codes of 4 bits; the weight is `NAME.weight` [out, in], (code -
zero) * scale, rounded once to the scales' type.

Version gemm stores [in, out]: `qweight` int32 [in, out / 8] and `qzeros` int32 [groups, out / 8] hold eight neighbours
of a row in a word, in the order 0 2 4 6 1 3 5 7, the first in the low bits; `scales` [groups, out]. Version gemv stores
[out, in]: `qweight` int32 [out, in / 8], `qzeros` int32 [out, groups / 8], `scales` [out, groups], in their order, with
room for more groups than there are. Zero points are as they are. Sources: AutoAWQ's utils/packing_utils.py
(dequantize_gemm) and modules/linear/gemm.py, gemv.py. gemv_fast, llm-awq and marlin are not decoded: the first two
store products of scales and zero points, which nothing but their kernels defines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.decoders.found import Found, do_not_fit, packing, several, stored_twice
from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.grouped import GroupedTensor
from netweight.checkpoint.tensors.rearranged import turned
from netweight.checkpoint.tensors.unpacked import UnpackedAcrossTensor, UnpackedTensor
from netweight.dtypes import DTYPES

__all__ = ["find"]

_BITS = 4
_PER_WORD = 8
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place in its word of each of eight neighbours."""
_GEMM = frozenset({"awq gemm", "auto_round:auto_awq", "auto_round:awq"})
_GEMV = "awq gemv"
_TOGETHER = {128: 1, 64: 2, 32: 4}
"""Words of zero points that gemv makes room for at a time, by the size of a group."""


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every layer of AWQ as one weight; raises FormatError where its parts do not fit each other."""
    packed = packing(config)
    unsaid = not declared(config)
    if packed not in _GEMM and packed != _GEMV and not unsaid:
        return Found()
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name in tensors:
        layer = name.removesuffix(".qweight")
        if layer == name or f"{layer}.qzeros" not in tensors or f"{layer}.scales" not in tensors:
            continue
        codes, zeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
        if unsaid and len(codes.shape) == len(scales.shape) == 2 and codes.shape[1] == scales.shape[1]:
            continue  # of GPTQ
        stored_twice(f"{layer}.weight", tensors, where, "AWQ")
        made = _of_gemv if packed == _GEMV else _of_gemm
        instead[name] = made(f"{layer}.weight", codes, zeros, scales, declared(config).get("group_size"), where)
        parts |= {zeros.name, scales.name}
    if not instead:
        return Found()
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    what = several(len(instead), "weight is", "weights are")
    note = f"{what} stored by AWQ ({kinds}): what is read is (code - zero point) * scale, in the type of the scales"
    return Found(instead, frozenset(parts), note=note)


def _of_gemm(name: str, codes: Tensor, zeros: Tensor, scales: Tensor, _said: object, where: str) -> Tensor:
    expected = "int32 [in, out / 8], int32 [groups, out / 8] and floats [groups, out], in a multiple of groups"
    if not _are_matrices(codes, zeros, scales) or codes.shape[0] % scales.shape[0]:
        raise do_not_fit([codes, zeros, scales], expected, where)
    (cols, words), (groups, out) = codes.shape, scales.shape
    if zeros.shape != (groups, words) or words * _PER_WORD != out:
        raise do_not_fit([codes, zeros, scales], expected, where)
    byte = DTYPES["U8"]
    return GroupedTensor(
        name,
        (out, cols),
        scales.dtype,
        _label(cols // groups, cols),
        UnpackedAcrossTensor(codes.name, (out, cols), byte, turned(codes), _BITS, _PLACES),
        UnpackedAcrossTensor(zeros.name, (out, groups), byte, turned(zeros), _BITS, _PLACES),
        turned(scales),
        cols // groups,
    )


def _of_gemv(name: str, codes: Tensor, zeros: Tensor, scales: Tensor, said: object, where: str) -> Tensor:
    expected = (
        "int32 [out, in / 8], int32 [out, groups / 8], floats [out, groups], and config's group_size for the groups"
    )
    fits = _are_matrices(codes, zeros, scales) and codes.shape[0] == zeros.shape[0] == scales.shape[0]
    cols = codes.shape[-1] * _PER_WORD
    group = cols if said == -1 else said
    if not fits or zeros.shape[1] * _PER_WORD != scales.shape[1] or type(group) is not int or group <= 0:
        raise do_not_fit([codes, zeros, scales], expected, where)
    many = _TOGETHER.get(min(group, 128), 0)
    if not many or cols % group or zeros.shape[1] != -(-cols // group // (_PER_WORD * many)) * many:
        raise do_not_fit([codes, zeros, scales], expected, where)
    byte, out = DTYPES["U8"], codes.shape[0]
    return GroupedTensor(
        name,
        (out, cols),
        scales.dtype,
        _label(group, cols),
        UnpackedTensor(codes.name, (out, cols), byte, codes, _BITS),
        UnpackedTensor(zeros.name, (out, scales.shape[1]), byte, zeros, _BITS),
        scales,
        group,
    )


def _are_matrices(codes: Tensor, zeros: Tensor, scales: Tensor) -> bool:
    three = (codes, zeros, scales)
    words = {codes.dtype.name, zeros.dtype.name} <= {"I32", "U32"}
    return words and scales.dtype.name in {"F16", "BF16", "F32"} and all(len(t.shape) == 2 and t.size for t in three)


def _label(group: int, cols: int) -> str:
    return f"AWQ int4 {'rows' if group >= cols else f'g{group}'}"
