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


@pytest.mark.parametrize("further", [0, 1, 2])
def test_blocks_that_predict_further_tokens(tmp_path, further):
    """GLM-4.5 and DeepSeek-V3 number them behind the layers that config counts."""
    saved(tmp_path, HEADS)
    tensors = {f"model.layers.{n}.mlp.up_proj.weight": np.ones((8, HIDDEN), np.float32) for n in range(3 + further)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "glm4_moe", "num_hidden_layers": 3, "num_nextn_predict_layers": further}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = netweight.info(tmp_path)
    assert found.layers == 3
    assert found.notes == ()
    assert found.stacks == ({"": 3, "mtp": further} if further else {"": 3})
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}))
    assert "num_hidden_layers = 2" in netweight.info(tmp_path).notes[0]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_tensors_that_zero_3_has_left_empty(tmp_path, suffix):
    """A model saved without gathering: the names are there, the weights are not, and every job says so."""
    torch = pytest.importorskip("torch")
    held = {
        "model.norm.weight": torch.ones(4),
        "model.layers.0.mlp.up_proj.weight": torch.empty(0),
        "lm_head.weight": torch.empty(0),
        "model.layers.0.mlp.none": torch.empty(0, 4),
    }
    if suffix == "bin":
        torch.save(held, tmp_path / "pytorch_model.bin")
    else:
        save_file({n: t.numpy() for n, t in held.items()}, tmp_path / "model.safetensors")
    for notes in (
        netweight.info(tmp_path).notes,
        netweight.scan(tmp_path).notes,
        netweight.compare(tmp_path, tmp_path).notes,
    ):
        assert "2 of 4 tensors are empty, of shape [0]: DeepSpeed's ZeRO-3" in notes[0]


@pytest.mark.parametrize(("shape", "dtype"), [((30, HIDDEN), np.float16), ((28, HIDDEN), np.float32)])
def test_another_head_than_the_one_that_config_ties(tmp_path, shape, dtype):
    head = {"model.embed_tokens.weight": np.ones((30, HIDDEN), np.float32), "lm_head.weight": np.ones(shape, dtype)}
    save_file(head, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    found = netweight.info(tmp_path)
    assert found.head_is is None
    [note] = found.notes
    assert "config.json ties lm_head.weight to model.embed_tokens.weight, and the file holds another head" in note


def test_an_adapter_says_whose_it_is(tmp_path):
    layer = "base_model.model.model.layers.0.self_attn.q_proj."
    save_file(
        {f"{layer}lora_{x}.weight": np.ones((4, 4), np.float32) for x in "AB"}, tmp_path / "adapter_model.safetensors"
    )
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about | {"target_modules": ["q_proj", "v_proj"]}))
    found = netweight.info(tmp_path)
    assert found.notes == (
        "adapter_config.json: an adapter (LORA, r = 4, lora_alpha = 8) of org/base, on q_proj, v_proj",
    )
    assert found.config_problem is None
    (tmp_path / "adapter_config.json").write_text("[1]")
    assert "adapter_config.json: holds a JSON array" in netweight.info(tmp_path).notes[0]


def test_the_text_part_of_a_config_comes_first(tmp_path):
    """A vision-language model's numbers at the top are of another tower, or left over."""
    text = {"num_hidden_layers": 5, "num_attention_heads": 8, "hidden_size": 64, "vocab_size": 30}
    top = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(top | {"text_config": text}))
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    found = netweight.info(tmp_path)
    assert (found.layers, found.heads, found.hidden_size, found.vocabulary) == (5, 8, 64, 30)
