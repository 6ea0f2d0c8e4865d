"""A small Llama-shaped base and fine-tunes of it, to merge."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

LAYERS, HIDDEN, VOCABULARY = 3, 16, 40
BF16 = ml_dtypes.bfloat16

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": VOCABULARY,
}


def _shapes():
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{block}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{block}.mlp.gate_proj.weight"] = (2 * HIDDEN, HIDDEN)
        shapes[f"{block}.mlp.up_proj.weight"] = (2 * HIDDEN, HIDDEN)
        shapes[f"{block}.mlp.down_proj.weight"] = (HIDDEN, 2 * HIDDEN)
        shapes[f"{block}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{block}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    return shapes


def weights(seed: int, dtype=np.float32, scale=0.02):
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.standard_normal(s)).astype(np.float32).astype(dtype) for n, s in _shapes().items()}


def save(folder: Path, arrays, config=CONFIG) -> str:
    folder.mkdir(parents=True)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def family(root: Path, models=3, dtype=np.float32, noise=0.002):
    """Base and fine-tunes below `root`: (base's path, models' paths, base's arrays, models' arrays)."""
    base = weights(0, dtype)
    tuned = []
    for i in range(models):
        deltas = weights(100 + i, np.float32, noise * (i + 1))
        tuned.append({n: (w.astype(np.float32) + deltas[n]).astype(dtype) for n, w in base.items()})
    return save(root / "base", base), [save(root / f"m{i + 1}", t) for i, t in enumerate(tuned)], base, tuned


def merged(folder):
    """All tensors of a merged folder."""
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found |= load_file(file)
    return found
