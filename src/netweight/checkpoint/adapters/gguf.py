"""LoRA adapters of GGUF under the hub's names: their factors laid out as the hub's weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netweight.checkpoint.adapters.adapter import Adapter, Module
from netweight.checkpoint.gguf.hub import as_on_hub
from netweight.checkpoint.tensor import Tensor

__all__ = ["on_hub"]


def on_hub(adapter: Adapter, config: Mapping[str, Any] | None) -> Adapter:
    """The adapter with the names and layouts of the hub; itself where it is not of GGUF. `config`: of its base, which
    says how many heads there are.

    llama.cpp turns and permutes the rows of lora_B as it does those of the weight, so that what undoes it for the
    weight undoes it for lora_B. Raises FormatError where this is more than rows: stacks of experts, joined weights.
    """
    if not adapter.architecture:
        return adapter
    text = (config or {}).get("text_config")
    about = text if isinstance(text, Mapping) else config or {}
    heads = about.get("num_attention_heads", about.get("n_head"))
    fields = {
        "general.architecture": adapter.architecture,
        f"{adapter.architecture}.attention.head_count": heads,
        f"{adapter.architecture}.attention.head_count_kv": about.get("num_key_value_heads", heads),
    }
    modules: dict[str, Module] = {}
    for name, module in adapter.modules.items():
        down, up = module.part("lora_A", "lora_B"), module.part("lora_B", "lora_A")
        if len(up.shape) != 2 or len(down.shape) != 2:
            raise module.wrong("a stack of matrices, which is not read from GGUF; give PEFT's files")
        named, _, unknown = as_on_hub({name: replace(up, name=name)}, fields, adapter.where)
        if unknown or len(named) != 1:
            raise module.wrong(f"GGUF's architecture {adapter.architecture} has no such weight on the hub")
        ((own, made),) = named.items()
        parts: dict[str, Tensor] = {"lora_A": down, "lora_B": made}
        if made.shape != up.shape:  # a Conv1D: the weight is stored [in, out]
            parts = {"lora_embedding_A": down, "lora_embedding_B": up}
        modules[own] = replace(module, name=own.removesuffix(".weight"), parts=parts)
    return replace(adapter, modules={module.name: module for module in modules.values()}, architecture="")
