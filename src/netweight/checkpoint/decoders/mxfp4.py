"""Experts in MXFP4, as gpt-oss has them: `NAME_blocks` [experts, out, groups, 16] and `NAME_scales` [experts, out,
groups], bytes both.

A byte has two numbers of 4 bits (E2M1), the low one first; a scale is a power of two (E8M0) for the 32 numbers of its
group. The weight is `NAME` [experts, in, out], transposed, as the model's bfloat16 form has it; every number fits
bfloat16. Source: gpt_oss/torch/weights.py, and transformers' integrations/mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netweight.checkpoint.decoders.found import Found, several
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.microscaled import GROUP, MicroscaledTensor, TurnedMicroscaledTensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["find"]

_BLOCKS, _SCALES = "_blocks", "_scales"


def find(tensors: Mapping[str, Tensor], _config: Mapping[str, Any] | None, where: str) -> Found:
    """Every pair of blocks and scales as one weight; raises FormatError where they do not fit."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    for name in [name for name in tensors if name.endswith(_BLOCKS)]:
        if (other := name.removesuffix(_BLOCKS) + _SCALES) not in tensors:
            continue
        if (weight := name.removesuffix(_BLOCKS)) in tensors:
            raise FormatError(f"{where}: tensor {printable(weight)!r}: is stored twice, in MXFP4 too")
        blocks, scales = tensors[name], tensors[other]
        bytes_both = blocks.dtype.name == scales.dtype.name == "U8"
        if not bytes_both or len(blocks.shape) != 4 or blocks.shape[3] != 16 or scales.shape != blocks.shape[:3]:
            raise FormatError(
                f"{where}: tensor {printable(name)!r}: {blocks.dtype} {list(blocks.shape)} and its scales"
                f" {scales.dtype} {list(scales.shape)} do not fit; expected bytes, [experts, out, groups, 16] and"
                " [experts, out, groups]"
            )
        instead[name] = _turned(weight, blocks, scales)
        parts.add(other)
    what = several(len(instead), "weight is", "weights are")
    note = f"{what} stored in MXFP4: what is read is number times scale, as bfloat16"
    return Found(instead, frozenset(parts), note=note if instead else "")


def _turned(name: str, blocks: Tensor, scales: Tensor) -> Tensor:
    experts, rows, groups, _ = blocks.shape
    cols = groups * GROUP
    held = MicroscaledTensor(name, (experts, rows, cols), DTYPES["BF16"], blocks, scales)
    if not held.size:
        return replace(held, shape=(experts, cols, rows))
    if isinstance(blocks, StoredTensor) and blocks.strides is None:  # eight bytes are a word then: fewer are turned
        words = replace(blocks, dtype=DTYPES["U64"], shape=(experts, rows, 2 * groups))
        down = (_each_turned(words), _each_turned(replace(scales, shape=(experts, rows, groups))))
        return TurnedMicroscaledTensor(name, (experts, cols, rows), DTYPES["BF16"], *down)
    return _each_turned(held)


def _each_turned(tensor: Tensor) -> Tensor:
    """Every matrix of a stack transposed."""
    experts, rows, cols = tensor.shape
    placed = [
        Placed(range(expert * cols, (expert + 1) * cols), range(rows), tensor, expert * rows * cols, 1, cols)
        for expert in range(experts)
    ]
    return RearrangedTensor(tensor.name, (experts, cols, rows), tensor.dtype, rows, tuple(placed), own=True)
