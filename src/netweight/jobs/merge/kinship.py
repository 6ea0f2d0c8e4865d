"""Whether models belong together, by their configs: weights of equal shapes mean other things under other settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from netweight.errors import InputError, printable
from netweight.jobs.merge.sides import Side
from netweight.params.declared import declared
from netweight.params.families import family

__all__ = ["check_kinship"]

_KEYS = (
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "hidden_act", "hidden_activation", "activation_function",
    "rotary_pct", "sliding_window", "norm_topk_prob", "routed_scaling_factor", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "embedding_multiplier", "residual_multiplier",
    "logits_scaling",
)  # fmt: skip
"""Entries that change what weights do and not their shapes, where both configs have them."""


def check_kinship(sides: Mapping[int, Side], anchor: Side, *, allow_mismatch: bool) -> list[str]:
    """A note for each model whose config says other things than that of `anchor`, which the output is named after.

    Raises InputError for a model of another family, unless `allow_mismatch`. A model without a config says nothing.
    """
    notes = []
    expected = _family(anchor)
    for side in sides.values():
        own = _family(side)
        if expected and own and own != expected:
            both = f"{side.ref}: is of the family {printable(own)}, {anchor.ref} of {printable(expected)}"
            if not allow_mismatch:
                raise InputError(
                    f"{both}: equal shapes mean other things there; merge models of one family, or give"
                    " --allow-mismatch to merge them all the same"
                )
            notes.append(f"{both}: merged all the same (--allow-mismatch)")
        differing = list(_differences(side.checkpoint.config or {}, anchor.checkpoint.config or {}))
        if differing:
            notes.append(
                f"{side.ref}: its config.json differs from that of {anchor.ref} in what shapes do not show:"
                f" {', '.join(differing)}: weights may not mean the same"
            )
    return notes


def _family(side: Side) -> str | None:
    """What its config says, None where it says nothing."""
    found = family((), side.checkpoint.config)
    return None if found == "unknown" else found


def _differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """`key = its value against the other's`."""
    for (key, mine), theirs in zip(_said(own).items(), _said(other).values(), strict=True):
        if None not in (mine, theirs) and mine != theirs:
            yield f"{key} = {printable(str(mine), 40)} against {printable(str(theirs), 40)}"


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    numbers = declared(config)
    text = config.get("text_config")
    levels = [level for level in (text, config) if isinstance(level, Mapping)]
    said: dict[str, Any] = {
        "num_attention_heads": numbers.heads,
        "num_key_value_heads": numbers.kv_heads,
        "head_dim": numbers.head_size,
        "num_experts_per_tok": numbers.experts_per_token,
        **_rotary(levels),
    }
    for key in _KEYS:
        value = next((level[key] for level in levels if level.get(key) is not None), None)
        if key == "sliding_window" and any(level.get("use_sliding_window") is False for level in levels):
            value = None  # Qwen 2 states a window that it does not use
        said[key] = value if isinstance(value, str | int | float) else None
    return said


def _rotary(levels: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The base of the rotary frequencies and how they are stretched, from transformers' older keys and newer ones; of
    layers with a sliding window apart, where they have others.
    """
    held: dict[str, Any] = {}
    for level in levels:
        plain = {
            "rope_theta": level.get("rope_theta", level.get("rotary_emb_base")),
            "partial_rotary_factor": level.get("partial_rotary_factor"),
        }
        scaling = level.get("rope_parameters", level.get("rope_scaling"))
        scaling = scaling if isinstance(scaling, Mapping) else {}
        full, sliding = scaling.get("full_attention"), scaling.get("sliding_attention")
        found = _frequencies(plain, full if isinstance(full, Mapping) else scaling)
        local = {"rope_theta": level.get("rope_local_base_freq")}
        if isinstance(sliding, Mapping) or local["rope_theta"] is not None:
            of_window = _frequencies(local, sliding if isinstance(sliding, Mapping) else {})
            found |= {f"sliding {key}": value for key, value in of_window.items()}
        held = found | {key: value for key, value in held.items() if value is not None}
    keys = ("rope_theta", "rope_type", "rope_factor", *_STRETCHED)
    return {f"{place}{key}": held.get(f"{place}{key}") for place in ("", "sliding ") for key in keys}


_STRETCHED = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "partial_rotary_factor")


def _frequencies(plain: Mapping[str, Any], scaling: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of one kind of layer: nothing of the way of stretching where it names no base."""
    theta = scaling.get("rope_theta", plain.get("rope_theta"))
    kind = scaling.get("rope_type", scaling.get("type"))
    theta = float(theta) if isinstance(theta, int | float) else None
    if kind == "mrope":  # images have positions in it, tokens of text those of the default
        kind = "default"
    factor = scaling.get("factor")
    if theta is not None:
        kind, factor = kind or "default", factor or 1.0
    more = {key: scaling.get(key, plain.get(key)) for key in _STRETCHED}
    return {"rope_theta": theta, "rope_type": kind, "rope_factor": factor, **more}
