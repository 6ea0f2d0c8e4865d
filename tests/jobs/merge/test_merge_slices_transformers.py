"""Slices of models whose layers are not all alike: transformers loads what was merged, each tensor in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import netweight
from netweight.errors import InputError
from netweight.merging.recipe.recipe import parse_recipe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 8, "num_experts_per_tok": 1}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 2,
}  # fmt: skip
MAMBA = {"mamba_d_state": 4, "mamba_d_conv": 2, "mamba_expand": 2, "mamba_dt_rank": 4, "use_mamba_kernels": False}

FAMILIES = {
    # the class of the config, its fields, fields that a config of the hub has in place of those that are deleted
    "DeepseekV3": (
        {**EXPERTS, "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8,
         "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}, {}, ()),
    "Qwen3Moe": ({**EXPERTS, "num_experts": 2, "decoder_sparse_step": 2, "head_dim": 8}, {}, ()),
    "Qwen3Next": (
        {**EXPERTS, **LINEAR, "num_experts": 2, "shared_expert_intermediate_size": 8, "head_dim": 8,
         "layer_types": ["linear_attention", "full_attention"] * 2}, {"full_attention_interval": 2}, ("layer_types",)),
    "Jamba": (
        {**MAMBA, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0,
         "num_experts": 2}, {}, ()),
    "Ernie4_5_Moe": (
        {**EXPERTS, "moe_num_experts": 2, "moe_k": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 3,
         "moe_num_shared_experts": 1}, {}, ()),
    "Gemma3Text": (
        {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}, {"sliding_window_pattern": 2},
        ("layer_types",)),
    "Gemma2": (
        {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}, {},
        ("layer_types",)),
    "SmolLM3": (
        {"no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False}, {},
        ("layer_types", "no_rope_layers", "no_rope_layer_interval")),
    "Afmoe": (
        {**EXPERTS, "num_experts": 2, "num_dense_layers": 2, "global_attn_every_n_layers": 2, "sliding_window": 8,
         "head_dim": 8, "n_group": 1, "topk_group": 1, "num_shared_experts": 1}, {}, ("layer_types",)),
    "RecurrentGemma": (
        {"head_dim": 8, "block_types": ["recurrent", "attention"], "lru_width": 16, "attention_window_size": 8},
        {}, ()),
    "Bamba": (
        {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_d_conv": 2, "mamba_n_groups": 1,
         "attn_layer_indices": [1, 3]}, {}, ("layer_types",)),
    "GPTNeo": (
        {"num_layers": 4, "num_heads": 2, "attention_types": [[["global", "local"], 2]]}, {}, ("attention_layers",)),
    "Lfm2": (
        {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"] * 2}, {"full_attn_idxs": [1, 3]},
        ("layer_types",)),
}  # fmt: skip


def saved(folder: Path, name: str, seed: int) -> Path:
    fields, instead, deleted = FAMILIES[name]
    config = getattr(transformers, f"{name}Config")(**SMALL | fields)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.1)
    model.save_pretrained(folder)
    path = folder / "config.json"
    held = {k: v for k, v in json.loads(path.read_text()).items() if k not in deleted} | instead
    path.write_text(json.dumps(held))
    return folder


def loaded(folder: Path):
    """The model, none of whose tensors are missing or unexpected."""
    model, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"], found
    assert not found["unexpected_keys"], found
    assert not found["mismatched_keys"], found
    return model.eval()


def merged(tmp_path: Path, slices) -> Path:
    listed = "".join(
        f"  - sources: [{{model: {tmp_path / name}, layer_range: [{first}, {last}]}}]\n" for name, first, last in slices
    )
    recipe = parse_recipe(f"slices:\n{listed}merge_method: passthrough\n", "r.yml")
    netweight.merge(recipe, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_layers_of_two_kinds(tmp_path, name):
    """A's first three layers, then B's from its second: the kinds change their order."""
    for folder, seed in (("a", 1), ("b", 2)):
        saved(tmp_path / folder, name, seed)
    slices = [("a", 0, 3), ("b", 2, 4), ("b", 3, 4)]
    if name == "Afmoe":  # the dense layers stand before the others
        slices = [("a", 0, 4), ("b", 3, 4)]
    if name == "Jamba":  # its form has but periods
        slices = [("a", 0, 4), ("b", 2, 4)]
    model = loaded(merged(tmp_path, slices))
    sources = {folder: loaded(tmp_path / folder) for folder in ("a", "b")}
    places = [(folder, number) for folder, first, last in slices for number in range(first, last)]
    layers = next(m for n, m in model.named_modules() if n.rpartition(".")[2] in {"layers", "h"})
    assert len(layers) == len(places)
    for layer, (folder, number) in zip(layers, places, strict=True):
        blocks = next(m for n, m in sources[folder].named_modules() if n.rpartition(".")[2] in {"layers", "h"})
        expected = blocks[number].state_dict()
        assert {n: t.shape for n, t in layer.state_dict().items()} == {n: t.shape for n, t in expected.items()}
        assert all(torch.equal(t, expected[n]) for n, t in layer.state_dict().items())
    kinds = getattr(model.config, "layer_types", None) or getattr(model.config, "attention_layers", None)
    if kinds is not None:
        own = {f: getattr(m.config, "layer_types", None) or m.config.attention_layers for f, m in sources.items()}
        assert list(kinds) == [own[folder][number] for folder, number in places]
    if name == "SmolLM3":
        assert [layer.self_attn.use_rope for layer in layers] == [number % 4 != 3 for _, number in places]
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 3, 4, 5]])).logits).all()


@pytest.mark.parametrize(
    ("name", "key"), [("DeepseekV3", "first_k_dense_replace"), ("Ernie4_5_Moe", "moe_layer_start_index"),
                      ("Jamba", "expert_layer_period")]
)  # fmt: skip
def test_kinds_that_a_config_cannot_say(tmp_path, name, key):
    """Dense layers between sparse ones: the model would load with tensors missing."""
    saved(tmp_path / "a", name, 1)
    with pytest.raises(InputError, match=rf"a: config\.json: {key} = .* cannot say of the merged layers that they are"):
        merged(tmp_path, [("a", 0, 3), ("a", 0, 1), ("a", 2, 4)])
    assert not (tmp_path / "out").exists()


def test_letters_of_a_hybrid(tmp_path):
    """Nemotron-H says the kind of each layer by a letter."""
    for folder, seed in (("a", 1), ("b", 2)):
        config = transformers.NemotronHConfig(
            **{k: v for k, v in SMALL.items() if k != "num_hidden_layers"}, hybrid_override_pattern="M-*-", head_dim=8,
            mamba_num_heads=4, mamba_head_dim=8, n_groups=1, ssm_state_size=4, conv_kernel=2,
        )  # fmt: skip
        torch.manual_seed(seed)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / folder)
        path = tmp_path / folder / "config.json"
        held = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"layers_block_type", "layer_types"}}
        path.write_text(json.dumps(held | {"hybrid_override_pattern": "M-*-", "num_hidden_layers": 4}))
    out = merged(tmp_path, [("a", 0, 2), ("b", 1, 4), ("b", 0, 1)])
    assert json.loads((out / "config.json").read_text())["hybrid_override_pattern"] == "M--*-M"
    loaded(out)


def test_what_stands_outside_the_blocks_stays_together(tmp_path):
    """ModernBERT's head and final norm are those of the last model, its embeddings those of the first."""
    fields = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"pad_token_id": 0}
    models = {}
    for folder, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        config = transformers.ModernBertConfig(**fields, num_labels=3, attn_implementation="eager", cls_token_id=1,
                                               sep_token_id=2, global_attn_every_n_layers=2)  # fmt: skip
        model = transformers.ModernBertForSequenceClassification(config)
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 0.1)
        model.save_pretrained(tmp_path / folder)
        models[folder] = model
    out = merged(tmp_path, [("a", 0, 3), ("b", 2, 4)])
    found, info = transformers.ModernBertForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    for name, tensor in found.state_dict().items():
        if ".layers." not in name:
            source = models["a" if ".embeddings." in name else "b"]
            assert torch.equal(tensor, source.state_dict()[name]), name
    kinds = {f: m.config.layer_types for f, m in models.items()}
    assert found.config.layer_types == [*kinds["a"][:3], *kinds["b"][2:]]


