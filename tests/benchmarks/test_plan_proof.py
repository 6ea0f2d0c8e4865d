"""The rules of llama-quantize's mixtures as the proof of plans restates them, and a proof on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "plan"))

import prove
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.mark.parametrize(
    ("mixture", "key", "expected"),
    [
        ("Q4_K_M", "model.layers.0.self_attn.v_proj.weight", "Q4_K"),  # 0 - 6 // 8 is 0, and 0 % 3 is not 2
        ("Q4_K_M", "model.layers.2.self_attn.v_proj.weight", "Q6_K"),
        ("Q4_K_M", "model.layers.5.mlp.down_proj.weight", "Q6_K"),  # the last eighth
        ("Q4_K_M", "model.layers.1.mlp.down_proj.weight", "Q4_K"),
        ("Q4_K_S", "model.layers.3.self_attn.v_proj.weight", "Q5_K"),
        ("Q4_K_S", "model.layers.4.self_attn.v_proj.weight", "Q4_K"),
        ("Q3_K_M", "model.layers.1.self_attn.v_proj.weight", "Q5_K"),
        ("Q3_K_M", "model.layers.4.self_attn.o_proj.weight", "Q4_K"),
        ("Q2_K", "model.layers.4.mlp.down_proj.weight", "Q3_K"),
        ("Q2_K", "model.layers.4.self_attn.v_proj.weight", "Q3_K"),
        ("Q5_K_S", "model.layers.2.mlp.down_proj.weight", "Q5_K"),
        ("Q5_K_M", "lm_head.weight", "Q6_K"),
        ("Q3_K_L", "model.embed_tokens.weight", "Q3_K"),
    ],
)
def test_rules_of_mixtures(mixture, key, expected):
    base = mixture.rpartition("_")[0] if mixture.endswith(("_S", "_M", "_L")) else mixture
    assert prove._mixed(mixture, base, key, 6, 2, tied=False) == expected


def test_a_model_is_asked_and_left_as_it_was(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "m")
    monkeypatch.setattr(prove, "MIXTURES", ("Q4_K_M",))
    monkeypatch.setattr(prove, "PURE", ())
    before = {name: value.clone() for name, value in model.named_parameters()}
    (row,) = prove.compared("m", tmp_path / "m", model, torch.randint(0, 64, (4, 20)))
    assert row["planned_bits"] <= row["bits"] + 1e-5
    assert row["kl"] > 0
    assert row["planned_kl"] > 0
    assert "| m | Q4_K_M |" in capsys.readouterr().out
    assert all((before[name] == value).all() for name, value in model.named_parameters())
