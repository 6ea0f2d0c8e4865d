"""Adapter folders, read by the rules that PEFT documents: names, patterns, scales, whole modules."""

from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from netweight.output.peft_folder import (
    LoraModule,
    StreamedTensor,
    adapter_config,
    adapter_tensors,
    taken_with,
    write_adapter,
)

RNG = np.random.default_rng(0)


def module(name, rank=2, shape=(5, 3), *, alpha=None, embedding=False, dtype=np.float32):
    out, width = shape
    a = RNG.standard_normal((rank, width)).astype(dtype)
    b = RNG.standard_normal((out, rank)).astype(dtype)
    return LoraModule(name, StreamedTensor.of(a), StreamedTensor.of(b), rank if alpha is None else alpha, embedding)


def setting(config, key, name):
    """What PEFT takes for the module `name`: the first pattern that fits the end of its name."""
    usual = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}[key]
    found = next((k for k in config[key] if re.match(rf"(.*\.)?({k})$", name)), None)
    return config[usual] if found is None else config[key][found]


def targeted(config, name):
    targets = config["target_modules"]
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return name in targets or any(name.endswith(f".{target}") for target in targets)


def test_a_folder_has_the_products_under_the_names_of_the_base(tmp_path):
    linear = module("model.layers.0.mlp.up_proj", 3, (6, 4), alpha=6)
    tokens = module("model.embed_tokens", 2, (4, 11), embedding=True, dtype=ml_dtypes.bfloat16)
    norm = np.linspace(0, 1, 4, dtype=np.float32)
    config = adapter_config([linear, tokens], base="org/base", revision="abc", saved=["model.norm"])
    tensors = adapter_tensors([linear, tokens], {"model.norm.weight": StreamedTensor.of(norm)})
    write_adapter(tmp_path, config, tensors)
    read = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in read.items()} == {
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": (3, 4),
        "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": (6, 3),
        "base_model.model.model.embed_tokens.lora_embedding_A": (2, 11),
        "base_model.model.model.embed_tokens.lora_embedding_B": (4, 2),
        "base_model.model.model.norm.weight": (4,),
    }
    assert read["base_model.model.model.embed_tokens.lora_embedding_A"].dtype == torch.bfloat16
    assert read["base_model.model.model.norm.weight"].tolist() == norm.tolist()
    (held,) = linear.a.blocks()
    assert np.array_equal(read["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].numpy(), held)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written == config
    assert (written["peft_type"], written["task_type"], written["inference_mode"]) == ("LORA", None, True)
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/base", "abc")
    assert written["modules_to_save"] == ["model.norm"]
    assert {
        setting(config, "alpha_pattern", m.name) / setting(config, "rank_pattern", m.name) for m in (linear, tokens)
    } == {2, 1}


def test_equal_ranks_need_no_patterns():
    config = adapter_config([module("a.q"), module("a.k")], base="b")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (2, 2, {}, {})
    assert config["modules_to_save"] is None
    assert "ensure_weight_tying" not in config
    assert adapter_config([module("wte")], base="b", tied=True)["ensure_weight_tying"] is True


def test_every_module_gets_its_own_rank_where_names_end_alike():
    modules = [module("layers.1.q", 1), module("model.layers.1.q", 2), module("model.layers.11.q", 3), module("q", 4)]
    config = adapter_config(modules, base="b")
    for one in modules:
        assert setting(config, "rank_pattern", one.name) == one.rank
        assert setting(config, "alpha_pattern", one.name) == one.rank


def test_targets_are_whole_names_and_nothing_else():
    names = ["model.layers.0.q", "model.layers.1.q"]
    others = ["model.layers.10.q", "vision.model.layers.0.q", "model.layers.0.qq"]
    modules = [module(name) for name in names]
    plain = adapter_config(modules, base="b", others=[*names, others[0], others[2]])
    assert plain["target_modules"] == names
    for config, all_names in (
        (plain, [*names, others[0], others[2]]),
        (adapter_config(modules, base="b", others=others), others + names),
    ):
        assert [n for n in all_names if targeted(config, n)] == names


def test_a_name_with_signs_of_regular_expressions_is_itself():
    odd = module("a.b(c", 3)
    config = adapter_config([odd, module("a.d", 1)], base="b", others=["x.a.d"])
    assert setting(config, "rank_pattern", odd.name) == 3
    assert targeted(config, odd.name)


def test_biases_stand_where_PEFT_has_the_bases():
    ones = StreamedTensor.of(np.ones(3, np.float32))
    tensors = adapter_tensors([module("c_attn")], None, {"c_attn": ones, "other": ones})
    assert list(tensors)[2:] == ["base_model.model.c_attn.base_layer.bias", "base_model.model.other.bias"]
    assert adapter_config([module("c_attn")], base="b", biased=True)["bias"] == "all"
    assert adapter_config([module("c_attn")], base="b")["bias"] == "none"


def test_what_is_kept_whole_with_another():
    assert taken_with("norm", ["norm", "model.norm", "layers.0.input_layernorm", "lm_head"]) == [
        "model.norm",
        "layers.0.input_layernorm",
    ]


def test_what_cannot_be_an_adapter():
    with pytest.raises(ValueError, match="expected one or more"):
        adapter_config([], base="b")
    with pytest.raises(ValueError, match="each once"):
        adapter_config([module("a")], base="b", saved=["a"])
    odd = LoraModule("a", *(StreamedTensor.of(np.zeros(s, np.float32)) for s in ((2, 3), (4, 1))), 1)
    with pytest.raises(ValueError, match=r"a: factors \[2, 3\] and \[4, 1\]"):
        adapter_tensors([odd])


def test_an_adapter_of_whole_modules_alone():
    config = adapter_config([], base="b", saved=["model.norm"])
    assert config["target_modules"] == []
    assert config["modules_to_save"] == ["model.norm"]
