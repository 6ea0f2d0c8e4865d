"""Notes of `info` on what config.json and shapes say of each other: none that is false."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight

HEADS, KV_HEADS, SIZE, HIDDEN = 4, 2, 16, 64


def saved(folder, queries, **config):
    layer = "model.layers.0.self_attn."
    shapes = {"q": (queries * SIZE, HIDDEN), "k": (KV_HEADS * SIZE, HIDDEN), "v": (KV_HEADS * SIZE, HIDDEN)}
    tensors = {f"{layer}{name}_proj.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    tensors["model.embed_tokens.weight"] = np.ones((30, HIDDEN), np.float32)
    save_file(tensors, folder / "model.safetensors")
    sizes = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": SIZE, "hidden_size": HIDDEN}
    (folder / "config.json").write_text(json.dumps(sizes | {"num_hidden_layers": 1, "vocab_size": 30} | config))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen3_5_text", "attn_output_gate": True},
        {"model_type": "qwen3_next"},
        {"model_type": "qwen3_5_moe", "text_config": {"model_type": "qwen3_5_moe_text"}},
        {"model_type": "unheard-of", "attn_output_gate": True},
    ],
)
def test_queries_with_a_gate(tmp_path, config):
    """q_proj has twice the rows: a gate for every query."""
    found = netweight.info(saved(tmp_path, 2 * HEADS, **config))
    assert (found.heads, found.kv_heads) == (HEADS, KV_HEADS)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("queries", "config", "shown"),
    [
        (2 * HEADS, {"model_type": "llama"}, 2 * HEADS),
        (2 * HEADS, {"model_type": "llama", "attn_output_gate": False}, 2 * HEADS),
        (4 * HEADS, {"model_type": "qwen3_next"}, 2 * HEADS),
    ],
)
def test_queries_that_disagree(tmp_path, queries, config, shown):
    found = netweight.info(saved(tmp_path, queries, **config))
    assert found.notes == (f"config.json says num_attention_heads = {HEADS}, the rows of q_proj make {shown}",)
