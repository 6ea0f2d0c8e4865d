"""Models of known descent, as folders, by numpy alone."""

from __future__ import annotations

import json

import numpy as np
from fine_tunes import INNER, LAYERS, SHAPES, VOCABULARY, WIDTH, stored
from safetensors.numpy import save_file


def start(seed, kind="F32", layers=LAYERS, inner=INNER, vocabulary=VOCABULARY):
    """A model of its own: random, as at the start of a training."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens": (vocabulary, WIDTH), "lm_head": (vocabulary, WIDTH)}
    for layer in range(layers):
        for name, shape in SHAPES.items():
            own = tuple(inner if size == INNER else size for size in shape)
            shapes[f"model.layers.{layer}.{name}"] = own
    model = {f"{name}.weight": rng.normal(0, 0.02, shape) for name, shape in shapes.items()}
    norms = [
        f"model.layers.{layer}.{name}"
        for layer in range(layers)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    model |= {f"{name}.weight": rng.normal(1, 0.05, WIDTH) for name in [*norms, "model.norm"]}
    return {name: stored(values, kind) for name, values in model.items()}


def save(folder, tensors, card=None, **config):
    folder.mkdir(parents=True)
    said = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": INNER} | config  # fmt: skip
    (folder / "config.json").write_text(json.dumps(said))
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / "model.safetensors")
    if card is not None:
        (folder / "README.md").write_text(f"---\nlicense: mit\n{card}\n---\n# A model\n")
    return folder


def relayered(tensors, layers):
    """The layers of these numbers, one after the other."""
    found = {name: values for name, values in tensors.items() if ".layers." not in name}
    for own, layer in enumerate(layers):
        before = f"model.layers.{layer}."
        for name, values in tensors.items():
            if name.startswith(before):
                found[f"model.layers.{own}.{name.removeprefix(before)}"] = values
    return found


def reordered(tensors, seed=5, signs=True):
    """Another order (and other signs) of the residual stream, and of the units of every MLP: the same function."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(WIDTH)
    sign = np.where(rng.random(WIDTH) < 0.5, -1, 1) if signs else np.ones(WIDTH)
    found = {}
    units: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        if "norm" in name:
            found[name] = values[order]
            continue
        made = values
        if "mlp" in name:
            layer = name.split(".")[2]
            own = units.setdefault(layer, rng.permutation(INNER))
            made = made[:, own] if "down_proj" in name else made[own]
        writes = "o_proj" in name or "down_proj" in name
        made = (made[order] * sign[:, None]) if writes else (made[:, order] * sign)
        found[name] = made.astype(values.dtype)
    return found
