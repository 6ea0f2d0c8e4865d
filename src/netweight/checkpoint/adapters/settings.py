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


_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")
_LONGEST = 256  # characters of a pattern, and of a name that a regular expression is tried on
_REPEATS = 2
_LARGEST = 1e300


def _problem(pattern: str) -> str:
    """Why a pattern is not tried: the file may come from anybody, and some take longer than anybody waits."""
    if _PLAIN.fullmatch(pattern):
        return ""
    bare = re.sub(r"\\.", "_", pattern)
    if len(pattern) > _LONGEST or len(re.findall(r"[*+{]", bare)) > _REPEATS or re.search(r"\)[*+?{]", bare):
        return f"expected a name, or a regular expression of {_LONGEST} characters with {_REPEATS} repeats"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as problem:
        return str(problem)
    return ""


def _fits(pattern: str, module: str) -> bool:
    """Whether `pattern` is for the whole of a name, or for its end after a dot."""
    if _PLAIN.fullmatch(pattern):
        return module == pattern or module.endswith(f".{pattern}")
    return len(module) <= _LONGEST and re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None


@dataclass(frozen=True)
class LoraSettings:
    """`scale_of` says what a module's product is multiplied by; `fan_in_fan_out`: weights are stored [in, out]."""

    alpha: float
    rank_stabilised: bool = False
    fan_in_fan_out: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)

    def scale_of(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (Kalajdzievski 2023). Patterns are PEFT's: for the end
        of the module's name, the first one counts.
        """
        alpha = next((alpha for key, alpha in self.alphas.items() if _fits(key, module)), self.alpha)
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
        if problem := _problem(pattern):
            raise FormatError(f"{where}: alpha_pattern: {printable(pattern, 60)!r}: {problem}")
    return LoraSettings(
        _number(about, "lora_alpha", where),
        rank_stabilised=about.get("use_rslora") is True,
        fan_in_fan_out=about.get("fan_in_fan_out") is True,
        alphas={str(pattern): _number(alphas, pattern, f"{where}: alpha_pattern") for pattern in alphas},
    )


def _number(about: Mapping[str, Any], key: str, where: str) -> float:
    value = about.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise FormatError(f"{where}: {key}: expected a number, got {printable(str(value), 60)}")
    return float(value)
