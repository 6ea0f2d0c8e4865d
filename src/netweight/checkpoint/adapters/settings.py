"""What adapter_config.json says of a LoRA adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from netweight.errors import FormatError, printable

__all__ = ["ADAPTER_CONFIG", "LoraSettings", "lora_settings"]

ADAPTER_CONFIG = "adapter_config.json"

_OTHER = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "velora_config": "VeLoRA",
}
"""What changes how a weight follows from a LoRA, and is not read."""


@dataclass(frozen=True)
class LoraSettings:
    """`scale_of` says what a module's product is multiplied by; `fan_in_fan_out`: weights are stored [in, out]."""

    alpha: float
    rank: int | None = None
    rank_stabilised: bool = False
    fan_in_fan_out: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)

    def scale_of(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (Kalajdzievski 2023). Patterns are PEFT's: a regular
        expression for the end of the module's name, the first one counts.
        """
        alpha = next((a for key, a in self.alphas.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", module)), self.alpha)
        return alpha / (sqrt(rank) if self.rank_stabilised else rank)


def lora_settings(about: Mapping[str, Any], where: str) -> LoraSettings:
    """From the file's fields; raises FormatError for another kind of adapter, by its name, and for what is no number.

    `where` names the file.
    """
    kind = str(about.get("peft_type", "")).upper()
    if kind != "LORA":
        raise FormatError(
            f"{where}: an adapter of kind {printable(kind or 'none', 40)}, expected LORA; merge it in PEFT"
        )
    for key, name in _OTHER.items():
        if about.get(key):
            raise FormatError(f"{where}: {key}: {name} is not read, expected plain LoRA; merge it in PEFT")
    alphas = about.get("alpha_pattern") or {}
    if not isinstance(alphas, Mapping):
        raise FormatError(f"{where}: alpha_pattern: expected numbers by pattern, got {printable(str(alphas), 60)}")
    for pattern in alphas:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as problem:
            raise FormatError(f"{where}: alpha_pattern: {printable(pattern, 60)!r}: {problem}") from None
    return LoraSettings(
        _number(about, "lora_alpha", where),
        rank_stabilised=about.get("use_rslora") is True,
        fan_in_fan_out=about.get("fan_in_fan_out") is True,
        alphas={str(pattern): _number(alphas, pattern, f"{where}: alpha_pattern") for pattern in alphas},
    )


def _number(about: Mapping[str, Any], key: str, where: str) -> float:
    value = about.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise FormatError(f"{where}: {key}: expected a number, got {printable(str(value), 60)}")
    return float(value)
