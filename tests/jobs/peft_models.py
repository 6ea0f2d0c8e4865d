"""Small bases and fine-tunes, and what an adapter folder makes of a base by the rules that PEFT documents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

Arrays = dict[str, np.ndarray]


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None) -> Path:
    """A model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def llama(seed: int = 0, *, layers: int = 2, vocabulary: int = 60, dtype: Any = np.float32) -> Arrays:
    """A Llama with a head of its own."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    made = {"model.embed_tokens.weight": some(vocabulary, 24)}
    for n in range(layers):
        head = f"model.layers.{n}."
        made |= {f"{head}self_attn.{p}_proj.weight": some(24 if p in "qo" else 12, 24) for p in "qkvo"}
        made |= {f"{head}mlp.{p}_proj.weight": some(40, 24) for p in ("gate", "up")}
        made[f"{head}mlp.down_proj.weight"] = some(24, 40)
        made |= {f"{head}{norm}.weight": some(24) for norm in ("input_layernorm", "post_attention_layernorm")}
    made |= {"model.norm.weight": some(24), "lm_head.weight": some(vocabulary, 24)}
    return made


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "tie_word_embeddings": False,
}


def tuned(base: Mapping[str, np.ndarray], seed: int = 1, *, only: str = "", decay: float = 0.3) -> Arrays:
    """Every tensor (whose name fits `only`) with noise whose singular values fall, rounded to its type."""
    rng = np.random.default_rng(seed)
    made = dict(base)
    for name, tensor in base.items():
        if re.search(only, name):
            noise = rng.standard_normal(tensor.shape)
            if tensor.ndim == 2:
                u, s, vt = np.linalg.svd(noise, full_matrices=False)
                noise = (u * (s[0] * np.exp(-decay * (1 + len(name) % 3) * np.arange(len(s))))) @ vt
            made[name] = (tensor.astype(np.float64) + 0.1 * noise).astype(tensor.dtype)
    return made


def adapter(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """adapter_config.json, and the tensors without PEFT's prefix."""
    config = json.loads((folder / "adapter_config.json").read_text())
    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        names = list(file.keys())
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in names)
    return config, {name.removeprefix("base_model.model."): tensors[name] for name in names}


def applied(base: Mapping[str, np.ndarray], folder: Path, prefix: str = "") -> Arrays:
    """The base with the adapter in it, float64, by PEFT's rules; `prefix` is what names of modules have before those of
    the files. Every tensor of the adapter must have a place.
    """
    config, parts = adapter(folder)
    assert config["peft_type"] == "LORA"
    assert config["inference_mode"] is True
    assert config["task_type"] is None
    made = {prefix + name: tensor.astype(np.float64) for name, tensor in base.items()}
    unused = set(parts)
    for name in list(parts):
        found = re.fullmatch(r"(.+)\.lora_(A\.weight|embedding_A)", name)
        if not found:
            continue
        module, embedding = found[1], found[2] == "embedding_A"
        assert targeted(config, module)
        other = f"{module}.lora_embedding_B" if embedding else f"{module}.lora_B.weight"
        a, b = parts[name].astype(np.float64), parts[other].astype(np.float64)
        unused -= {name, other}
        rank = pattern(config, "rank_pattern", "r", module)
        assert a.shape[0] == b.shape[1] == rank
        product = pattern(config, "alpha_pattern", "lora_alpha", module) / rank * (b @ a)
        weight = f"{module}.weight"
        if weight not in made and module == "lm_head":
            continue  # tied: it has the embedding's
        made[weight] = made[weight] + (product.T if embedding or config["fan_in_fan_out"] else product)
    for name in sorted(unused):
        module, _, last = name.rpartition(".")
        plain = f"{module.removesuffix('.base_layer')}.{last}"
        if last == "bias" and module.endswith(".base_layer"):
            assert targeted(config, module.removesuffix(".base_layer"))
        if last != "bias" or module in (config["modules_to_save"] or ()):
            assert module in config["modules_to_save"], name
        else:
            assert config["bias"] == "all"
        made[plain] = parts[name].astype(np.float64)
    return made


def targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT adapts a module of this name."""
    targets = config["target_modules"]
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return module in targets or any(module.endswith(f".{target}") for target in targets)


def pattern(config: Mapping[str, Any], key: str, usual: str, module: str) -> float:
    """What PEFT takes for a module: the first pattern that fits the end of its name."""
    found = next((k for k in config[key] if re.match(rf"(.*\.)?({k})$", module)), None)
    return config[usual] if found is None else config[key][found]


def best_error(difference: np.ndarray, rank: int) -> float:
    """The least relative Frobenius error of this rank."""
    values = np.square(np.linalg.svd(difference.astype(np.float64), compute_uv=False))
    return float(np.sqrt(values[rank:].sum() / values.sum()))


BF16 = ml_dtypes.bfloat16
