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
    "partial_rotary_factor", "rotary_pct", "query_pre_attn_scalar", "attn_logit_softcapping",
    "final_logit_softcapping", "embedding_multiplier", "residual_multiplier", "logits_scaling",
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
        said[key] = value if isinstance(value, str | int | float) else None
    return said


def _rotary(levels: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The base of the rotary frequencies and how they are stretched, from transformers' older keys and newer ones."""
    held: dict[str, Any] = {"rope_theta": None, "rope_type": None, "rope_factor": None}
    for level in levels:
        theta = level.get("rope_theta", level.get("rotary_emb_base"))
        if not isinstance(theta, int | float):
            theta = None
        scaling = level.get("rope_parameters", level.get("rope_scaling"))
        if isinstance(scaling, Mapping) and isinstance(nested := scaling.get("full_attention"), Mapping):
            scaling = nested
        if isinstance(scaling, Mapping):
            theta = scaling.get("rope_theta", theta)
            held["rope_type"] = held["rope_type"] or scaling.get("rope_type", scaling.get("type"))
            held["rope_factor"] = held["rope_factor"] or scaling.get("factor")
        held["rope_theta"] = held["rope_theta"] or theta
    if held["rope_theta"] is not None:
        held["rope_theta"] = float(held["rope_theta"]) if isinstance(held["rope_theta"], int | float) else None
        held["rope_type"] = held["rope_type"] or "default"
        held["rope_factor"] = held["rope_factor"] or 1.0
    return held
