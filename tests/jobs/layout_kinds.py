"""Tiny models of many families, and the layouts that people hold of them.

A layout is restated here from the model's own state dict by torch alone. Sources: `conversion_mapping.py` of
transformers 5.24 for what it reads and writes, the modelling files of transformers 4.51 for the older names,
compressed-tensors for Llama 4's experts one by one, and Unsloth for gpt-oss' experts as linear layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

State = dict[str, torch.Tensor]
"""{name: tensor}."""

# q is wider than k and v; hidden, intermediate, and twice the intermediate size all differ, so that a transpose shows
HIDDEN, INNER, EXPERT, EXPERTS, VOCAB = 32, 48, 20, 3, 40
TEXT = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MIXED = {"num_experts_per_tok": 1}
PLAIN_ROPE = {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
PATCHES = {"num_heads": 2, "patch_size": 4, "in_channels": 3, "depth": 1}
TOWER = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
LLAMA4_TOWER = {**TOWER, "intermediate_size": 96} | dict.fromkeys(
    ("vision_output_dim", "projector_input_dim", "projector_output_dim"), 28
)
BERT = {name: TEXT[name] for name in TEXT if name.startswith(("vocab", "hidden", "inter", "num_hidden", "num_att"))}


def _model(name: str, config: str, **fields: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**fields))


def _text(**more: Any) -> dict[str, Any]:
    return {**TEXT, **more}


@dataclass(frozen=True)
class Layout:
    """`names` restates a state dict; `saved`: the `save_original_format` by which transformers writes this layout;
    `reader`: the class that reads it, None where transformers has none; `config` changes config.json.
    """

    names: Callable[[State], State]
    saved: bool | None = None
    reader: str | None = "own"
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Kind:
    """How to make a model, and its layouts."""

    make: Callable[[], Any]
    layouts: Mapping[str, Layout]
    dtype: torch.dtype = torch.float32


# Layouts, from names to names


def same(state: State) -> State:
    return dict(state)


def renamed(*rules: tuple[str, str], then: Callable[[State], State] = same) -> Callable[[State], State]:
    """Every rule (a pattern, what stands for it) once, in order, after `then`."""

    def names(state: State) -> State:
        made = {}
        for name, tensor in then(state).items():
            for pattern, to in rules:
                name = re.sub(pattern, to, name)  # noqa: PLW2901 - rules follow one another
            made[name] = tensor
        return made

    return names


def without(*names: str, then: Callable[[State], State] = same) -> Callable[[State], State]:
    """All but these names, which are tied to others."""
    return lambda state: {name: tensor for name, tensor in then(state).items() if name not in names}


def one_by_one(
    words: Sequence[str] = ("gate_proj", "up_proj", "down_proj"), *, transposed: bool = False
) -> Callable[[State], State]:
    """Experts [E, 2I, H] and [E, H, I] (`transposed`: [E, H, 2I] and [E, I, H]) as E matrices each, [out, in]."""
    gate, up, down = words

    def names(state: State) -> State:
        made = {}
        for name, tensor in state.items():
            head, _, last = name.rpartition(".")
            if not head.endswith(".experts"):
                made[name] = tensor
                continue
            for number, matrix in enumerate(tensor.mT if transposed else tensor):
                place = f"{head}.{number}"
                if last == "gate_up_proj":
                    half = len(matrix) // 2
                    made |= {f"{place}.{gate}.weight": matrix[:half], f"{place}.{up}.weight": matrix[half:]}
                else:
                    made[f"{place}.{down}.weight"] = matrix
        return made

    return names


def experts_turned(state: State) -> State:
    """Packed experts with their last two axes exchanged."""
    return {name: tensor.mT if ".experts." in name else tensor for name, tensor in state.items()}


def experts_as_linears(state: State) -> State:
    """gpt-oss: [E, H, 2I] as E linear layers of [2I, H], whose rows are gate and up in turn as the columns were."""
    made = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.experts\.(?:gate_up|down)_proj)(_bias)?", name)
        if match is None:
            made[name] = tensor
            continue
        for number, part in enumerate(tensor):
            made[f"{match[1]}s.{number}.{'bias' if match[2] else 'weight'}"] = part if match[2] else part.T
    return made


def projections_apart(state: State) -> State:
    """Phi-3's fused projections as those of a Llama."""
    made = {}
    heads, groups = TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
    for name, tensor in state.items():
        if name.endswith(".qkv_proj.weight"):
            size = HIDDEN // heads
            parts = tensor.split([heads * size, groups * size, groups * size])
            made |= {name.replace("qkv_proj", f"{p}_proj"): part for p, part in zip("qkv", parts, strict=True)}
        elif name.endswith(".gate_up_proj.weight"):
            parts = tensor.split(INNER)
            made |= {name.replace("gate_up_proj", f"{p}_proj"): x for p, x in zip(("gate", "up"), parts, strict=True)}
        else:
            made[name] = tensor
    return made


