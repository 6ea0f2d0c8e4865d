"""A model in memory, and as a folder of the form that Hugging Face saves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

__all__ = ["Model", "card_of", "network", "read", "trunk", "weights_of", "write"]

CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class Model:
    """`weights` are float32 by the hub's names; `dtype` is what they are saved in, `stored` what is saved besides."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    dtype: torch.dtype = torch.float32
    stored: dict[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.config["model_type"]

    @property
    def layers(self) -> int:
        return self.config["n_layer" if self.kind == "gpt2" else "num_hidden_layers"]

    @property
    def hidden(self) -> int:
        return self.config["n_embd" if self.kind == "gpt2" else "hidden_size"]

    @property
    def heads(self) -> tuple[int, int, int]:
        """(Heads, heads of keys and values, elements of one)."""
        if self.kind == "gpt2":
            heads = self.config["n_head"]
            return heads, heads, self.hidden // heads
        heads = self.config["num_attention_heads"]
        return heads, self.config["num_key_value_heads"], self.config.get("head_dim") or self.hidden // heads

    def rounded(self) -> Model:
        """As it will be after it was saved."""
        return replace(self, weights={name: w.to(self.dtype).float() for name, w in self.weights.items()})

    def with_weights(self, changed: dict[str, Tensor], **config: Any) -> Model:
        return replace(self, weights={**self.weights, **changed}, config={**self.config, **config})


def trunk(model: Model, layer: int) -> str:
    """What the names of a layer's weights begin with."""
    return f"transformer.h.{layer}." if model.kind == "gpt2" else f"model.layers.{layer}."


def network(model: Model) -> nn.Module:
    """transformers' model with these weights; raises RuntimeError where names or shapes are not its own."""
    config_class, model_class = CLASSES[model.kind]
    net = model_class(config_class(**deepcopy(model.config)))
    found = net.load_state_dict(model.weights, strict=False)
    if found.unexpected_keys or set(found.missing_keys) - {"lm_head.weight"}:
        raise RuntimeError(f"missing {found.missing_keys}, unexpected {found.unexpected_keys}")
    return net


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """What transformers would save: a head that is tied is left out."""
    tied = net.config.tie_word_embeddings
    held = {name: w.detach().float().clone() for name, w in net.state_dict().items()}
    return {name: w for name, w in held.items() if not (tied and name == "lm_head.weight")}


def read(folder: Path) -> Model:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    held = load_file(folder / "model.safetensors")
    return Model(config, {name: w.float() for name, w in held.items()}, DTYPES[config.pop("dtype")])


def write(model: Model, folder: Path) -> None:
    """config.json and model.safetensors."""
    architecture = CLASSES[model.kind][1].__name__
    config = {"architectures": [architecture], **model.config, "dtype": NAMES[model.dtype]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    held = {name: w.to(model.dtype).contiguous() for name, w in model.weights.items()} | model.stored
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def card_of(title: str, named: Iterable[str], *, merge: bool = False, library: str = "transformers") -> str:
    """README.md of a model that says it was made from those `named`."""
    named = list(named)
    lines = ["---", f"library_name: {library}", "license: mit"]
    if len(named) == 1:
        lines.append(f"base_model: {named[0]}")
    elif named:
        lines += ["base_model:", *(f"- {name}" for name in named)]
    if merge:
        lines += ["tags:", "- mergekit", "- merge"]
    said = f"Made from {', '.join(named)}." if named else "A small language model of bytes."
    return "\n".join([*lines, "---", "", f"# {title}", "", said, ""])
