"""config.json of a model, as far as the metadata of a GGUF file say what is in it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.gguf.names import ARCHITECTURES
from netweight.checkpoint.tensor import Tensor

__all__ = ["config_of", "lacking"]

_KEYS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon", "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base", "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length", "sliding_window": "attention.sliding_window",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    "first_k_dense_replace": "leading_dense_block_count", "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank", "v_head_dim": "attention.value_length_mla",
    "n_shared_experts": "expert_shared_count", "routed_scaling_factor": "expert_weights_scale",
    "embedding_multiplier": "embedding_scale", "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale", "logits_scaling": "logit_scale", "state_size": "ssm.state_size",
    "conv_kernel": "ssm.conv_kernel", "time_step_rank": "ssm.time_step_rank",
    "use_parallel_residual": "use_parallel_residual",
}  # fmt: skip
"""Keys of config.json, and of the metadata below the architecture's name."""

_GPT2 = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions", "intermediate_size": "n_inner", "layer_norm_eps": "layer_norm_epsilon",
}  # fmt: skip
_RENAMED: dict[str, dict[str, str]] = {
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "layer_norm_eps": "layer_norm_epsilon"},
    "mpt": {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len", "layer_norm_eps": "layer_norm_epsilon"},
    "falcon": {"num_key_value_heads": "num_kv_heads", "layer_norm_eps": "layer_norm_epsilon"},
    "t5": {"hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
           "intermediate_size": "d_ff", "head_dim": "d_kv", "rms_norm_eps": "layer_norm_epsilon"},
    "mixtral": {"num_experts": "num_local_experts"},
    "gpt_oss": {"num_experts": "num_local_experts"},
    "granitemoe": {"num_experts": "num_local_experts"},
    "deepseek_v2": {"num_experts": "n_routed_experts"},
    "deepseek_v3": {"num_experts": "n_routed_experts"},
    "glm4_moe": {"num_experts": "n_routed_experts"},
    "nemotron": {"layer_norm_eps": "norm_eps"},
    "starcoder2": {"layer_norm_eps": "norm_epsilon"},
    "mamba": {"rms_norm_eps": "layer_norm_epsilon"},
    "cohere": {"logits_scaling": "logit_scale"},
}  # fmt: skip
"""What keys are called for model types that call them otherwise."""

_WHOLE = {
    "llama": "LlamaForCausalLM", "mixtral": "MixtralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "gemma": "GemmaForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "granite": "GraniteForCausalLM", "smollm3": "SmolLM3ForCausalLM",
    "gpt2": "GPT2LMHeadModel", "starcoder2": "Starcoder2ForCausalLM",
}  # fmt: skip
"""Model types whose metadata say all that transformers needs, and the class that it loads them with."""


def config_of(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """What config.json of the model says, of what the file says; None for an architecture that is not known.

    `fields` are the file's metadata, `tensors` what it holds under the names of the file.
    """
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        return None
    model_type = ARCHITECTURES[architecture].model_type
    if model_type == "llama" and fields.get(f"{architecture}.expert_count"):
        model_type = "mixtral"
    if model_type == "deepseek_v2" and any(name.endswith(".exp_probs_b.bias") for name in tensors):
        model_type = "deepseek_v3"
    config: dict[str, Any] = {"model_type": model_type}
    if model_type in _WHOLE:
        config["architectures"] = [_WHOLE[model_type]]
    renamed = _RENAMED.get(model_type, {})
    for key, source in _KEYS.items():
        value = fields.get(f"{architecture}.{source}")
        if isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, (int, float)) and value:
            config[renamed.get(key, key)] = _short(value) if isinstance(value, float) else value
    further = fields.get(f"{architecture}.nextn_predict_layers")  # blocks that predict further tokens, counted too
    blocks = renamed.get("num_hidden_layers", "num_hidden_layers")
    if type(further) is int and 0 < further < config.get(blocks, 0):
        config |= {blocks: config[blocks] - further, "num_nextn_predict_layers": further}
    embedding = tensors.get("token_embd.weight")
    if embedding is not None and len(embedding.shape) == 2:
        config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in tensors
    for key, source in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = fields.get(f"tokenizer.ggml.{source}_token_id")
        config[f"{key}_token_id"] = token if type(token) is int else None
    config |= _by_tensors(model_type, tensors)
    return config


def lacking(fields: Mapping[str, Any], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Why `config`, made by `config_of`, is not enough to load the model with; nothing where it is."""
    model_type = config.get("model_type")
    if model_type not in _WHOLE:
        return f"the metadata of GGUF do not say all of config.json of {model_type}"
    if any(name.startswith(("rope_freqs", "rope_factors")) for name in tensors):
        return "its rotary frequencies are scaled by factors from which config.json's numbers do not follow"
    scaling = fields.get(f"{fields.get('general.architecture')}.rope.scaling.type", "none")
    if scaling != "none":
        return f"its rotary embedding is scaled ({scaling})"
    return ""


def _by_tensors(model_type: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the presence of tensors says."""
    found: dict[str, Any] = {}
    if model_type in {"llama", "granite"}:
        found["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if model_type == "llama":
        found["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    if model_type == "starcoder2":
        found["use_bias"] = "blk.0.ffn_up.bias" in tensors
    if model_type == "falcon":
        found["new_decoder_architecture"] = "blk.0.attn_norm_2.weight" in tensors
    if model_type == "qwen3_moe":
        found["norm_topk_prob"] = True  # llama.cpp runs it in no other way
    return found


def _short(value: float) -> float:
    """The shortest decimal number that the same float32 stands for, as which GGUF has it."""
    rounded = float(f"{value:.7g}")
    try:
        return rounded if struct.pack("<f", rounded) == struct.pack("<f", value) else value
    except OverflowError:
        return value
