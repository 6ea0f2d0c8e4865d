"""What adapter_config.json says of an adapter: of PEFT's, and of MLX's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from netweight.errors import FormatError, printable

__all__ = ["ADAPTER_CONFIG", "Settings", "settings_of"]

ADAPTER_CONFIG = "adapter_config.json"

_KINDS = {
    "LORA": "LoRA", "ADALORA": "AdaLoRA", "IA3": "IA3", "VERA": "VeRA", "LOHA": "LoHa", "LOKR": "LoKr",
    "TRAINABLE_TOKENS": "trained tokens",
}  # fmt: skip
"""PEFT's word for a kind of adapter -> the kind's name."""
_OTHER = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "layer_replication": "layers repeated in the base",
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
class Settings:
    """`kind`: LoRA, IA3 ...; `scale_of` says what a module's update is multiplied by. `alpha` is None where nothing
    says it, which counts as the rank; `fixed`: the scale itself (MLX). `fan_in_fan_out`: weights are stored [in, out].
    `rank` is what the file says, for kinds whose tensors do not tell; `tokens` are the rows that were trained, by
    module ("" for the embedding). `base` is the model that it was trained on, "" where the file does not say. `about`
    are all fields of the file.
    """

    kind: str
    alpha: float | None = None
    fixed: float | None = None
    rank_stabilised: bool = False
    dora: bool = False
    fan_in_fan_out: bool = False
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    base: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def alpha_of(self, module: str) -> float | None:
        """Patterns are PEFT's: for the end of the module's name, the first one counts."""
        return next((alpha for key, alpha in self.alphas.items() if _fits(key, module)), self.alpha)

    def rank_of(self, module: str) -> int | None:
        """The rank that the file says."""
        named = next((rank for key, rank in self.ranks.items() if _fits(key, module)), None)
        return self.rank if named is None else int(named)

    def scale_of(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (Kalajdzievski 2023)."""
        if self.fixed is not None:
            return self.fixed
        alpha = self.alpha_of(module)
        return 1.0 if alpha is None else alpha / (sqrt(rank) if self.rank_stabilised else rank)


def settings_of(about: Mapping[str, Any], where: str) -> Settings:
    """From the file's fields; raises FormatError for a kind of adapter that is not read, by its name, and for what is
    no number.

    `where` names the file.
    """
    if "peft_type" not in about and isinstance(about.get("lora_parameters"), Mapping):
        return _of_mlx(about, where)
    word = str(about.get("peft_type", "")).upper()
    if word not in _KINDS:
        known = ", ".join(_KINDS.values())
        raise FormatError(
            f"{where}: an adapter of kind {printable(word or 'none', 40)}, expected one of {known}; merge it in PEFT"
        )
    for key, name in _OTHER.items():
        if about.get(key):
            raise FormatError(f"{where}: {key}: {name} is not read, expected plain LoRA; merge it in PEFT")
    # an AdaLoRA's rank_pattern says which directions are left; its tensors have these alone
    ranks = {} if word == "ADALORA" else _patterns(about, "rank_pattern", where)
    base = about.get("base_model_name_or_path")
    return Settings(
        _KINDS[word],
        alpha=_number(about, _ALPHA[word], where) if word in _ALPHA else None,
        rank_stabilised=about.get("use_rslora") is True,
        dora=about.get("use_dora") is True,
        fan_in_fan_out=about.get("fan_in_fan_out") is True,
        rank=int(_number(about, "r", where)) if word in {"LOKR", "LOHA"} else None,
        alphas=_patterns(about, "alpha_pattern", where),
        ranks=ranks,
        tokens=_tokens(about, where),
        base=base if isinstance(base, str) else "",
        about=about,
    )


_ALPHA = {"LORA": "lora_alpha", "ADALORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
"""Where the numerator of the scale is said."""


def _of_mlx(about: Mapping[str, Any], where: str) -> Settings:
    kind = about.get("fine_tune_type", "lora")
    if kind != "lora":
        raise FormatError(
            f"{where}: fine_tune_type: an adapter of kind {printable(str(kind), 40)}, expected lora; fuse it with"
            " mlx_lm"
        )
    base = about.get("model")
    return Settings(
        "LoRA",
        fixed=_number(about["lora_parameters"], "scale", f"{where}: lora_parameters"),
        base=base if isinstance(base, str) else "",
        about=about,
    )


def _patterns(about: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    patterns = about.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise FormatError(f"{where}: {key}: expected numbers by pattern, got {printable(str(patterns), 60)}")
    for pattern in patterns:
        if problem := _problem(pattern):
            raise FormatError(f"{where}: {key}: {printable(pattern, 60)!r}: {problem}")
    return {str(pattern): _number(patterns, pattern, f"{where}: {key}") for pattern in patterns}


def _tokens(about: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """The rows that were trained, by module."""
    key = next((key for key in ("trainable_token_indices", "token_indices") if about.get(key)), None)
    if key is None:
        return {}
    held = about[key] if isinstance(about[key], Mapping) else {"": about[key]}
    for module, rows in held.items():
        good = isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)
        if not good or len(set(rows)) < len(rows):
            raise FormatError(f"{where}: {key}: {printable(str(module), 60)!r}: expected numbers of rows, each once")
    return {str(module): tuple(rows) for module, rows in held.items()}


def _number(about: Mapping[str, Any], key: str, where: str) -> float:
    value = about.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise FormatError(f"{where}: {key}: expected a number, got {printable(str(value), 60)}")
    return float(value)