def test_a_decoder_alone_counts_its_layers_by_its_own_entry(tmp_path):
    """BART's config counts the encoder's layers as num_hidden_layers; the norm of the embeddings goes with them."""
    fields = {"vocab_size": 32, "d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 2,
              "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
              "max_position_embeddings": 32}  # fmt: skip
    models = {}
    for folder, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        models[folder] = transformers.BartForCausalLM(transformers.BartConfig(**fields))
        with torch.no_grad():
            for p in models[folder].parameters():
                p.normal_(0, 0.1)
        models[folder].save_pretrained(tmp_path / folder)
    found = loaded(merged(tmp_path, [("a", 0, 3), ("b", 1, 4)])).state_dict()
    name = "model.decoder.layers.5.fc1.weight"
    assert torch.equal(found[name], models["b"].state_dict()["model.decoder.layers.3.fc1.weight"])
    name = "model.decoder.layernorm_embedding.weight"
    assert torch.equal(found[name], models["a"].state_dict()[name])


def test_embeddings_of_every_layer_cannot_follow_slices(tmp_path):
    fields = {"head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 32, "laurel_rank": 4,
              "altup_num_inputs": 2, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4,
              "intermediate_size": [24] * 4, "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip
    for folder, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        config = transformers.Gemma3nTextConfig(**SMALL | fields)
        transformers.Gemma3nForCausalLM(config).save_pretrained(tmp_path / folder)
    with pytest.raises(InputError, match=r"'model\.embed_tokens_per_layer\.weight' has a part for every layer"):
        merged(tmp_path, [("a", 0, 2), ("b", 0, 2)])
    loaded(merged(tmp_path, [("a", 0, 2), ("b", 2, 4)]))


def test_tensors_of_the_last_layer_alone(tmp_path):
    """GPT-NeoX Japanese has one bias at the end, which no config says."""
    fields = {k: v for k, v in SMALL.items() if k not in {"num_key_value_heads", "pad_token_id"}}
    torch.manual_seed(0)
    config = transformers.GPTNeoXJapaneseConfig(**fields, intermediate_multiple_size=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "a")

    def notes(slices, out: str):
        parts = [{"sources": [{"model": str(tmp_path / "a"), "layer_range": list(part)}]} for part in slices]
        recipe = parse_recipe(json.dumps({"merge_method": "passthrough", "slices": parts}), "r.yml")
        return [note for note in netweight.merge(recipe, tmp_path / out).notes if "check that it loads" in note]

    [note] = notes([(0, 4), (2, 4)], "twice")
    assert "only layer 3 has 'attention.dense_bias'" in note
    assert notes([(0, 2), (1, 4)], "once") == []


def test_entries_of_numbered_layers_follow(tmp_path):
    """Gemma 4 gives some layers entries of their own, by number."""
    from netweight.jobs.merge.layering import Layering, edit_layers

    config = {"num_hidden_layers": 3, "per_layer_config": {"1": {"head_dim": 8}}}
    edit_layers(config, Layering(3, [(config, 3, 1), (config, 3, 0), (config, 3, 1)]), "a")
    assert config["per_layer_config"] == {"0": {"head_dim": 8}, "2": {"head_dim": 8}}


def test_kinds_that_no_config_says_are_noted(tmp_path):
    """Qwen3-Next's code has a rule of its own where its config says nothing; a type that is unknown gets a note."""
    saved(tmp_path / "a", "Qwen3Next", 1)
    path = tmp_path / "a" / "config.json"
    held = json.loads(path.read_text())
    del held["full_attention_interval"]
    path.write_text(json.dumps(held | {"model_type": "unheard_of"}))

    def notes(ranges, out: str):
        parts = [{"sources": [{"model": str(tmp_path / "a"), "layer_range": list(part)}]} for part in ranges]
        recipe = parse_recipe(json.dumps({"merge_method": "passthrough", "slices": parts}), "r.yml")
        return [note for note in netweight.merge(recipe, tmp_path / out).notes if "config.json does not say" in note]

    [note] = notes([(0, 2), (1, 4)], "moved")
    assert "a: only 2 of 4 layers has " in note
    assert notes([(0, 2), (2, 4)], "kept") == []
