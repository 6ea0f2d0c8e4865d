"""What config.json declares about the blocks of a model, beyond the sizes of `architecture`: experts, stacks, heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netweight.params.architecture import config_numbers

__all__ = ["Declared", "declared"]

_EXPERT_KEYS = {
    "experts": ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_top_k", "top_k"),
    "expert_size": ("moe_intermediate_size",),
    "value_head_size": ("v_head_dim",),
    "extra_layers": ("num_nextn_predict_layers",),
}
_STACKS = {"encoder": ("encoder_layers", "num_layers"), "decoder": ("decoder_layers", "num_decoder_layers")}
_LARGEST = 10**12


@dataclass(frozen=True)
class Declared:
    """Numbers from config.json; absent ones are None. `stacks` counts the blocks of encoder and decoder;
    `extra_layers` are blocks behind the main ones that predict further tokens.
    """

    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    vocabulary: int | None = None
    head_size: int | None = None
    value_head_size: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    expert_size: int | None = None
    extra_layers: int = 0
    stacks: dict[str, int] = field(default_factory=dict)


def declared(config: Mapping[str, Any] | None) -> Declared:
    """Read `config`, however malformed; entries without a sensible number are None.

    `head_size` is hidden_size / heads where config has no entry of its own. Falcon's `multi_query` means one head for
    keys and values.
    """
    if not isinstance(config, Mapping):
        return Declared()
    sizes = config_numbers(config)
    levels = [level for level in (config.get("text_config"), config) if isinstance(level, Mapping)]
    levels += [nested for level in levels if isinstance(nested := level.get("ffn_config"), Mapping)]
    experts = {key: _number(levels, names) for key, names in _EXPERT_KEYS.items()}
    heads, hidden = sizes.get("heads"), sizes.get("hidden_size")
    head_size = sizes.get("head_size")
    if head_size is None and heads and hidden and hidden % heads == 0:
        head_size = hidden // heads
    stacks = {stack: number for stack, names in _STACKS.items() if (number := _number(levels, names)) is not None}
    if "encoder" in stacks and "decoder" not in stacks and _number(levels, ("num_decoder_layers",)) is None:
        stacks["decoder"] = stacks["encoder"]
    return Declared(
        layers=sizes.get("layers"),
        heads=heads,
        kv_heads=_kv_heads(levels, heads, sizes.get("kv_heads")),
        hidden_size=hidden,
        intermediate_size=sizes.get("intermediate_size"),
        vocabulary=sizes.get("vocabulary"),
        head_size=head_size,
        value_head_size=experts["value_head_size"],
        experts=experts["experts"],
        experts_per_token=experts["experts_per_token"],
        expert_size=experts["expert_size"],
        extra_layers=experts["extra_layers"] or 0,
        stacks=stacks,
    )


def _number(levels: list[Mapping[str, Any]], names: tuple[str, ...]) -> int | None:
    values = (level.get(name) for level in levels for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < _LARGEST), None)


def _kv_heads(levels: list[Mapping[str, Any]], heads: int | None, kv_heads: int | None) -> int | None:
    flags = {name: next((level[name] for level in levels if name in level), None) for name in _QUERY_FLAGS}
    if flags["multi_query"] is True and flags["new_decoder_architecture"] is not True:
        return 1
    if flags["new_decoder_architecture"] is False:
        return heads
    return kv_heads if kv_heads is not None else heads


_QUERY_FLAGS = ("multi_query", "new_decoder_architecture")
