"""What older quantised models say of their weights in a file of its own: quantize_config.json (AutoGPTQ), or
quant_config.json (AutoAWQ).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.place import Place

__all__ = ["with_settings_beside"]

_GPTQ, _AWQ = "quantize_config.json", "quant_config.json"


def with_settings_beside(
    config: Mapping[str, Any] | None, names: Mapping[str, object], place: Place
) -> Mapping[str, Any] | None:
    """`config`, with a `quantization_config` from such a file where there are codes and it has none; raises FormatError
    where the file is no JSON object.
    """
    if declared(config) or not any(name.endswith(".qweight") for name in names):
        return config
    if place.has(_GPTQ):
        return {
            **(config or {}),
            "quantization_config": {"quant_method": "gptq"} | read_json_in(place, _GPTQ, MAX_CONFIG),
        }
    if place.has(_AWQ):
        held = read_json_in(place, _AWQ, MAX_CONFIG)
        about = {"quant_method": "awq", "bits": held.get("w_bit"), "group_size": held.get("q_group_size")}
        return {**(config or {}), "quantization_config": about | held}
    return config
