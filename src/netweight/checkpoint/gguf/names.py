"""What the tensors of GGUF are called on the hub, and how they are laid out there: one row for each architecture.

A row says, for `general.architecture`, the names of blocks (`#` is their number) and of what lies outside them. A name
begins with how the tensor is laid out there, where that is not as GGUF has it (see the functions of `hub.py`):
`rotated:` rows of each head in two halves, `turned:` transposed, `grouped:` q, k and v of each group of heads together,
`less one:` norms without the one that GGUF has added, `each:` experts one by one, in the place of `*`, `log of minus:`
and `column:` an axis of one element more. After `=` the whole name follows; else `.weight` or `.bias` is kept.

Source: conversion/ and gguf-py/gguf/tensor_mapping.py of llama.cpp; the tests hold every row against what its converter
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ARCHITECTURES", "DERIVED", "Dialect"]

DERIVED = {
    "rope_freqs.weight": "rotary frequencies, which follow from config",
    "rope_factors_long.weight": "factors of rotary frequencies, which config has",
    "rope_factors_short.weight": "factors of rotary frequencies, which config has",
}
"""Tensors that are no weights of the model on the hub."""


@dataclass(frozen=True)
class Dialect:
    """`model_type` as config.json has it; `top` names outside of blocks; `blocks` by the prefix of their numbers.
    `beside`: where the second of these is in a block, the first has the third's name.
    """

    model_type: str
    top: Mapping[str, str]
    blocks: Mapping[str, Mapping[str, str]]
    beside: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=lambda: {"blk": "model.layers.#."})


_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_PLAIN = {**_ATTENTION, **_MLP, "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_ROTATED = {**_PLAIN, "attn_q": "rotated:self_attn.q_proj", "attn_k": "rotated:self_attn.k_proj"}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "each:mlp.experts.*.gate_proj",
    "ffn_up_exps": "each:mlp.experts.*.up_proj", "ffn_down_exps": "each:mlp.experts.*.down_proj",
}  # fmt: skip
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate", "ffn_gate_exps": "each:block_sparse_moe.experts.*.w1",
    "ffn_up_exps": "each:block_sparse_moe.experts.*.w3", "ffn_down_exps": "each:block_sparse_moe.experts.*.w2",
}  # fmt: skip
_SHARED = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj", "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
_AFTER = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA = {
    **_PLAIN, "attn_norm": "less one:input_layernorm", "ffn_norm": "less one:post_attention_layernorm",
}  # fmt: skip
_GEMMA2 = {
    **_GEMMA, "ffn_norm": "less one:pre_feedforward_layernorm",
    "post_attention_norm": "less one:post_attention_layernorm",
    "post_ffw_norm": "less one:post_feedforward_layernorm",
    "attn_q_norm": "less one:self_attn.q_norm", "attn_k_norm": "less one:self_attn.k_norm",
}  # fmt: skip
_GEMMA_TOP = {**_TOP, "output_norm": "less one:model.norm"}
_GPT2_TOP = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
_GPT2 = {
    "attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
_BLOOM = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_qkv": "grouped:self_attention.query_key_value", "attn_output": "self_attention.dense",
    "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}  # fmt: skip
_BLOOM_TOP = {
    "token_embd": "transformer.word_embeddings", "token_embd_norm": "transformer.word_embeddings_layernorm",
    "output_norm": "transformer.ln_f", "output": "lm_head",
}  # fmt: skip
_NEOX = {
    **_BLOOM, "attn_qkv": "grouped:attention.query_key_value", "attn_output": "attention.dense",
}  # fmt: skip
_NEOX_TOP = {
    "token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out",
}  # fmt: skip
_MPT = {
    "attn_norm": "norm_1", "ffn_norm": "norm_2", "attn_qkv": "attn.Wqkv", "attn_output": "attn.out_proj",
    "ffn_up": "ffn.up_proj", "ffn_down": "ffn.down_proj", "attn_q_norm": "attn.q_ln", "attn_k_norm": "attn.k_ln",
}  # fmt: skip
_MPT_TOP = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.norm_f",
    "output": "lm_head",
}  # fmt: skip
_MAMBA = {
    "ssm_a": "log of minus:=mixer.A_log", "ssm_d": "=mixer.D", "ssm_conv1d.weight": "column:=mixer.conv1d.weight",
    "ssm_conv1d": "mixer.conv1d", "ssm_dt": "mixer.dt_proj", "ssm_in": "mixer.in_proj", "ssm_out": "mixer.out_proj",
    "ssm_x": "mixer.x_proj", "attn_norm": "norm",
}  # fmt: skip
_MAMBA_TOP = {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head"}
_BERT = {
    "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
}  # fmt: skip
_BERT_TOP = {
    "token_embd": "embeddings.word_embeddings", "token_embd_norm": "embeddings.LayerNorm",
    "position_embd": "embeddings.position_embeddings", "token_types": "embeddings.token_type_embeddings",
}  # fmt: skip
_T5_TOP = {
    "token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm", "output": "lm_head",
    "dec.output_norm": "decoder.final_layer_norm",
}  # fmt: skip
_OSS = {
    **_PLAIN, "post_attention_norm": "post_attention_layernorm", "attn_sinks.weight": "=self_attn.sinks",
    "ffn_gate_inp": "mlp.router",
}  # fmt: skip
_SHARED_EXPERTS = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj", "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj", "exp_probs_b.bias": "=mlp.gate.e_score_correction_bias",
}  # fmt: skip
_LFM = {
    **_ATTENTION, "attn_norm": "operator_norm", "ffn_norm": "ffn_norm", "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm", "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3", "ffn_down": "feed_forward.w2", "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj", "shortconv.conv.weight": "column:=conv.conv.weight",
}  # fmt: skip
_DEEPSEEK = {
    **_PLAIN, **_EXPERTS, **_SHARED_EXPERTS, "attn_q_a": "self_attn.q_a_proj", "attn_q_b": "self_attn.q_b_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm", "attn_kv_b": "self_attn.kv_b_proj",
}  # fmt: skip


def _t5(feed_forward: int, *, decoder: bool) -> dict[str, str]:
    """Names of a block of T5, whose feed forward is its layer of that number."""
    names = {f"attn_{leaf}": f"layer.0.SelfAttention.{leaf}" for leaf in "qkvo"}
    names |= {"attn_rel_b": "layer.0.SelfAttention.relative_attention_bias", "attn_norm": "layer.0.layer_norm"}
    if decoder:
        names |= {f"cross_attn_{leaf}": f"layer.1.EncDecAttention.{leaf}" for leaf in "qkvo"}
        names |= {"cross_attn_norm": "layer.1.layer_norm"}
    dense = f"layer.{feed_forward}.DenseReluDense"
    return names | {
        "ffn_gate": f"{dense}.wi_0",
        "ffn_up": f"{dense}.wi_1",
        "ffn_down": f"{dense}.wo",
        "ffn_norm": f"layer.{feed_forward}.layer_norm",
    }


def _dialect(
    model_type: str, block: Mapping[str, str], top: Mapping[str, str] = _TOP, layers: str = "model.layers.#."
) -> Dialect:
    return Dialect(model_type, top, {"blk": block}, layers={"blk": layers})


ARCHITECTURES: dict[str, Dialect] = {
    "llama": _dialect("llama", {**_ROTATED, **_MIXTRAL}),
    "qwen2": _dialect("qwen2", _PLAIN),
    "qwen2moe": _dialect("qwen2_moe", {**_PLAIN, **_EXPERTS, **_SHARED}),
    "qwen3": _dialect("qwen3", _PLAIN),
    "qwen3moe": _dialect("qwen3_moe", {**_PLAIN, **_EXPERTS}),
    "gemma": _dialect("gemma", _GEMMA, _GEMMA_TOP),
    "gemma2": _dialect("gemma2", _GEMMA2, _GEMMA_TOP),
    "gemma3": _dialect("gemma3_text", _GEMMA2, _GEMMA_TOP),
    "phi2": _dialect(
        "phi",
        {**_PLAIN, "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
        {**_TOP, "output_norm": "model.final_layernorm"},
    ),
    "phi3": _dialect("phi3", {**_PLAIN, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "gpt2": _dialect(
        "gpt2",
        {key: f"turned:{name}" if "." in name else name for key, name in _GPT2.items()},
        _GPT2_TOP,
        "transformer.h.#.",
    ),
    "starcoder": _dialect("gpt_bigcode", _GPT2, _GPT2_TOP, "transformer.h.#."),
    "starcoder2": _dialect("starcoder2", {**_PLAIN, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}),
    "gptneox": _dialect("gpt_neox", _NEOX, _NEOX_TOP, "gpt_neox.layers.#."),
    "falcon": Dialect(
        "falcon",
        _BLOOM_TOP,
        {"blk": {**_BLOOM, "attn_norm_2": "ln_attn"}},
        {"attn_norm": ("attn_norm_2.weight", "ln_mlp")},
        {"blk": "transformer.h.#."},
    ),
    "bloom": _dialect("bloom", _BLOOM, _BLOOM_TOP, "transformer.h.#."),
    "mpt": _dialect("mpt", _MPT, _MPT_TOP, "transformer.blocks.#."),
    "mamba": _dialect("mamba", _MAMBA, _MAMBA_TOP, "backbone.layers.#."),
    "glm4moe": _dialect(
        "glm4_moe",
        {**_PLAIN, **_EXPERTS, **_SHARED_EXPERTS, "post_attention_norm": "post_attention_layernorm"},
    ),
    "ernie4_5": _dialect("ernie4_5", _PLAIN),
    "hunyuan-dense": _dialect(
        "hunyuan_v1_dense",
        {**_PLAIN, "attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
    ),
    "lfm2": _dialect("lfm2", _LFM, {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm"}),
    "arcee": _dialect("arcee", _ROTATED),
    "olmo": _dialect("olmo", _ROTATED),
    "olmo2": _dialect("olmo2", {**_ATTENTION, **_MLP, **_AFTER}),
    "olmoe": _dialect("olmoe", {**_PLAIN, **_EXPERTS}),
    "granite": _dialect("granite", _ROTATED),
    "granitemoe": _dialect("granitemoe", {**_ROTATED, "ffn_gate_inp": "block_sparse_moe.router.layer"}),
    "command-r": _dialect("cohere", _PLAIN),
    "stablelm": _dialect("stablelm", _PLAIN),
    "nemotron": _dialect(
        "nemotron",
        {**_PLAIN, "attn_norm.weight": _GEMMA["attn_norm"], "ffn_norm.weight": _GEMMA["ffn_norm"]},
        {**_TOP, "output_norm.weight": _GEMMA_TOP["output_norm"]},
    ),
    "gpt-oss": _dialect("gpt_oss", _OSS),
    "deepseek2": _dialect("deepseek_v2", _DEEPSEEK),
    "glm4": _dialect(
        "glm4",
        {**_PLAIN, "ffn_up": "mlp.gate_up_proj", "post_attention_norm": "post_self_attn_layernorm",
         "post_ffw_norm": "post_mlp_layernorm"},
    ),
    "smollm3": _dialect("smollm3", _ROTATED),
    "exaone4": _dialect("exaone4", {**_ATTENTION, **_MLP, **_AFTER}),
    "seed_oss": _dialect("seed_oss", {**_PLAIN, "post_attention_norm": "post_attention_layernorm"}),
    "bert": _dialect("bert", _BERT, _BERT_TOP, "encoder.layer.#."),
    "t5": Dialect(
        "t5",
        _T5_TOP,
        {"enc.blk": _t5(1, decoder=False), "dec.blk": _t5(2, decoder=True)},
        layers={"enc.blk": "encoder.block.#.", "dec.blk": "decoder.block.#."},
    ),
}  # fmt: skip
"""By `general.architecture`."""
