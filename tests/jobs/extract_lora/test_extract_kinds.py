"""Adapters of other kinds of models: Conv1D, biases, tied heads, experts, grown vocabularies, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from peft_models import LLAMA, adapter, applied, llama, targeted, tuned, write

import netweight


def close(made, wanted, prefix=""):
    assert made.keys() == {prefix + name for name in wanted}
    for name, tensor in wanted.items():
        np.testing.assert_allclose(made[prefix + name], tensor, atol=2e-6, err_msg=name)


def extract(tmp_path, base, fine, config, **more):
    folders = write(tmp_path / "base", base, config), write(tmp_path / "fine", fine, config)
    result = netweight.extract_lora(*folders, tmp_path / "out", **({"rank": 64} | more))
    assert netweight.verify(tmp_path / "out").good
    return result


def some(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def gpt2(prefix="", seed=0):
    rng = np.random.default_rng(seed)
    made = {"wte.weight": some(rng, 30, 8), "wpe.weight": some(rng, 12, 8)}
    for n in (0, 1):
        for name, shape in {
            "attn.c_attn": (8, 24),
            "attn.c_proj": (8, 8),
            "mlp.c_fc": (8, 32),
            "mlp.c_proj": (32, 8),
        }.items():
            made |= {f"h.{n}.{name}.weight": some(rng, *shape), f"h.{n}.{name}.bias": some(rng, shape[1])}
        made |= {f"h.{n}.{ln}.{p}": some(rng, 8) for ln in ("ln_1", "ln_2") for p in ("weight", "bias")}
    made |= {"ln_f.weight": some(rng, 8), "ln_f.bias": some(rng, 8)}
    return {prefix + name: tensor for name, tensor in made.items()}


GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_head": 2, "n_embd": 8}


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2(tmp_path, prefix):
    """Conv1D is stored [in, out]; the names of its modules have a prefix that files may lack; its head is tied."""
    base = gpt2(prefix)
    fine = tuned(base)
    result = extract(tmp_path, base, fine, GPT2)
    close(applied(base, tmp_path / "out", "" if prefix else "transformer."), fine, "" if prefix else "transformer.")
    config, parts = adapter(tmp_path / "out")
    assert config["fan_in_fan_out"] is True
    assert config["bias"] == "all"
    assert "ensure_weight_tying" not in config
    assert np.array_equal(parts["lm_head.lora_B.weight"], parts["transformer.wte.lora_embedding_A"].T)
    assert np.array_equal(parts["lm_head.lora_A.weight"], parts["transformer.wte.lora_embedding_B"].T)
    kept = {row["module"].rpartition(".")[2]: row["kept"] for row in result.record["parameters"].values()}
    assert (kept["ln_1"], kept["wpe"]) == ("module", "factors")
    assert any("merge_and_unload" in note for note in result.notes)


def test_a_base_without_a_head_keeps_its_names(tmp_path):
    base = gpt2()
    extract(tmp_path, base, tuned(base), GPT2 | {"architectures": ["GPT2Model"]})
    assert "h.0.attn.c_attn" in adapter(tmp_path / "out")[0]["target_modules"]


def test_a_tied_llama_leaves_the_head_to_PEFT(tmp_path):
    base = llama()
    del base["lm_head.weight"]
    fine = tuned(base)
    extract(tmp_path, base, fine, LLAMA | {"tie_word_embeddings": True})
    close(applied(base, tmp_path / "out"), fine)
    config, parts = adapter(tmp_path / "out")
    assert config["ensure_weight_tying"] is True
    assert not any(name.startswith("lm_head") for name in parts)


def test_biases_stand_beside_factors(tmp_path):
    """Qwen2 has them at some projections; one changes where its weight does not."""
    base = llama()
    rng = np.random.default_rng(3)
    for n in (0, 1):
        base |= {f"model.layers.{n}.self_attn.{p}_proj.bias": some(rng, 24 if p == "q" else 12) for p in "qkv"}
    fine = tuned(base)
    fine["model.layers.0.self_attn.k_proj.weight"] = base["model.layers.0.self_attn.k_proj.weight"]
    result = extract(tmp_path, base, fine, LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    close(applied(base, tmp_path / "out"), fine)
    _, parts = adapter(tmp_path / "out")
    assert "model.layers.0.self_attn.k_proj.bias" in parts
    assert "model.layers.0.self_attn.q_proj.base_layer.bias" in parts
    assert sum(row["kept"] == "bias" for row in result.record["parameters"].values()) == 6


def moe(seed=0):
    rng = np.random.default_rng(seed)
    made = llama(seed)
    for n in (0, 1):
        head = f"model.layers.{n}.mlp."
        for p in ("gate", "up", "down"):
            del made[f"{head}{p}_proj.weight"]
        made[f"{head}gate.weight"] = some(rng, 3, 24)
        for e in range(3):
            made |= {f"{head}experts.{e}.{p}_proj.weight": some(rng, 10, 24) for p in ("gate", "up")}
            made[f"{head}experts.{e}.down_proj.weight"] = some(rng, 24, 10)
    return made


MOE = LLAMA | {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 3}


def test_all_experts_and_routers_have_one_rank(tmp_path):
    """That is what PEFT can fuse where transformers does; unchanged experts beside changed ones get zeros."""
    base = moe()
    fine = tuned(base)
    same = "model.layers.1.mlp.experts.2.up_proj.weight"
    fine[same] = base[same]
    result = extract(tmp_path, base, fine, MOE)
    close(applied(base, tmp_path / "out"), fine)
    config, parts = adapter(tmp_path / "out")
    assert config["r"] == config["lora_alpha"] == 10
    experts = {n: t for n, t in parts.items() if ".experts." in n or ".gate.lora" in n}
    assert len(experts) == 2 * 2 * 10
    assert {t.shape[0] for n, t in experts.items() if n.endswith("lora_A.weight")} == {10}
    assert not np.any(parts[same.replace("weight", "lora_A.weight")])
    assert same not in result.record["parameters"]


def test_what_PEFT_does_not_convert_is_said(tmp_path):
    base = moe()
    rng = np.random.default_rng(2)
    base |= {f"model.layers.0.mlp.shared_expert.{p}_proj.weight": some(rng, 10, 24) for p in ("gate", "up")}
    result = extract(tmp_path / "known", base, tuned(base), MOE)
    said = "2 modules outside of the experts are named like theirs, first model.layers.0.mlp.shared_expert.gate_proj"
    assert any(said in note for note in result.notes)
    result = extract(tmp_path / "unknown", base, tuned(base), MOE | {"model_type": "qwen2_moe"})
    assert any("none of the type qwen2_moe" in note for note in result.notes)
    config, _ = adapter(tmp_path / "unknown" / "out")
    assert {"model.layers.0.mlp.gate", "model.layers.1.mlp.gate"} <= {*config["modules_to_save"]}


def test_experts_that_did_not_change_have_none(tmp_path):
    base = moe()
    extract(tmp_path, base, tuned(base, only="self_attn"), MOE)
    assert not any(".experts." in name or ".gate" in name for name in adapter(tmp_path / "out")[1])


def test_a_stack_of_experts_is_left_out(tmp_path):
    base = llama()
    rng = np.random.default_rng(5)
    for n in (0, 1):
        base[f"model.layers.{n}.mlp.experts.gate_up_proj"] = some(rng, 3, 24, 20)
        base[f"model.layers.{n}.mlp.experts.down_proj"] = some(rng, 3, 10, 24)
        base[f"model.layers.{n}.self_attn.sinks"] = some(rng, 4)
    result = extract(tmp_path, base, tuned(base), LLAMA | {"model_type": "gpt_oss"})
    reasons = {n: row["reason"] for n, row in result.record["parameters"].items() if row["kept"] == "left out"}
    assert "a stack of 3 matrices" in reasons["model.layers.0.mlp.experts.gate_up_proj"]
    assert "beside other modules in model.layers.1.self_attn" in reasons["model.layers.1.self_attn.sinks"]
    assert len(reasons) == 6
    assert result.record["whole"]["relative_error_of_all"] > result.relative_error


def test_a_grown_vocabulary_is_kept_whole(tmp_path):
    base = llama()
    fine = tuned(base)
    rng = np.random.default_rng(6)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        fine[name] = np.concatenate([fine[name], some(rng, 4, 24)])
    result = extract(tmp_path, base, fine, LLAMA)
    config, parts = adapter(tmp_path / "out")
    assert {"model.embed_tokens", "lm_head"} <= {*config["modules_to_save"]}
    assert np.array_equal(parts["lm_head.weight"], fine["lm_head.weight"])
    assert any("resize_token_embeddings(64)" in note for note in result.notes)
    row = result.record["parameters"]["lm_head.weight"]
    assert (row["squares"], row["left"]) == (None, None)
    assert "shape [64, 24] in the fine-tune" in row["reason"]


def test_a_grown_tied_vocabulary_is_the_head_too(tmp_path):
    base = llama()
    del base["lm_head.weight"]
    fine = tuned(base)
    fine["model.embed_tokens.weight"] = np.concatenate([fine["model.embed_tokens.weight"]] * 2)
    extract(tmp_path, base, fine, LLAMA | {"tie_word_embeddings": True})
    _, parts = adapter(tmp_path / "out")
    assert np.array_equal(parts["lm_head.weight"], parts["model.embed_tokens.weight"])


def test_what_only_one_side_has_is_listed(tmp_path):
    base = llama()
    fine = tuned(base)
    del fine["model.layers.1.mlp.up_proj.weight"]
    fine["model.layers.1.mlp.extra.weight"] = np.ones((3, 3), np.float32)
    fine["model.layers.0.mlp.down_proj.weight"] = np.ones((24, 41), np.float32)
    result = extract(tmp_path, base, fine, LLAMA)
    reasons = {entry["name"]: entry["reason"] for entry in result.record["left_out"]}
    assert reasons.keys() == {
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.extra.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    assert "shape [24, 40] in the base, [24, 41]" in reasons["model.layers.0.mlp.down_proj.weight"]


def test_modules_whose_names_end_alike(tmp_path):
    """PEFT takes modules to save, and targets, by the end of their names."""
    rng = np.random.default_rng(7)
    names = ("proj", "tower.proj")
    base = {f"{name}.weight": some(rng, 6, 5) for name in names}
    base |= {f"{name}.weight": some(rng, 5) for name in ("norm", "tower.norm")}
    fine = tuned(base, only="^(proj|norm|tower.norm)")
    result = extract(tmp_path, base, fine, {"model_type": "odd"})
    config, _ = adapter(tmp_path / "out")
    assert [n for n in names if targeted(config, n)] == ["proj"]
    assert config["modules_to_save"] == ["tower.norm"]
    assert "PEFT would keep tower.norm whole as well" in result.record["parameters"]["norm.weight"]["reason"]


def test_mamba_keeps_what_PEFT_refuses_whole(tmp_path):
    rng = np.random.default_rng(8)
    base = {"backbone.embeddings.weight": some(rng, 20, 6)}
    for n in (0, 1):
        head = f"backbone.layers.{n}.mixer."
        base |= {f"{head}in_proj.weight": some(rng, 24, 6), f"{head}out_proj.weight": some(rng, 6, 12)}
        base |= {f"{head}A_log": some(rng, 12, 4), f"{head}conv1d.weight": some(rng, 12, 1, 4)}
        base[f"{head}conv1d.bias"] = some(rng, 12)
    fine = tuned(base)
    extract(tmp_path, base, fine, {"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
    config, _ = adapter(tmp_path / "out")
    assert {name.rpartition(".")[2] for name in config["modules_to_save"]} == {"out_proj", "conv1d"}
    assert not any("A_log" in name for name in config["target_modules"])
