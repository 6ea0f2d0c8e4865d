"""Names of an adapter's tensors: which module they belong to, and which part of it they are, by PEFT's words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["ADAPTER_FILES", "PREFIX", "Part", "maybe_parts", "part_of", "saved_part"]

PREFIX = "base_model.model."
"""What PEFT writes before the names of the base."""

ADAPTER_FILES = ("adapter_model", "adapters.")
"""How the names of files begin that PEFT and MLX write for an adapter."""

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>(?:lora|ia3|vera|hada|lokr|oft|boft|hra|fourierft|vblora|c3a|randlora|shira|miss|bone|road"
    r"|trainable_tokens)_[A-Za-z0-9_]+)(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<field>weight|bias))?"
)
_SAVED = re.compile(r"(?P<module>.+?)\.(?P<part>modules_to_save)\.(?P<adapter>[^.]+)\.(?P<field>.+)")
_DIFFUSERS = re.compile(r"(?P<module>.+?)(?:\.processor)?[._](?:(?P<of>to_[a-z]+)_)?lora\.(?P<way>up|down)\.weight")
_GGUF = re.compile(r"(?P<module>.+\.weight)\.lora_(?P<side>[ab])")
_ALPHA = re.compile(r"(?P<module>.+)\.(?P<part>alpha|dora_scale)")
_SIGNS = (
    ".lora", "_lora", ".ia3_", ".vera_", ".hada_", ".lokr_", ".oft_", ".boft_", ".hra_", ".fourierft_", ".vblora_",
    ".c3a_", ".randlora_", ".shira_", ".miss_", ".bone_", ".road_", ".trainable_tokens_", ".modules_to_save.",
)  # fmt: skip
_WORDS = {"lora_up": "lora_B", "lora_down": "lora_A", "lora_a": "lora_A'", "lora_b": "lora_B'"}
"""Other words for PEFT's parts: kohya's, and MLX's, whose matrices lie the other way round (')."""


class Part(NamedTuple):
    """`part` by PEFT's words, with ' where it is stored transposed, and `.bias` where it is a bias; `adapter`: the name
    of the adapter, "" where the tensor's name has none.
    """

    module: str
    part: str
    adapter: str


def maybe_parts(names: Iterable[str]) -> bool:
    """Whether some name looks like a part of an adapter: quick, for large tables."""
    return any(sign in name for name in names for sign in _SIGNS)


def part_of(name: str) -> Part | None:
    """What part of an adapter the tensor is; None for one that is none."""
    if found := _GGUF.fullmatch(name):
        return Part(found["module"], f"lora_{found['side'].upper()}", "")
    if found := _PART.fullmatch(name):
        module, part, adapter, field = (text or "" for text in found.groups())
        part = _WORDS.get(part, part) + (".bias" if field == "bias" else "")
        return Part(module.removesuffix(".token_adapter"), part, adapter)
    if found := _DIFFUSERS.fullmatch(name):
        module = found["module"] + (f".{found['of']}" if found["of"] else "")
        return Part(module, "lora_B" if found["way"] == "up" else "lora_A", "")
    if found := _ALPHA.fullmatch(name):
        return Part(found["module"], found["part"], "")
    return None


def saved_part(name: str) -> tuple[str, str, str] | None:
    """(module, adapter, the tensor's own name in it) of a module that was trained whole; None for other names."""
    found = _SAVED.fullmatch(name)
    return (found["module"], found["adapter"], found["field"]) if found else None
