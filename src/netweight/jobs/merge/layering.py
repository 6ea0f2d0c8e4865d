"""Edits what a config says of each layer, where layers come from several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netweight.errors import printable

__all__ = ["Layering", "edit_layers"]

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_INDICES = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "cross_attention_layers", "full_attn_idxs")
"""Lists of the numbers of layers; other lists that are as long as the model has layers say something of each one."""

_COUNTED = (
    "first_k_dense_replace", "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", "max_window_layers",
    "sliding_window_pattern", "full_attention_interval", "attn_layer_period", "attn_layer_offset",
    "expert_layer_period", "expert_layer_offset", "global_attn_every_n_layers", "attention_types",
    "num_nextn_predict_layers", "num_kv_shared_layers",
)  # fmt: skip
"""Keys that describe layers by their number, in ways that no rule here follows."""


@dataclass(frozen=True)
class Layering:
    """Where the output's layers come from: for each the config of its model, how many layers that has, and the number
    of the layer there. `before`: how many layers the config that is edited counts.
    """

    before: int
    layers: Sequence[tuple[Mapping[str, Any] | None, int, int]]


def edit_layers(config: dict[str, Any], layering: Layering) -> list[str]:
    """Edit what the top and the `text_config` of a config say of layers; returns notes on what must be checked."""
    text = config.get("text_config")
    levels = [config, *([text] if isinstance(text, dict) else [])]
    count = len(layering.layers)
    notes = []
    if not any(isinstance(level.get(key), int) for level in levels for key in _LAYERS):
        notes.append(f"config.json does not say how many layers there are; the merged model has {count}")
    for level in levels:
        notes += _edit_level(level, layering, nested=level is text)
    return notes


def _edit_level(level: dict[str, Any], layering: Layering, *, nested: bool) -> list[str]:
    """Edit what one level of a config says of layers."""
    notes = []
    moved = [number for _, _, number in layering.layers] != list(range(layering.before))
    for key in list(level):
        value = level[key]
        if key in _LAYERS and isinstance(value, int):
            level[key] = len(layering.layers)
        elif key in _INDICES and isinstance(value, list):
            entries = _entries_of(layering, key, value, nested=nested)
            level[key] = [at for at, (listed, _, number) in enumerate(entries) if number in listed]
        elif isinstance(value, list) and len(value) == layering.before and not _about_tokens(key):
            entries = _entries_of(layering, key, value, nested=nested)
            if all(len(listed) == length and number < length for listed, length, number in entries):
                level[key] = [listed[number] for listed, _, number in entries]
            else:
                del level[key]
                notes.append(f"config.json: {printable(key)} lacks entries for some layers and is left out: check it")
        elif key in _COUNTED and moved and value is not None:
            notes.append(
                f"config.json: {printable(key)} = {printable(str(value), 60)} counts layers, which are others now:"
                " check it"
            )
    return notes


def _about_tokens(key: str) -> bool:
    """Lists that are as long as there are layers by chance."""
    return key.endswith(("_id", "_ids")) or key in {"architectures", "pruned_heads", "id2label"}


def _entries_of(layering: Layering, key: str, own: list[Any], *, nested: bool) -> list[tuple[list[Any], int, int]]:
    """For every layer: the list that its model's config has under `key`, else the list `own`; of how many layers it
    speaks; and the number of the layer there.
    """
    entries = []
    for config, length, number in layering.layers:
        level = config.get("text_config") if nested and isinstance(config, Mapping) else config
        listed = level.get(key) if isinstance(level, Mapping) else None
        entries.append((listed, length, number) if isinstance(listed, list) else (own, layering.before, number))
    return entries
