"""GPTQ: `NAME.qweight`, `NAME.qzeros`, `NAME.scales`, and `NAME.g_idx`, which has the group of every column.

Stored are [in, out] matrices: `qweight` int32 [in bits / 32, out] holds codes of 2, 3, 4 or 8 bits down its columns,
`qzeros` int32 [groups, out bits / 32] zero points along its rows, `scales` [groups, out] floats. The weight is
`NAME.weight` [out, in], (code - zero) * scale, rounded once to the scales' type. The first version of the format
(`checkpoint_format: gptq`, also where config says none) stores zero points less one, `gptq_v2` as they are. Sources:
GPTQModel's nn_modules/qlinear/torch.py, utils/model.py (convert_gptq_v1_to_v2_format_module), AutoGPTQ's
nn_modules/qlinear/qlinear_cuda.py.

Where a stored zero point has all bits set, which is 0 in the first version, AutoGPTQ's kernels differ among themselves;
here it is what GPTQModel makes of it (see UnpackedAcrossTensor). auto-round's exports in this packing are read as well;
it stores zero points as they are in `auto_round` and `auto_round:gptqmodel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.decoders.found import Found, conv1d, do_not_fit, packing, several, stored_twice
from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.grouped import GroupedTensor
from netweight.checkpoint.tensors.rearranged import turned
from netweight.checkpoint.tensors.unpacked import UnpackedAcrossTensor, UnpackedTensor
from netweight.dtypes import DTYPES

__all__ = ["find"]

_BITS = (4, 8, 3, 2)
_LESS_ONE = {
    "gptq": True, "gptq_v2": False, "auto_round:auto_gptq": True, "auto_round:gptq": True, "auto": True,
    "auto_round": False, "auto_round:gptqmodel": False,
}  # fmt: skip
"""Whether a packing stores zero points less one."""
_EMBEDDINGS = frozenset({
    "embed_tokens", "wte", "tok_embeddings", "word_embeddings", "embed_in", "embedding", "embeddings", "shared",
})  # fmt: skip
"""Modules that GPTQModel quantises as [vocabulary, width]: their weights are not turned (TorchQuantEmbeddings)."""


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every layer of GPTQ as one weight; raises FormatError where its parts do not fit each other."""
    less_one = _LESS_ONE.get(packing(config))
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    if less_one is None:
        return Found()
    for name in tensors:
        layer = name.removesuffix(".qweight")
        if layer == name or f"{layer}.qzeros" not in tensors or f"{layer}.scales" not in tensors:
            continue
        codes, zeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
        index = tensors.get(f"{layer}.g_idx")
        if not declared(config) and len(codes.shape) == len(scales.shape) == 2 and codes.shape[1] != scales.shape[1]:
            continue  # of AWQ
        stored_twice(f"{layer}.weight", tensors, where, "GPTQ")
        instead[name] = _decoded(f"{layer}.weight", (codes, zeros, scales, index), config, where, less_one=less_one)
        parts |= {zeros.name, scales.name} | ({index.name} if index is not None else set())
    if not instead:
        return Found()
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    version = "less one" if less_one else "as they are"
    said = "" if declared(config) else "; nothing says the format's version: it is read as the first"
    what = several(len(instead), "weight is", "weights are")
    note = (
        f"{what} stored by GPTQ ({kinds}; zero points {version}){said}: what is read is (code -"
        " zero point) * scale, in the type of the scales"
    )
    return Found(instead, frozenset(parts), note=note)


def _decoded(
    name: str,
    parts: tuple[Tensor, Tensor, Tensor, Tensor | None],
    config: Mapping[str, Any] | None,
    where: str,
    *,
    less_one: bool,
) -> Tensor:
    codes, zeros, scales, index = parts
    found = [part for part in parts if part is not None]
    expected = (
        "int32 [in bits / 32, out], int32 [groups, out bits / 32], floats [groups, out] and, if any, an index [in], of"
        " 2, 3, 4 or 8 bits"
    )
    words = {codes.dtype.name, zeros.dtype.name} <= {"I32", "U32"}
    floats = scales.dtype.name in {"F16", "BF16", "F32"}
    flat = len(codes.shape) == len(zeros.shape) == len(scales.shape) == 2
    indexed = index is None or (len(index.shape) == 1 and index.dtype.name in {"I32", "I64"} and index.size > 0)
    if not (words and floats and flat and indexed) or codes.shape[1] != scales.shape[1]:
        raise do_not_fit(found, expected, where)
    groups, out = scales.shape
    said = declared(config)
    bits = _bits(codes.shape[0], zeros.shape[1], out, index.size if index is not None else None, said.get("bits"))
    if not bits or not out or not groups or zeros.shape[0] != groups:
        raise do_not_fit(found, expected, where)
    cols = index.size if index is not None else codes.shape[0] * 32 // bits
    group = _group(cols, groups, said.get("group_size"), indexed=index is not None)
    if not group:
        raise do_not_fit(found, expected + f", {groups} groups in {cols} columns", where)
    wide = codes.shape[0] * 32 // bits
    label = f"GPTQ int{bits} {'rows' if group >= cols else f'g{group}'}"
    dense = UnpackedTensor(codes.name, (out, wide), DTYPES["U8"], turned(codes), bits)
    points = UnpackedAcrossTensor(zeros.name, (out, groups), DTYPES["U8"], turned(zeros), bits, less_one=less_one)
    held = GroupedTensor(name, (out, cols), scales.dtype, label, dense, points, turned(scales), group, index)
    return turned(held) if conv1d(name, config) or name.split(".")[-2] in _EMBEDDINGS else held


def _bits(rows: int, words: int, out: int, cols: int | None, said: object) -> int:
    """Bits of a code, by the words that hold them: as config says, if that fits; 0 where nothing fits."""
    fitting = [
        bits
        for bits in _BITS
        if words == -(-out * bits // 32)
        and rows * 32 % bits == 0
        and (rows > 0 if cols is None else rows == -(-cols * bits // 32))
    ]
    return said if type(said) is int and said in fitting else fitting[0] if len(fitting) == 1 else 0


def _group(cols: int, groups: int, said: object, *, indexed: bool) -> int:
    """Columns of a group: as config says, if that fits; 0 where nothing fits. With an index it is a name only."""
    if type(said) is int and said > 0 and -(-cols // said) == groups:
        return said
    if groups == 1:
        return cols
    if cols % groups == 0:
        return cols // groups
    return -(-cols // groups) if indexed else 0
