"""A model as the full test reads it: its blocks of units and heads, and the gains of the norms before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.errors import JobError, printable
from netweight.jobs.lineage.alike import shared_tokens
from netweight.kernels.arrays import F32Array
from netweight.params.model import Model
from netweight.params.role import Parameter
from netweight.params.units import Units, keys_of, units_of
from netweight.passes.bases import rows_at
from netweight.passes.corners import EXPERTS, wanted

__all__ = ["Stream", "token_rows"]

_TOKENS, _RUN = 8192, 64  # rows of an embedding that are read at most; in runs, evenly spaced
_BEFORE = {
    "mlp": ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "ffn_norm", "mlp_norm", "ln2", "norm2"),
    "attn": ("input_layernorm", "ln_1", "attention_norm", "attn_norm", "ln1", "norm1"),
}
_OFFSET = ("gemma", "gemma2", "gemma3", "gemma3_text", "paligemma", "recurrent_gemma", "qwen3_next")


@dataclass(frozen=True)
class Stream:
    """An open model; `tensors` and `parameters` by key."""

    name: str
    checkpoint: Checkpoint = field(repr=False)

    @cached_property
    def _held(self) -> dict[str, tuple[Tensor, Parameter]]:
        return dict(wanted(Model(self.checkpoint)))

    @cached_property
    def _keys(self) -> dict[str, str]:
        return keys_of({name: parameter for name, (_, parameter) in self._held.items()})

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """{key: tensor}"""
        return {self._keys[name]: tensor for name, (tensor, _) in self._held.items()}

    @cached_property
    def blocks(self) -> list[Units]:
        """Blocks of units whose matrices read or write the residual stream, in order of layers."""
        parameters = {name: parameter for name, (_, parameter) in self._held.items()}
        shapes = {name: tensor.shape for name, (tensor, _) in self._held.items()}
        found = units_of(self._keys, parameters, shapes)
        own = [units for units in found if units.layer is not None and (units.expert or 0) < EXPERTS]
        return sorted(own, key=lambda units: (units.stack, units.layer or 0, units.expert or 0))

    @property
    def embedding(self) -> Tensor:
        """The token embedding; raises JobError where there is none."""
        held = self.tensors.get("token_embedding")
        if held is None:
            raise JobError(
                f"{printable(self.checkpoint.ref)}: has no token embedding, by which the full test puts the dimensions"
                " of two models beside each other; `netweight lineage` tests units in their order"
            )
        return held

    def gain(self, units: Units, part: str) -> F32Array | None:
        """The gain of the norm before the MLP or the attention of a block's layer; None where there is none."""
        names = [
            name
            for name, (_, parameter) in self._held.items()
            if parameter.layer == units.layer and parameter.stack == units.stack and name.endswith(".weight")
        ]
        for word in _BEFORE[part]:
            for name in names:
                if name.split(".")[-2] == word and len(self._held[name][0].shape) == 1:
                    held = self._held[name][0].read().astype(np.float32)
                    return held + 1 if self._offset else held
        return None

    @property
    def _offset(self) -> bool:
        config: Mapping[str, Any] = self.checkpoint.config or {}
        return str(config.get("model_type")) in _OFFSET

    def attention(self, units: Units) -> dict[str, Tensor]:
        """The projections of a block's layer: {slot: tensor}."""
        before = f"{units.stack}." if units.stack else ""
        found = {
            slot: self.tensors.get(f"{before}{units.layer}.{slot}") for slot in ("q_proj", "k_proj", "v_proj", "o_proj")
        }
        return {slot: tensor for slot, tensor in found.items() if tensor is not None}


def token_rows(a: Stream, b: Stream) -> tuple[F32Array, F32Array, int, str]:
    """(rows of a's embedding, rows of b's, how many tokens both have, how they were paired): of the same tokens.

    By their spelling where both have a tokenizer, else by number.
    """
    pairs, how = shared_tokens(a.checkpoint, b.checkpoint, a.embedding.shape[0], b.embedding.shape[0])
    runs = max(1, len(pairs) // _RUN)
    chosen = [pairs[run * _RUN : (run + 1) * _RUN] for run in range(0, runs, max(1, -(-runs // (_TOKENS // _RUN))))]
    held = [pair for run in chosen for pair in run]
    one, two = (_rows(side.embedding, [pair[at] for pair in held]) for at, side in enumerate((a, b)))
    return one, two, len(pairs), how


def _rows(tensor: Tensor, numbers: Sequence[int]) -> F32Array:
    """These rows, read in runs of consecutive ones."""
    blocks = []
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            blocks.append(rows_at(tensor, numbers[start], at - start))
            start = at
    return np.concatenate(blocks)
