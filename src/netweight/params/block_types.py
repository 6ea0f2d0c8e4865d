"""What the transformers library calls the modules of a block, by family: the `type` fields of a model's structure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["BlockTypes", "block_types"]

BlockTypes = tuple[str | None, str | None, str | None]
"""Class names of attention, plain feed-forward and mixture of experts; None where a family has no such class."""

_PREFIXES: dict[str, str] = {
    "llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral", "qwen2": "Qwen2", "qwen2-moe": "Qwen2Moe",
    "qwen3": "Qwen3", "qwen3-moe": "Qwen3Moe", "gemma": "Gemma", "gemma2": "Gemma2", "gemma3": "Gemma3",
    "phi": "Phi", "phi3": "Phi3", "gpt2": "GPT2", "gpt-neox": "GPTNeoX", "gpt-j": "GPTJ", "gpt-neo": "GPTNeo",
    "gpt-oss": "GptOss", "opt": "OPT", "bloom": "Bloom", "falcon": "Falcon", "bert": "Bert", "roberta": "Roberta",
    "t5": "T5", "deepseek-v2": "DeepseekV2", "deepseek-v3": "DeepseekV3", "granite": "Granite", "olmo": "Olmo",
    "olmo2": "Olmo2", "olmoe": "Olmoe", "stablelm": "StableLm", "gpt-bigcode": "GPTBigCode",
}  # fmt: skip
_ARCHITECTURE = re.compile(r"([A-Z][A-Za-z0-9]{0,40}?)(?:For[A-Z][A-Za-z]{0,60}|LMHeadModel|Model)")
_NO_MLP_CLASS = frozenset({"OPT", "Bert", "Roberta", "XLMRoberta", "Camembert"})  # plain linear layers in the block
_MOE = {"DeepseekV2": "Moe", "DeepseekV3": "MoE", "GptOss": "MLP"}


def block_types(family: str, config: Mapping[str, Any] | None) -> BlockTypes:
    """The class names for a model of `family`; config's `architectures` decides where it is there."""
    prefix = _prefix(config) or _PREFIXES.get(family)
    if prefix is None:
        return None, None, None
    mlp: str | None = f"{prefix}MLP"
    if prefix in _NO_MLP_CLASS:
        mlp = None
    elif prefix == "T5":
        gated = isinstance(config, Mapping) and "gated" in str(config.get("feed_forward_proj", ""))
        mlp = "T5DenseGatedActDense" if gated else "T5DenseActDense"
    return f"{prefix}Attention", mlp, f"{prefix}{_MOE.get(prefix, 'SparseMoeBlock')}"


def _prefix(config: Mapping[str, Any] | None) -> str | None:
    architectures = config.get("architectures") if isinstance(config, Mapping) else None
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    match = _ARCHITECTURE.fullmatch(first) if isinstance(first, str) else None
    return match[1] if match else None
