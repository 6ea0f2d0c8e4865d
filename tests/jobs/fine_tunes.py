"""Checkpoints of a small Llama-shaped model, and what fine-tunes of known kinds make of it; by numpy alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np

WIDTH, INNER, VOCABULARY, LAYERS = 128, 320, 300, 4
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def base(kind="F32", layers=LAYERS):
    rng = np.random.default_rng(1)
    model = {"model.embed_tokens.weight": rng.normal(0, 0.02, (VOCABULARY, WIDTH))}
    for layer in range(layers):
        for name, shape in SHAPES.items():
            model[f"model.layers.{layer}.{name}.weight"] = rng.normal(0, 0.02, shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            model[f"model.layers.{layer}.{name}.weight"] = rng.normal(1, 0.05, WIDTH)
    model["model.norm.weight"] = rng.normal(1, 0.05, WIDTH)
    model["lm_head.weight"] = rng.normal(0, 0.02, (VOCABULARY, WIDTH))
    return {name: stored(values, kind) for name, values in model.items()}


def stored(values, kind):
    return values.astype(np.float32).astype(TYPES[kind])


def changed(model, change, *names, seed=2):
    """Each tensor whose name has one of `names` in it becomes change(values float64, generator), in its own type."""
    rng = np.random.default_rng(seed)
    return {
        name: change(values.astype(np.float64), rng).astype(np.float32).astype(values.dtype)
        if any(part in name for part in names)
        else values
        for name, values in model.items()
    }


def lora(rank, size=0.05):
    """W + s B A, `size` of the weights by root mean square."""

    def change(w, rng):
        d = rng.normal(size=(w.shape[0], rank)) @ rng.normal(size=(rank, w.shape[1]))
        return w + d * size * np.sqrt(np.square(w).mean() / np.square(d).mean())

    return change


def noise(size=0.05):
    def change(w, rng):
        return w + rng.normal(size=w.shape) * size * np.sqrt(np.square(w).mean())

    return change


def power_law(alpha, size=0.05):
    """A full change with sigma_i = i^-alpha; noise for vectors."""

    def change(w, rng):
        if w.ndim == 1:
            return noise(size)(w, rng)
        left, right = (np.linalg.qr(rng.normal(size=(n, min(w.shape))))[0] for n in w.shape)
        d = left * np.arange(1, min(w.shape) + 1) ** -float(alpha) @ right.T
        return w + d * size * np.sqrt(np.square(w).mean() / np.square(d).mean())

    return change


def masked(share, size=0.05):
    """Noise on so much of the elements, at random."""

    def change(w, rng):
        return np.where(rng.random(w.shape) < share, noise(size)(w, rng), w)

    return change


def pruned(share):
    def change(w, rng):
        return np.where(np.abs(w) < np.quantile(np.abs(w), share), 0.0, w)

    return change


def times(factor):
    return lambda w, rng: w * factor


def int4(w, rng):
    """Rounded to 4 bits in groups of 32, and back."""
    groups = w.reshape(-1, 32)
    step = np.abs(groups).max(axis=1, keepdims=True) / 7
    return (np.rint(groups / step) * step).reshape(w.shape)


LINEAR = tuple(name.partition(".")[2] for name in SHAPES)