OLD_TEXT = (r"^model\.language_model\.", "language_model.model."), (r"^lm_head\.", "language_model.lm_head.")
OLD_VISION = (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1.")
INNER_VISION = (r"vision_tower\.", "vision_tower.vision_model.")
QWEN_VL = (r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model.")
SPARSE = (r"\.mlp\.(gate|experts)\.", r".block_sparse_moe.\1.")
PHIMOE = (r"\.mlp\.router\.", ".block_sparse_moe.gate."), (r"\.mlp\.experts\.", ".block_sparse_moe.experts.")
GRANITE = (
    (r"\.experts\.gate_up_proj$", ".input_linear.weight"),
    (r"\.experts\.down_proj$", ".output_linear.weight"),
    (r"\.router\.weight$", ".router.layer.weight"),
)
GAMMA = (r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")
WEIGHT_NORM = (
    (r"parametrizations\.weight\.original0$", "weight_g"),
    (r"parametrizations\.weight\.original1$", "weight_v"),
)
MASKED_HEAD = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def vision_text(*tied: str) -> dict[str, Layout]:
    """LLaVA and its kin: before transformers 4.52, in memory from there on, and as 5.24 writes them."""
    kept = without(*tied)
    return {
        "4.51": Layout(renamed(*OLD_TEXT, OLD_VISION, INNER_VISION, then=kept)),
        "4.52 in memory": Layout(renamed(INNER_VISION, then=kept)),
        "5 original": Layout(renamed(*OLD_TEXT, OLD_VISION, then=kept), saved=True),
        "5": Layout(kept, saved=False),
    }


QWEN_VISION = {"4.51": Layout(renamed(*QWEN_VL), saved=True), "5": Layout(same, saved=False)}
EXPERT_LISTS = {"one by one": Layout(one_by_one(), saved=True), "packed": Layout(same, saved=False)}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}

KINDS: dict[str, Kind] = {
    "qwen2_vl": Kind(
        _model(
            "Qwen2VLForConditionalGeneration", "Qwen2VLConfig", tie_word_embeddings=False,
            text_config=_text(**MROPE), vision_config={**PATCHES, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 3},
        ),
        QWEN_VISION,
        torch.bfloat16,
    ),
    "qwen2_5_vl": Kind(
        _model(
            "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", tie_word_embeddings=False,
            text_config=_text(**MROPE),
            vision_config={
                **PATCHES, "hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32,
                "fullatt_block_indexes": [0],
            },
        ),
        QWEN_VISION,
    ),
    "gemma3": Kind(
        _model(
            "Gemma3ForConditionalGeneration", "Gemma3Config", tie_word_embeddings=False, mm_tokens_per_image=4,
            text_config=_text(head_dim=8), vision_config=TOWER,
        ),
        vision_text(),
        torch.bfloat16,
    ),
    "llava": Kind(
        _model(
            "LlavaForConditionalGeneration", "LlavaConfig", tie_word_embeddings=False,
            text_config=_text(model_type="llama"), vision_config={**TOWER, "model_type": "clip_vision_model"},
        ),
        vision_text(),
    ),
    "paligemma": Kind(  # its head is the embedding, and in no file
        _model(
            "PaliGemmaForConditionalGeneration", "PaliGemmaConfig", projection_dim=HIDDEN, hidden_size=HIDDEN,
            text_config=_text(model_type="gemma", head_dim=8, tie_word_embeddings=True),
            vision_config={**TOWER, "model_type": "siglip_vision_model"},
        ),
        vision_text("lm_head.weight"),
    ),
    "mixtral": Kind(
        _model("MixtralForCausalLM", "MixtralConfig", **_text(num_local_experts=EXPERTS, **MIXED)),
        {
            "one by one": Layout(renamed(SPARSE, then=one_by_one(("w1", "w3", "w2"))), saved=True),
            "packed": Layout(same, saved=False),
        },
        torch.bfloat16,
    ),
    "qwen3_moe": Kind(
        _model(
            "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
            **_text(num_experts=EXPERTS, moe_intermediate_size=EXPERT, head_dim=8, **MIXED),
        ),
        EXPERT_LISTS,
    ),
    "olmoe": Kind(
        _model("OlmoeForCausalLM", "OlmoeConfig", **_text(num_experts=EXPERTS, **MIXED)), EXPERT_LISTS, torch.bfloat16
    ),
    "gpt_oss": Kind(
        _model("GptOssForCausalLM", "GptOssConfig", **_text(num_local_experts=EXPERTS, **PLAIN_ROPE, **MIXED)),
        {
            "packed": Layout(same, saved=True),
            "linear layers": Layout(experts_as_linears, reader=None),
            "linear layers, router too": Layout(
                renamed((r"\.router\.", ".router.linear."), then=experts_as_linears), reader=None
            ),
        },
    ),
    "llama4": Kind(
        _model(
            "Llama4ForConditionalGeneration", "Llama4Config", vision_config=LLAMA4_TOWER,
            text_config=_text(
                intermediate_size=EXPERT, intermediate_size_mlp=INNER, num_local_experts=EXPERTS, head_dim=8,
                interleave_moe_layer_step=1, **MIXED,
            ),
        ),
        {"packed": Layout(same, saved=True), "one by one": Layout(one_by_one(transposed=True), reader=None)},
    ),
    "deepseek_v3": Kind(
        _model(
            "DeepseekV3ForCausalLM", "DeepseekV3Config",
            **_text(
                moe_intermediate_size=EXPERT, n_routed_experts=4, n_group=2, topk_group=1, n_shared_experts=1,
                first_k_dense_replace=1, q_lora_rank=12, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8,
                v_head_dim=8, **{**MIXED, "num_key_value_heads": 4},
            ),
        ),
        EXPERT_LISTS,
    ),
    "phimoe": Kind(
        _model("PhimoeForCausalLM", "PhimoeConfig", **_text(num_local_experts=EXPERTS, **MIXED)),
        {
            "one by one": Layout(renamed(*PHIMOE, then=one_by_one(("w1", "w3", "w2"))), saved=True),
            "packed": Layout(same, saved=False),
        },
        torch.bfloat16,
    ),
    "jamba": Kind(
        _model(
            "JambaForCausalLM", "JambaConfig",
            **_text(
                num_experts=EXPERTS, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
                expert_layer_offset=1, mamba_d_state=4, mamba_d_conv=3, **MIXED,
            ),
        ),
        EXPERT_LISTS,
    ),
    "granitemoe": Kind(
        _model("GraniteMoeForCausalLM", "GraniteMoeConfig", **_text(num_local_experts=EXPERTS, **MIXED)),
        {"4.51": Layout(renamed(*GRANITE), saved=True), "5": Layout(same, saved=False)},
    ),
    "qwen3_vl_moe": Kind(
        _model(
            "Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeConfig", tie_word_embeddings=False,
            text_config=_text(num_experts=EXPERTS, moe_intermediate_size=EXPERT, head_dim=8, **MIXED, **MROPE),
            vision_config={
                **PATCHES, "hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32,
                "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
            },
        ),
        {
            "published": Layout(experts_turned),
            "5": Layout(same, saved=False),
            "one by one": Layout(one_by_one(), reader=None),
        },
    ),
    "bert": Kind(
        _model("BertModel", "BertConfig", **BERT, max_position_embeddings=64),
        {
            "published": Layout(renamed(*GAMMA, (r"^", "bert."))),
            "gamma, no prefix": Layout(renamed(*GAMMA)),
            "prefix": Layout(renamed((r"^", "bert."))),
            "5": Layout(same, saved=False),
        },
    ),
    "bert with head": Kind(
        _model("BertForMaskedLM", "BertConfig", **BERT, max_position_embeddings=64),
        {
            "published": Layout(renamed(*GAMMA, then=without(*MASKED_HEAD))),
            "5": Layout(without(*MASKED_HEAD), saved=False),
        },
        torch.bfloat16,
    ),
    "wav2vec2": Kind(
        _model(
            "Wav2Vec2ForCTC", "Wav2Vec2Config", **{**BERT, "vocab_size": 20}, conv_dim=(8, 8), conv_stride=(2, 2),
            conv_kernel=(3, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
        ),
        {"weight_g": Layout(renamed(*WEIGHT_NORM)), "5": Layout(same, saved=False)},
    ),
    "phi3": Kind(
        _model("Phi3ForCausalLM", "Phi3Config", **TEXT),
        {
            "fused": Layout(same, saved=False),
            "llamafied": Layout(projections_apart, reader="LlamaForCausalLM", config=LLAMA),
        },
        torch.bfloat16,
    ),
}  # fmt: skip
