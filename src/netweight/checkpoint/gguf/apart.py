"""Tensors of GGUF one by one: weights with the scales beside them, and fused ones as what the architecture has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.gguf.layouts import MOST, half_of_each, some_rows
from netweight.checkpoint.gguf.names import Dialect
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.checkpoint.tensors.computed import TimesTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["BLOCK", "Heads", "apart", "heads_of", "scaled"]

BLOCK = re.compile(r"((?:enc\.|dec\.)?blk)\.(\d{1,6})\.(.+)")
"""Names of tensors of blocks: what they begin with, the block's number, the rest."""


@dataclass(frozen=True)
class Heads:
    """Heads of attention: of queries, and of keys and values; by block where they differ, None where not said."""

    queries: int | tuple[int, ...] | None
    keys: int | tuple[int, ...] | None

    def of(self, layer: int, *, keys: bool) -> int | None:
        """How many block `layer` has."""
        count = self.keys if keys else self.queries
        if isinstance(count, tuple):
            count = count[layer] if layer < len(count) else None
        return count


def heads_of(fields: Mapping[str, Any]) -> Heads:
    """The heads that the metadata of a file say."""
    architecture = fields.get("general.architecture")
    queries, keys = (fields.get(f"{architecture}.attention.head_count{end}") for end in ("", "_kv"))
    return Heads(_counts(queries), _counts(keys if keys is not None else queries))


def _counts(value: object) -> int | tuple[int, ...] | None:
    if type(value) is int and 0 < value <= MOST:
        return value
    if isinstance(value, tuple) and all(type(n) is int and 0 < n <= MOST for n in value):
        return tuple(int(n) for n in value)
    return None


def scaled(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[Skipped]]:
    """Weights times the scale that lies beside them (NVFP4: one for all, or for each expert); scales of inputs.

    Raises FormatError where a scale does not fit, naming the model by `where`.
    """
    made: dict[str, Tensor] = {}
    inputs: list[Skipped] = []
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf in {"scale", "input_scale"} and f"{stem}.weight" in tensors:
            if leaf == "input_scale":
                inputs.append(Skipped(name, "a scale of a layer's inputs, no weight"))
            continue
        scale = tensors.get(f"{stem}.scale") if leaf == "weight" else None
        if scale is None:
            made[name] = tensor
            continue
        first = tensor.shape[0] if len(tensor.shape) == 3 else 1
        if scale.dtype.name != "F32" or scale.size not in (1, first):
            raise FormatError(
                f"{where}: tensor {printable(scale.name)!r}: {scale.dtype} {printable(str(list(scale.shape)))},"
                f" expected F32, one for all of {printable(name)!r} or for each of its {first} matrices"
            )
        made[name] = TimesTensor(name, tensor.shape, DTYPES["F32"], tensor, scale)
    return made, inputs


def apart(tensors: Mapping[str, Tensor], dialect: Dialect, heads: Heads, where: str) -> dict[str, Tensor]:
    """Fused q, k and v, and gate and up of experts, as the single ones that the architecture has on the hub."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = BLOCK.fullmatch(name)
        stem, _, leaf = match[3].rpartition(".") if match else ("", "", "")
        block = dialect.blocks.get(match[1], {}) if match else {}
        before = name.removesuffix(f"{stem}.{leaf}")
        if match and stem == "attn_qkv" and stem not in block and "attn_q" in block:
            queries, keys = (heads.of(int(match[2]), keys=side) for side in (False, True))
            rows = tensor.shape[0] if tensor.shape else 0
            if not queries or not keys or rows % (queries + 2 * keys):
                raise FormatError(
                    f"{where}: tensor {printable(name)!r}: {rows} rows, expected some for {queries} heads of queries"
                    f" and {keys} of keys and of values"
                )
            size = rows // (queries + 2 * keys)
            for part, first, count in (("q", 0, queries), ("k", queries, keys), ("v", queries + keys, keys)):
                full = f"{before}attn_{part}.{leaf}"
                made[full] = some_rows(full, tensor, first * size, count * size)
        elif stem == "ffn_gate_up_exps" and len(tensor.shape) == 3 and tensor.shape[1] % 2 == 0 and tensor.size:
            if tensor.shape[0] > MOST:
                raise FormatError(
                    f"{where}: tensor {printable(name)!r}: shape {list(tensor.shape)}, expected a stack of matrices, at"
                    f" most {MOST}"
                )
            for half, part in enumerate(("gate", "up")):
                full = f"{before}ffn_{part}_exps.{leaf}"
                made[full] = half_of_each(full, tensor, half)
        else:
            made[name] = tensor
    return made
