"""Model families as data: what config.json calls them, and the names that give them away where there is no config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

__all__ = ["MODEL_TYPES", "SIGNATURES", "family"]

MODEL_TYPES: dict[str, str] = {
    model_type: name
    for name, model_types in {
        "llama": "llama llama2 llama3 mllama_text_model",
        "llama4": "llama4 llama4_text",
        "mistral": "mistral mistral3 ministral pixtral",
        "mixtral": "mixtral",
        "qwen": "qwen",
        "qwen2": "qwen2 qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen2_audio",
        "qwen2-moe": "qwen2_moe",
        "qwen3": "qwen3 qwen3_vl qwen3_vl_text",
        "qwen3-moe": "qwen3_moe qwen3_vl_moe qwen3_vl_moe_text",
        "qwen3-next": "qwen3_next",
        "qwen3.5": "qwen3_5 qwen3_5_text",
        "qwen3.5-moe": "qwen3_5_moe qwen3_5_moe_text",
        "gemma": "gemma",
        "gemma2": "gemma2",
        "gemma3": "gemma3 gemma3_text",
        "gemma3n": "gemma3n gemma3n_text",
        "gemma4": "gemma4 gemma4_text",
        "phi": "phi phi-msft mixformer-sequential",
        "phi3": "phi3 phi3_v phi4 phi4mm",
        "phimoe": "phimoe",
        "gpt2": "gpt2 openai-gpt",
        "gpt-bigcode": "gpt_bigcode",
        "gpt-j": "gptj codegen",
        "gpt-neo": "gpt_neo",
        "gpt-neox": "gpt_neox gpt_neox_japanese gpt_neox_reward_model",
        "gpt-oss": "gpt_oss",
        "opt": "opt",
        "bloom": "bloom",
        "falcon": "falcon refinedweb refinedwebmodel",
        "mpt": "mpt",
        "dbrx": "dbrx",
        "bert": "bert",
        "roberta": "roberta xlm-roberta camembert",
        "distilbert": "distilbert",
        "t5": "t5 mt5 umt5 longt5",
        "bart": "bart mbart marian pegasus",
        "whisper": "whisper",
        "deepseek-v2": "deepseek_v2",
        "deepseek-v3": "deepseek_v3 kimi_k2",
        "granite": "granite",
        "granite-moe": "granitemoe granitemoeshared granitemoehybrid",
        "olmo": "olmo hf_olmo",
        "olmo2": "olmo2 olmo3",
        "olmoe": "olmoe",
        "molmo": "molmo",
        "stablelm": "stablelm stablelm_epoch",
        "internlm": "internlm",
        "internlm2": "internlm2",
        "baichuan": "baichuan",
        "chatglm": "chatglm",
        "glm4": "glm glm4 glm4_moe",
        "cohere": "cohere cohere2",
        "rwkv": "rwkv rwkv5 rwkv6 rwkv7",
        "mamba": "mamba mamba2 falcon_mamba",
        "jamba": "jamba",
        "vit": "vit",
        "clip": "clip clip_vision_model siglip siglip_vision_model",
    }.items()
    for model_type in model_types.split()
}
"""config.json's `model_type`, in lower case, to the family."""

SIGNATURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # the family, and what must all be found in its names (numbers written #); the first row that fits names it
    ("lora", (".lora_a.",)),
    ("molmo", ("transformer.blocks.#.att_proj.", "vision_backbone.")),
    ("olmo", ("transformer.blocks.#.att_proj.",)),
    ("chatglm", ("encoder.layers.#.self_attention.query_key_value", "output_layer.")),
    ("megatron", ("encoder.layers.#.", "self_attention.query_key_value")),
    ("megatron", (".self_attention.linear_qkv.", ".mlp.linear_fc1.")),
    ("gpt-neox", ("embed_in.", "layers.#.attention.query_key_value.")),
    ("dbrx", ("norm_attn_norm.",)),
    ("mpt", ("blocks.#.attn.wqkv.", "ffn.up_proj.")),
    ("bloom", ("h.#.self_attention.query_key_value.", "word_embeddings_layernorm.")),
    ("falcon", ("h.#.self_attention.query_key_value.",)),
    ("phi", ("layers.#.self_attn.dense.", ".mlp.fc1.")),
    ("phi", (".mixer.wqkv.",)),
    ("gpt-j", ("h.#.attn.q_proj.", "h.#.mlp.fc_in.")),
    ("gpt-neo", ("h.#.attn.attention.q_proj.",)),
    ("qwen", ("h.#.attn.c_attn.", "h.#.mlp.w1.")),
    ("gpt2", ("h.#.attn.c_attn.", "h.#.mlp.c_fc.")),
    ("opt", ("decoder.layers.#.fc1.", "decoder.embed_positions.", "decoder.layers.#.self_attn.q_proj.")),
    ("distilbert", ("transformer.layer.#.attention.q_lin.",)),
    ("roberta", ("roberta.encoder.layer.#.attention.self.query.",)),
    ("vit", ("encoder.layer.#.attention.attention.query.",)),
    ("bert", ("encoder.layer.#.attention.self.query.",)),
    ("t5", ("encoder.block.#.layer.#.", "selfattention.q.")),
    ("gpt-oss", (".mlp.experts.gate_up_proj", ".self_attn.sinks")),
    ("qwen3.5-moe", (".linear_attn.in_proj_qkv.", ".mlp.experts.")),
    ("qwen3-next", (".linear_attn.in_proj_qkvz.",)),
    ("qwen3.5", (".linear_attn.in_proj_qkv.",)),
    ("deepseek-v3", (".kv_a_proj_with_mqa.", ".mlp.gate.e_score_correction_bias")),
    ("deepseek-v2", (".kv_a_proj_with_mqa.",)),
    ("granite-moe", (".block_sparse_moe.input_linear.", ".block_sparse_moe.router.")),
    ("mixtral", (".block_sparse_moe.experts.#.w1.",)),
    ("qwen2-moe", (".mlp.shared_expert_gate.", ".mlp.experts.")),
    ("qwen3-moe", (".mlp.experts.", ".self_attn.q_norm.")),
    ("internlm2", (".attention.wqkv.", ".feed_forward.w1.")),
    ("llama2.c", ("tok_embeddings.", "layers.#.attention.wq.", "layers.#.feed_forward.w3.")),
    ("baichuan", (".self_attn.w_pack.",)),
    ("phi3", (".self_attn.qkv_proj.", ".mlp.gate_up_proj.")),
    ("gemma3", (".pre_feedforward_layernorm.", ".self_attn.q_norm.")),
    ("gemma2", (".pre_feedforward_layernorm.",)),
    ("qwen3", (".self_attn.q_norm.", ".mlp.gate_proj.")),
    ("qwen2", (".self_attn.q_proj.bias", ".mlp.gate_proj.")),
    ("stablelm", (".self_attn.q_proj.", ".mlp.gate_proj.", ".input_layernorm.bias")),
    ("llama", (".self_attn.q_proj.", ".mlp.gate_proj.", ".input_layernorm.weight")),
    ("llama", (".self_attn.q_proj.", ".mlp.gate_proj.", ".attn_shortcut_q")),  # SliceGPT: its norms have no weights
    ("rwkv", ("blocks.#.att.receptance.", "blocks.#.ffn.key.")),
    ("mamba", ("layers.#.mixer.in_proj.", "layers.#.mixer.a_log")),
    ("clip", ("resblocks.#.attn.in_proj_weight",)),
)
"""Mistral, Gemma 1 and other copies of Llama's names cannot be told from it by name and are called "llama" without a
config.
"""

_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
_CONFIG_WORD = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_NAMES_READ = 20_000
_LONGEST_NAME = 512


def family(names: Iterable[str], config: Mapping[str, Any] | None = None) -> str:
    """The family of a checkpoint: by config's `model_type` (also a `text_config`'s), then by names, else "unknown".

    A `model_type` that no table lists is returned as it is written. A config of any other shape is passed over.
    """
    for level in (config, config.get("text_config") if isinstance(config, Mapping) else None):
        model_type = level.get("model_type") if isinstance(level, Mapping) else None
        if isinstance(model_type, str) and _CONFIG_WORD.fullmatch(model_type.lower()):
            return MODEL_TYPES.get(model_type.lower(), model_type)
    seen = {_NUMBER.sub("#", name).lower() for name in islice(names, _NAMES_READ) if len(name) <= _LONGEST_NAME}
    text = "\n".join(seen)
    for name, fragments in SIGNATURES:
        if all(fragment in text for fragment in fragments):
            return name
    return "unknown"
