"""Every count against models that transformers builds from its own configuration classes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from netweight.jobs.structure.job import structure
from netweight.params.families import MODEL_TYPES
from netweight.params.tied import _TIED_BY_TYPE, TIED_BY_DEFAULT

transformers = pytest.importorskip("transformers")

BASE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 80}
GATED = BASE | {"intermediate_size": 48, "num_key_value_heads": 2, "pad_token_id": 0}
CAUSAL = "AutoModelForCausalLM"
QKV = [(r"\.([qkv])_proj\.", r"\1_proj"), (r"self_attn\.(o_proj|out_proj|dense)\.", "o_proj")]
GATES = [(r"(?<!experts)\.(gate|up|down)_proj\.", r"\1_proj")]

# family: (config class, its values, model class, [(what a parameter's name holds, its slot)], heads, kv heads)
FAMILIES: dict[str, tuple[str, dict[str, Any], str, list[tuple[str, str]], tuple[int, int]]] = {
    "llama": ("LlamaConfig", GATED, CAUSAL, QKV + GATES, (4, 2)),
    "llama-bias": ("LlamaConfig", GATED | {"attention_bias": True, "mlp_bias": True}, CAUSAL, QKV + GATES, (4, 2)),
    "mistral": ("MistralConfig", GATED | {"head_dim": 16}, CAUSAL, QKV + GATES, (4, 2)),
    "qwen2": ("Qwen2Config", GATED | {"tie_word_embeddings": True}, CAUSAL, QKV + GATES, (4, 2)),
    "qwen3": ("Qwen3Config", GATED | {"head_dim": 16}, CAUSAL, QKV + GATES, (4, 2)),
    "gemma": ("GemmaConfig", GATED | {"num_key_value_heads": 1, "head_dim": 16}, CAUSAL, QKV + GATES, (4, 1)),
    "gemma3": ("Gemma3TextConfig", GATED | {"head_dim": 8}, CAUSAL, QKV + GATES, (4, 2)),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 80, "n_positions": 16},
        CAUSAL,
        [(r"c_attn", "qkv"), (r"attn\.c_proj", "o_proj"), (r"c_fc", "up_proj"), (r"mlp\.c_proj", "down_proj")],
        (4, 4),
    ),
    "opt": (
        "OPTConfig",
        BASE | {"ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
        CAUSAL,
        [*QKV, (r"\.fc1\.", "up_proj"), (r"\.fc2\.", "down_proj")],
        (4, 4),
    ),
    "phi3": (
        "Phi3Config",
        GATED,
        CAUSAL,
        [("qkv_proj", "qkv"), ("o_proj", "o_proj"), ("gate_up_proj", "gate_up"), ("down_proj", "down_proj")],
        (4, 2),
    ),
    "falcon": (
        "FalconConfig",
        BASE | {"multi_query": True},
        CAUSAL,
        [
            ("query_key_value", "qkv"),
            (r"attention\.dense", "o_proj"),
            ("dense_h_to", "up_proj"),
            ("4h_to", "down_proj"),
        ],
        (4, 1),
    ),
    "falcon-new": (
        "FalconConfig",
        BASE | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        CAUSAL,
        [
            ("query_key_value", "qkv"),
            (r"attention\.dense", "o_proj"),
            ("dense_h_to", "up_proj"),
            ("4h_to", "down_proj"),
        ],
        (4, 2),
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        BASE | {"intermediate_size": 48},
        CAUSAL,
        [
            ("query_key_value", "qkv"),
            (r"attention\.dense", "o_proj"),
            ("dense_h_to", "up_proj"),
            ("4h_to", "down_proj"),
        ],
        (4, 4),
    ),
    "bloom": (
        "BloomConfig",
        {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 80},
        CAUSAL,
        [
            ("query_key_value", "qkv"),
            (r"attention\.dense", "o_proj"),
            ("dense_h_to", "up_proj"),
            ("4h_to", "down_proj"),
        ],
        (4, 4),
    ),
    "bert": (
        "BertConfig",
        BASE | {"intermediate_size": 48, "max_position_embeddings": 24},
        "BertForMaskedLM",
        [
            (r"self\.query", "q_proj"),
            (r"self\.key", "k_proj"),
            (r"self\.value", "v_proj"),
            (r"attention\.output\.dense", "o_proj"),
            (r"intermediate\.dense", "up_proj"),
            (r"(?<!attention\.)output\.dense", "down_proj"),
        ],
        (4, 4),
    ),
    "t5": (
        "T5Config",
        {
            "d_model": 32,
            "d_kv": 8,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "d_ff": 48,
            "vocab_size": 80,
        },
        "T5ForConditionalGeneration",
        [
            (r"Attention\.([qkvo])\.", r"\1_proj"),
            ("relative_attention_bias", "position_embedding"),
            (r"Dense\.wi\.", "up_proj"),
            (r"Dense\.wo\.", "down_proj"),
        ],
        (4, 4),
    ),
    "mixtral": (
        "MixtralConfig",
        GATED | {"num_local_experts": 4, "num_experts_per_tok": 2},
        CAUSAL,
        [*QKV, (r"mlp\.gate\.", "router"), (r"experts\.", "experts")],
        (4, 2),
    ),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        GATED
        | {
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "mlp_only_layers": [0],
        },
        CAUSAL,
        [
            *QKV,
            (r"mlp\.gate\.", "router"),
            (r"\.experts\.", "experts"),
            (r"shared_expert", "shared_expert"),
            (r"mlp\.(gate|up|down)_proj", r"\1_proj"),
        ],
        (4, 2),
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        GATED | {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 5, "num_experts_per_tok": 2},
        CAUSAL,
        [*QKV, (r"mlp\.gate\.", "router"), (r"\.experts\.", "experts")],
        (4, 2),
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        GATED
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
        },
        CAUSAL,
        [
            (r"\.(q_[ab]_proj|kv_b_proj|o_proj)\.", r"\1"),
            ("kv_a_proj_with_mqa", "kv_a_proj"),
            (r"mlp\.gate\.", "router"),
            (r"\.experts\.", "experts"),
            (r"shared_experts", "shared_expert"),
            (r"mlp\.(gate|up|down)_proj", r"\1_proj"),
        ],
        (4, 4),
    ),
    "gpt-oss": (
        "GptOssConfig",
        GATED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24},
        CAUSAL,
        [*QKV, ("sinks", "self_attn.sinks"), (r"mlp\.router\.", "router"), (r"experts\.", "experts")],
        (4, 2),
    ),
}
LISTED_AS_OTHER = {"gpt-oss": ["model.layers.N.self_attn.sinks"], "opt": []}


def build(family: str) -> torch.nn.Module:
    config_class, values, model_class, _, _ = FAMILIES[family]
    config = getattr(transformers, config_class)(**values)
    torch.manual_seed(0)
    auto = getattr(transformers, model_class)
    return auto.from_config(config) if model_class == CAUSAL else auto(config)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, dict[str, Any]]:
    """(family, the model, its structure as JSON)."""
    model = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return request.param, model, structure(folder).structure


def blocks(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """(prefix, module) of every block, encoder first."""
    found = [(n, m) for n, m in model.named_modules() if re.search(r"(^|\.)(h|layers|layer|block)\.\d+$", n)]
    outer = [(n, m) for n, m in found if not any(n.startswith(f"{other}.") for other, _ in found)]
    return sorted(outer, key=lambda pair: "encoder" not in pair[0])


def in_norms(module: torch.nn.Module) -> set[int]:
    """The parameters of normalisations, by the class of their module."""
    return {id(p) for m in module.modules() if type(m).__name__.endswith("Norm") for p in m.parameters(recurse=False)}


def expected_slots(family: str, module: torch.nn.Module, prefix: str) -> Counter[str]:
    """Elements by slot (norms as "norm", cross attention as "cross.SLOT") of one block of the live model."""
    counts: Counter[str] = Counter()
    norms = in_norms(module)
    for name, parameter in module.named_parameters():
        full = f"{prefix}.{name}"
        if id(parameter) in norms:
            counts["norm"] += parameter.numel()
            continue
        for pattern, slot in FAMILIES[family][3]:
            if found := re.search(pattern, full):
                cross = "cross." if "EncDecAttention" in full else ""
                counts[cross + found.expand(slot)] += parameter.numel()
                break
        else:
            raise AssertionError(f"the test does not know {full}")
    return counts


def found_slots(layer: dict[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter(norm=layer["norm"])
    words = {"type", "total", "num_heads", "num_kv_heads", "bias", "intermediate_size", "experts", "shared_expert"}
    for part, before in (("attention", ""), ("mlp", ""), ("cross_attention", "cross.")):
        for slot, count in layer.get(part, {}).items():
            if slot not in words and count:
                counts[before + slot] += count
    for name in ("experts", "shared_expert"):
        if name in layer["mlp"]:
            counts[name] = layer["mlp"][name]["total"]
    return +counts


def test_totals(saved: tuple[str, Any, dict[str, Any]]) -> None:
    family, model, found = saved
    layers = blocks(model)
    inside = sum(p.numel() for _, block in layers for p in block.parameters())
    total = sum(p.numel() for p in model.parameters())  # tied ones once
    assert found["total_params"] == total
    assert found["layer_summary"]["num_layers"] == len(layers) == len(found["layers"])
    assert found["layer_summary"]["total_layer_params"] == inside
    head = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    if family != "bert":  # BERT's head has a transform of its own
        assert found["lm_head_params"] == (0 if tied else head.weight.numel())
    else:
        assert found["lm_head_params"] == sum(p.numel() for p in model.cls.parameters()) - head.weight.numel()
    assert (found["tied"]["head_is"] is not None) == tied
    assert found["tied"]["total_params_counted_twice"] == total + (head.weight.numel() if tied else 0)
    tables = {id(p): p for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    inner = {id(p) for _, block in layers for p in block.parameters()}
    tables = {key: p for key, p in tables.items() if key not in inner}
    norms = [m for n, m in model.named_modules() if re.search(r"embeddings\.LayerNorm$|embeddings_layernorm$", n)]
    assert found["embedding_params"] == sum(p.numel() for p in tables.values()) + sum(
        p.numel() for norm in norms for p in norm.parameters()
    )
    places = ("embedding_params", "lm_head_params", "norm_params", "other_params")
    assert total == inside + sum(found[place] for place in places)


def test_every_block_part_by_part(saved: tuple[str, Any, dict[str, Any]]) -> None:
    family, model, found = saved
    for (prefix, block), layer in zip(blocks(model), found["layers"], strict=True):
        expected = expected_slots(family, block, prefix)
        assert found_slots(layer) == expected, prefix
        assert layer["total"] == sum(expected.values())
        attention = {id(p) for n, m in block.named_modules() if n.endswith(ATTENTION) for p in m.parameters()}
        norms = in_norms(block)
        cross = layer.get("cross_attention", {}).get("total", 0)
        assert layer["attention"]["total"] + cross == sum(
            p.numel() for p in block.parameters() if id(p) in attention and id(p) not in norms
        )
        biases = sum(p.numel() for n, p in block.named_parameters() if n.endswith("bias") and id(p) not in norms)
        assert layer["attention"]["bias"] + layer["mlp"]["bias"] == biases
        assert layer["is_zero_layer"] is False


ATTENTION = ("self_attn", "attn", "attention", "self_attention", "SelfAttention", "EncDecAttention")


def test_heads_types_and_checks(saved: tuple[str, Any, dict[str, Any]]) -> None:
    family, model, found = saved
    assert {(x["attention"]["num_heads"], x["attention"]["num_kv_heads"]) for x in found["layers"]} == {
        FAMILIES[family][4]
    }
    names = {type(m).__name__ for _, block in blocks(model) for m in block.modules()}
    assert {layer["attention"]["type"] for layer in found["layers"]} <= names
    assert {layer["mlp"]["type"] for layer in found["layers"]} - {None} <= names
    if family not in {"opt", "bert"}:
        assert None not in {layer["mlp"]["type"] for layer in found["layers"]}
    assert [row for row in found["config"] if not row["agrees"]] == []
    checked = {row["what"] for row in found["config"]}
    assert {"hidden_size", "vocabulary", "heads", "kv_heads"} <= checked
    assert {"layers"} <= checked or {"encoder layers", "decoder layers"} <= checked
    assert found["varying"] == {}
    assert [note for note in found["notes"] if "says" in note] == []


def test_nothing_is_unassigned_without_being_listed(saved: tuple[str, Any, dict[str, Any]]) -> None:
    family, _, found = saved
    assert [row["pattern"] for row in found["other"]] == LISTED_AS_OTHER.get(family, [])
    assert found["other_params"] == (2 * 16 * 32 if family == "opt" else 0)  # OPT's project_in and project_out


def test_experts_and_active_parameters(saved: tuple[str, Any, dict[str, Any]]) -> None:
    _, model, found = saved
    count = next(
        (getattr(model.config, key) for key in ("num_local_experts", "num_experts", "n_routed_experts")
         if getattr(model.config, key, None)), None,
    )  # fmt: skip
    mixtures = [layer["mlp"]["experts"] for layer in found["layers"] if "experts" in layer["mlp"]]
    if count is None:
        assert mixtures == []
        assert found["active_params"] == found["total_params"]
        return
    routed = [p for n, p in model.named_parameters() if ".experts." in n]
    assert {each["count"] for each in mixtures} == {count}
    assert sum(each["total"] for each in mixtures) == sum(p.numel() for p in routed)
    assert {each["per_expert"] * count for each in mixtures} == {each["total"] for each in mixtures}
    used = model.config.num_experts_per_tok
    away = sum(p.numel() // count * (count - used) for p in routed)
    assert found["active_params"] == found["total_params"] - away
    width = getattr(model.config, "moe_intermediate_size", None) or model.config.intermediate_size
    assert {each["intermediate_size"] for each in mixtures} == {width}


def test_buffers_are_no_parameters(saved: tuple[str, Any, dict[str, Any]], tmp_path: Path) -> None:
    _, model, found = saved
    stored = model.state_dict().keys()
    buffers = [b for n, b in model.named_buffers() if n in stored]
    assert found["buffers"] == sum(b.numel() for b in buffers)
    assert found["trainable_params"] == found["total_params"]


def configurations() -> Iterator[tuple[str, Any]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for model_type in CONFIG_MAPPING:
        family = MODEL_TYPES.get(model_type)
        if family in TIED_BY_DEFAULT:
            yield model_type, CONFIG_MAPPING[model_type]


def test_the_table_of_ties_is_that_of_the_library() -> None:
    differing, seen = {}, set()
    for model_type, config_class in configurations():
        family = MODEL_TYPES[model_type]
        config = config_class().to_dict()
        text = config.get("text_config") or {}
        ties = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
        if ties is None:
            ties = getattr(config_class(), "tie_word_embeddings", None)
        seen.add(family)
        if ties is not None and ties != _TIED_BY_TYPE.get(model_type, TIED_BY_DEFAULT[family]):
            differing[model_type] = ties
    assert len(seen) > 30
    assert differing == {}


def test_real_configs_build_what_the_headers_say(realweights: Path, tmp_path: Path) -> None:
    """Real config.json files, made narrow, built by transformers, saved, and counted."""
    done = []
    for path in sorted((realweights / "json").glob("*__config.json")):
        said = json.loads(path.read_text())
        small = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 96, "num_hidden_layers": 2}
        if said.get("model_type") not in {"llama", "mistral", "qwen2", "qwen3", "gemma", "mixtral", "gpt_neox"}:
            continue
        heads = said["num_attention_heads"]
        ratio = max(1, heads // said.get("num_key_value_heads", heads))
        small |= {"num_attention_heads": 4, "num_key_value_heads": max(1, 4 // ratio), "head_dim": 8}
        dropped = {"quantization_config", "torch_dtype", "dtype", "pad_token_id", "bos_token_id", "eos_token_id"}
        values = {k: v for k, v in said.items() if k not in dropped and not isinstance(v, dict)} | small
        values["num_local_experts"] = min(4, said.get("num_local_experts", 4))
        config = transformers.AutoConfig.for_model(**values)
        model = transformers.AutoModelForCausalLM.from_config(config)
        folder = tmp_path / path.stem[:60]
        model.save_pretrained(folder)
        found = structure(folder).structure
        assert found["total_params"] == sum(p.numel() for p in model.parameters()), path.name
        assert [layer["total"] for layer in found["layers"]] == [
            sum(p.numel() for p in block.parameters()) for _, block in blocks(model)
        ]
        assert found["other"] == []
        done.append(said["model_type"])
    assert len(set(done)) >= 4
