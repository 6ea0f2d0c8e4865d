"""Codes that nothing here decodes: said by the name of the method that config has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.decoders.found import packing
from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.dtypes import Kind
from netweight.errors import printable

__all__ = ["disguised", "undecoded_note"]

_CODES = frozenset({
    "weight", "qweight", "q_weight", "weight_packed", "w_q", "_data", "_weight_qdata", "codes", "indices", "qidxs",
    "dense_weights", "trellis", "b",
})  # fmt: skip
"""Names of tensors of codes: of GPTQ, AWQ, EXL, compressed-tensors, HQQ, quanto, torchao, AQLM, VPTQ, QuIP#, SpQR."""


def disguised(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> tuple[Skipped, ...]:
    """Codes that are stored as if they were floats, and would be measured as such (HQQ's `view_as_float`)."""
    if packing(config) != "hqq":
        return ()
    reason = "codes of HQQ, stored as if they were floats: not decoded"
    return tuple(
        Skipped(name, reason) for name in tensors if name.endswith(".W_q") and tensors[name].dtype.kind is Kind.FLOAT
    )


def undecoded_note(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    """A note where tensors are codes still; empty where none are, or config says nothing of them."""
    said = bool(declared(config))
    named = _CODES if said else {"qweight"}
    codes = [
        name
        for name in tensors
        if name.rpartition(".")[2].lower() in named and tensors[name].dtype.kind is Kind.INTEGER
    ]
    if not codes:
        return ""
    method = f"stored by {printable(packing(config))}, which is" if said else "codes that are"
    return (
        f"{len(codes)} weights ({printable(codes[0])!r} ...) are {method} not decoded, or parts of them are missing:"
        " they are counted as stored, no measure of them is taken, and what stands beside them is measured as it is;"
        " dequantise the model first"
    )
