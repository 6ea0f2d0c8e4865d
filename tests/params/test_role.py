from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slowness import slowness

from netweight.params import names as words
from netweight.params.role import ROLES, Parameter, classify, classify_all

# name -> role, slot, group, part, layer group, expert, kind
KNOWN = {
    # Llama, Mistral, Qwen 2 and 3, Gemma
    "model.embed_tokens.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "model.layers.31.self_attn.q_proj.weight": ("q_proj", "q_proj", "layer", "attn", "layer_31", None, "weight"),
    "model.layers.0.self_attn.k_proj.weight": ("k_proj", "k_proj", "layer", "attn", "layer_0", None, "weight"),
    "model.layers.0.self_attn.k_proj.bias": ("bias", "k_proj", "layer", "attn", "layer_0", None, "bias"),
    "model.layers.2.self_attn.q_norm.weight": ("norm", "norm", "layer", "norm", "layer_2", None, "weight"),
    "model.layers.2.mlp.gate_proj.weight": ("gate_proj", "gate_proj", "layer", "mlp", "layer_2", None, "weight"),
    "model.layers.2.post_feedforward_layernorm.weight": ("norm", "norm", "layer", "norm", "layer_2", None, "weight"),
    "model.layers.2.self_attn.rotary_emb.inv_freq": ("other", "", "layer", "attn", "layer_2", None, "buffer"),
    "model.norm.weight": ("norm", "norm", "other", "norm", None, None, "weight"),
    "lm_head.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    "lm_head.bias": ("bias", "lm_head", "lm_head", "", None, None, "bias"),
    "score.weight": ("output", "head", "lm_head", "", None, None, "weight"),
    # Phi-3, Phi
    "model.layers.3.self_attn.qkv_proj.weight": ("qkv", "qkv", "layer", "attn", "layer_3", None, "weight"),
    "model.layers.3.mlp.gate_up_proj.weight": ("gate_up", "gate_up", "layer", "mlp", "layer_3", None, "weight"),
    "model.layers.3.self_attn.dense.weight": ("o_proj", "o_proj", "layer", "attn", "layer_3", None, "weight"),
    "transformer.h.3.mixer.Wqkv.weight": ("qkv", "qkv", "layer", "attn", "layer_3", None, "weight"),
    # GPT-2, nanoGPT, GPT-J, GPT-Neo
    "h.0.attn.c_attn.weight": ("qkv", "qkv", "layer", "attn", "layer_0", None, "weight"),
    "h.0.attn.c_proj.weight": ("o_proj", "o_proj", "layer", "attn", "layer_0", None, "weight"),
    "h.0.mlp.c_proj.weight": ("down_proj", "down_proj", "layer", "mlp", "layer_0", None, "weight"),
    "transformer.h.11.mlp.c_fc.bias": ("bias", "up_proj", "layer", "mlp", "layer_11", None, "bias"),
    "transformer.h.1.ln_1.gamma": ("norm", "norm", "layer", "norm", "layer_1", None, "weight"),
    "transformer.wpe.weight": ("embedding", "position_embedding", "embed", "", None, None, "weight"),
    "wte.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "ln_f.bias": ("bias", "norm", "other", "norm", None, None, "bias"),
    "h.0.attn.masked_bias": ("other", "", "layer", "attn", "layer_0", None, "buffer"),
    "h.0.attn.bias": ("other", "", "layer", "attn", "layer_0", None, "buffer"),
    "transformer.h.5.mlp.fc_out.weight": ("down_proj", "down_proj", "layer", "mlp", "layer_5", None, "weight"),
    "transformer.h.5.attn.attention.v_proj.weight": ("v_proj", "v_proj", "layer", "attn", "layer_5", None, "weight"),
    # NeoX, Falcon, BLOOM, MPT, OPT
    "gpt_neox.embed_in.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "gpt_neox.layers.4.attention.query_key_value.weight": ("qkv", "qkv", "layer", "attn", "layer_4", None, "weight"),
    "gpt_neox.layers.4.attention.bias": ("other", "", "layer", "attn", "layer_4", None, "buffer"),
    "gpt_neox.layers.4.mlp.dense_4h_to_h.weight": ("down_proj", "down_proj", "layer", "mlp", "layer_4", None, "weight"),
    "embed_out.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    "transformer.h.7.self_attention.dense.weight": ("o_proj", "o_proj", "layer", "attn", "layer_7", None, "weight"),
    "word_embeddings_layernorm.weight": ("norm", "norm", "embed", "norm", None, None, "weight"),
    "transformer.blocks.2.ffn.up_proj.weight": ("up_proj", "up_proj", "layer", "mlp", "layer_2", None, "weight"),
    "transformer.blocks.2.attn.Wqkv.weight": ("qkv", "qkv", "layer", "attn", "layer_2", None, "weight"),
    "model.decoder.embed_positions.weight": ("embedding", "position_embedding", "embed", "", None, None, "weight"),
    "model.decoder.layers.9.fc2.weight": ("down_proj", "down_proj", "layer", "mlp", "decoder.layer_9", None, "weight"),
    "model.decoder.layers.9.self_attn_layer_norm.weight": (
        "norm",
        "norm",
        "layer",
        "norm",
        "decoder.layer_9",
        None,
        "weight",
    ),
    # BERT, RoBERTa, DistilBERT
    "bert.embeddings.LayerNorm.weight": ("norm", "norm", "embed", "norm", None, None, "weight"),
    "bert.embeddings.position_ids": ("other", "", "other", "", None, None, "buffer"),
    "bert.embeddings.token_type_embeddings.weight": ("embedding", "type_embedding", "embed", "", None, None, "weight"),
    "bert.encoder.layer.1.attention.self.query.weight": (
        "q_proj",
        "q_proj",
        "layer",
        "attn",
        "layer_1",
        None,
        "weight",
    ),
    "bert.encoder.layer.1.attention.output.dense.weight": (
        "o_proj",
        "o_proj",
        "layer",
        "attn",
        "layer_1",
        None,
        "weight",
    ),
    "bert.encoder.layer.1.intermediate.dense.weight": ("up_proj", "up_proj", "layer", "mlp", "layer_1", None, "weight"),
    "bert.encoder.layer.1.output.dense.weight": ("down_proj", "down_proj", "layer", "mlp", "layer_1", None, "weight"),
    "bert.encoder.layer.1.output.LayerNorm.bias": ("bias", "norm", "layer", "norm", "layer_1", None, "bias"),
    "bert.pooler.dense.weight": ("other", "", "other", "", None, None, "weight"),
    "cls.predictions.decoder.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    "cls.predictions.transform.dense.weight": ("output", "head", "lm_head", "", None, None, "weight"),
    "lm_head.layer_norm.weight": ("norm", "norm", "lm_head", "norm", None, None, "weight"),
    "classifier.out_proj.weight": ("output", "head", "lm_head", "", None, None, "weight"),
    "distilbert.transformer.layer.3.attention.out_lin.weight": (
        "o_proj",
        "o_proj",
        "layer",
        "attn",
        "layer_3",
        None,
        "weight",
    ),
    "distilbert.transformer.layer.3.ffn.lin1.weight": ("up_proj", "up_proj", "layer", "mlp", "layer_3", None, "weight"),
    "distilbert.transformer.layer.3.sa_layer_norm.weight": ("norm", "norm", "layer", "norm", "layer_3", None, "weight"),
    # T5
    "shared.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (
        "q_proj",
        "q_proj",
        "layer",
        "attn",
        "encoder.layer_0",
        None,
        "weight",
    ),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
        "embedding",
        "position_embedding",
        "layer",
        "attn",
        "encoder.layer_0",
        None,
        "weight",
    ),
    "decoder.block.3.layer.1.EncDecAttention.o.weight": (
        "o_proj",
        "o_proj",
        "layer",
        "attn",
        "decoder.layer_3",
        None,
        "weight",
    ),
    "decoder.block.3.layer.2.DenseReluDense.wi_0.weight": (
        "gate_proj",
        "gate_proj",
        "layer",
        "mlp",
        "decoder.layer_3",
        None,
        "weight",
    ),
    "decoder.block.3.layer.2.DenseReluDense.wo.weight": (
        "down_proj",
        "down_proj",
        "layer",
        "mlp",
        "decoder.layer_3",
        None,
        "weight",
    ),
    "decoder.final_layer_norm.weight": ("norm", "norm", "other", "norm", None, None, "weight"),
    # mixtures of experts
    "model.layers.1.block_sparse_moe.gate.weight": ("moe_gate", "moe_gate", "layer", "mlp", "layer_1", None, "weight"),
    "model.layers.1.block_sparse_moe.experts.7.w2.weight": (
        "moe_expert",
        "down_proj",
        "layer",
        "mlp",
        "layer_1",
        7,
        "weight",
    ),
    "model.layers.1.mlp.experts.255.up_proj.weight": (
        "moe_expert",
        "up_proj",
        "layer",
        "mlp",
        "layer_1",
        255,
        "weight",
    ),
    "model.layers.1.mlp.experts.gate_up_proj": ("moe_expert", "gate_up", "layer", "mlp", "layer_1", None, "weight"),
    "model.layers.1.mlp.experts.gate_up_proj_bias": ("bias", "gate_up", "layer", "mlp", "layer_1", None, "bias"),
    "model.layers.1.mlp.experts.down_proj_blocks": (
        "moe_expert",
        "down_proj",
        "layer",
        "mlp",
        "layer_1",
        None,
        "weight",
    ),
    "model.layers.1.mlp.experts.down_proj_scales": (
        "other",
        "down_proj",
        "layer",
        "mlp",
        "layer_1",
        None,
        "quantization",
    ),
    "model.layers.1.mlp.router.weight": ("moe_gate", "moe_gate", "layer", "mlp", "layer_1", None, "weight"),
    "model.layers.1.self_attn.sinks": ("other", "", "layer", "attn", "layer_1", None, "weight"),
    "model.layers.1.mlp.shared_experts.up_proj.weight": (
        "moe_expert",
        "up_proj",
        "layer",
        "mlp",
        "layer_1",
        None,
        "weight",
    ),
    "model.layers.1.mlp.shared_expert_gate.weight": ("moe_gate", "moe_gate", "layer", "mlp", "layer_1", None, "weight"),
    "model.layers.1.block_sparse_moe.input_linear.weight": (
        "gate_up",
        "gate_up",
        "layer",
        "mlp",
        "layer_1",
        None,
        "weight",
    ),
    "model.layers.1.block_sparse_moe.router.layer.weight": (
        "moe_gate",
        "moe_gate",
        "layer",
        "mlp",
        "layer_1",
        None,
        "weight",
    ),
    "model.layers.5.mlp.gate.e_score_correction_bias": ("other", "", "layer", "mlp", "layer_5", None, "buffer"),
    # DeepSeek MLA and its block-scaled FP8
    "model.layers.5.self_attn.q_a_proj.weight": ("q_proj", "q_a_proj", "layer", "attn", "layer_5", None, "weight"),
    "model.layers.5.self_attn.kv_a_proj_with_mqa.weight": (
        "qkv",
        "kv_a_proj",
        "layer",
        "attn",
        "layer_5",
        None,
        "weight",
    ),
    "model.layers.5.self_attn.kv_b_proj.weight": ("qkv", "kv_b_proj", "layer", "attn", "layer_5", None, "weight"),
    "model.layers.5.self_attn.kv_a_layernorm.weight": ("norm", "norm", "layer", "norm", "layer_5", None, "weight"),
    "model.layers.5.self_attn.o_proj.weight_scale_inv": (
        "other",
        "o_proj",
        "layer",
        "attn",
        "layer_5",
        None,
        "quantization",
    ),
    "model.layers.61.shared_head.head.weight": ("output", "lm_head", "layer", "", "layer_61", None, "weight"),
    "model.layers.61.embed_tokens.weight": ("embedding", "token_embedding", "layer", "", "layer_61", None, "weight"),
    # Qwen 3.5, Mamba, RWKV
    "model.layers.0.linear_attn.in_proj_qkv.weight": ("qkv", "qkv", "layer", "attn", "layer_0", None, "weight"),
    "model.layers.0.linear_attn.out_proj.weight": ("o_proj", "o_proj", "layer", "attn", "layer_0", None, "weight"),
    "model.layers.0.linear_attn.A_log": ("ssm", "a_log", "layer", "attn", "layer_0", None, "weight"),
    "mtp.layers.0.self_attn.q_proj.weight": ("q_proj", "q_proj", "layer", "attn", "mtp.layer_0", None, "weight"),
    "backbone.layers.7.mixer.in_proj.weight": ("ssm", "in_proj", "layer", "", "layer_7", None, "weight"),
    "backbone.layers.7.mixer.out_proj.weight": ("ssm", "out_proj", "layer", "", "layer_7", None, "weight"),
    "backbone.embeddings.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "blocks.0.att.receptance.weight": ("q_proj", "q_proj", "layer", "attn", "layer_0", None, "weight"),
    "blocks.0.att.output.weight": ("o_proj", "o_proj", "layer", "attn", "layer_0", None, "weight"),
    "blocks.0.ffn.key.weight": ("up_proj", "up_proj", "layer", "mlp", "layer_0", None, "weight"),
    "blocks.0.ln0.weight": ("norm", "norm", "layer", "norm", "layer_0", None, "weight"),
    "emb.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "head.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    # llama2.c, InternLM2, Baichuan, ChatGLM, Megatron, StableLM
    "tok_embeddings.weight": ("embedding", "token_embedding", "embed", "", None, None, "weight"),
    "layers.4.attention.wo.weight": ("o_proj", "o_proj", "layer", "attn", "layer_4", None, "weight"),
    "layers.4.feed_forward.w1.weight": ("gate_proj", "gate_proj", "layer", "mlp", "layer_4", None, "weight"),
    "output.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    "model.layers.4.attention.wqkv.weight": ("qkv", "qkv", "layer", "attn", "layer_4", None, "weight"),
    "model.layers.4.self_attn.W_pack.weight": ("qkv", "qkv", "layer", "attn", "layer_4", None, "weight"),
    "transformer.encoder.layers.4.self_attention.query_key_value.weight": (
        "qkv",
        "qkv",
        "layer",
        "attn",
        "layer_4",
        None,
        "weight",
    ),
    "transformer.output_layer.weight": ("output", "lm_head", "lm_head", "", None, None, "weight"),
    "decoder.layers.4.self_attention.linear_qkv.layer_norm_weight": (
        "norm",
        "norm",
        "layer",
        "norm",
        "decoder.layer_4",
        None,
        "weight",
    ),
    "decoder.layers.4.mlp.linear_fc2.weight": (
        "down_proj",
        "down_proj",
        "layer",
        "mlp",
        "decoder.layer_4",
        None,
        "weight",
    ),
    "model.layers.4.self_attn.q_layernorm.norms.12.weight": (
        "norm",
        "norm",
        "layer",
        "norm",
        "layer_4",
        None,
        "weight",
    ),
    # vision and language
    "model.language_model.layers.8.mlp.up_proj.weight": (
        "up_proj",
        "up_proj",
        "layer",
        "mlp",
        "layer_8",
        None,
        "weight",
    ),
    "vision_tower.vision_model.encoder.layers.8.self_attn.out_proj.weight": (
        "o_proj",
        "o_proj",
        "layer",
        "attn",
        "vision.layer_8",
        None,
        "weight",
    ),
    "visual.blocks.8.attn.proj.weight": ("o_proj", "o_proj", "layer", "attn", "vision.layer_8", None, "weight"),
    "visual.patch_embed.proj.weight": ("embedding", "patch_embedding", "embed", "", None, None, "weight"),
    "visual.merger.mlp.0.weight": ("other", "projector", "other", "", None, None, "weight"),
    "multi_modal_projector.linear_1.bias": ("bias", "projector", "other", "", None, None, "bias"),
    "visual.transformer.resblocks.2.attn.in_proj_weight": (
        "qkv",
        "qkv",
        "layer",
        "attn",
        "vision.layer_2",
        None,
        "weight",
    ),
    "visual.transformer.resblocks.2.attn.in_proj_bias": (
        "bias",
        "qkv",
        "layer",
        "attn",
        "vision.layer_2",
        None,
        "bias",
    ),
    # adapters, quantization, pruning
    "base_model.model.model.layers.6.self_attn.v_proj.lora_A.default.weight": (
        "v_proj",
        "v_proj",
        "layer",
        "attn",
        "layer_6",
        None,
        "adapter",
    ),
    "model.layers.6.mlp.down_proj.base_layer.weight": (
        "down_proj",
        "down_proj",
        "layer",
        "mlp",
        "layer_6",
        None,
        "weight",
    ),
    "model.layers.6.mlp.down_proj.qweight": ("down_proj", "down_proj", "layer", "mlp", "layer_6", None, "weight"),
    "model.layers.6.mlp.down_proj.qzeros": ("other", "down_proj", "layer", "mlp", "layer_6", None, "quantization"),
    "model.layers.6.attn_shortcut_Q": ("other", "rotation", "layer", "", "layer_6", None, "weight"),
    # convolutions, recurrent layers
    "conv1.weight": ("conv", "conv", "other", "", None, None, "weight"),
    "gru.weight_ih_l0": ("recurrent", "recurrent_ih", "other", "", None, None, "weight"),
    # none of these is known
    "fc1.weight": ("other", "", "other", "", None, None, "weight"),
    "norm1.running_mean": ("other", "", "other", "", None, None, "buffer"),
    "b.a.a.W": ("other", "", "other", "", None, None, "weight"),
    "model.layers.0.something.new.weight": ("other", "", "layer", "", "layer_0", None, "weight"),
}


@pytest.mark.parametrize(("name", "expected"), KNOWN.items(), ids=KNOWN)
def test_known_names(name: str, expected: tuple[object, ...]) -> None:
    p = classify(name)
    assert (p.role, p.slot, p.group, p.part, p.layer_group, p.expert, p.kind) == expected
    assert p.name == name
    assert p.buffer == (expected[-1] == "buffer")


def test_every_role_is_reached() -> None:
    assert {expected[0] for expected in KNOWN.values()} == set(ROLES)


@pytest.mark.parametrize(
    ("shape", "kind", "role"), [((1, 1, 8, 8), "buffer", "other"), ((8,), "bias", "bias"), (None, "buffer", "other")]
)
def test_a_mask_is_not_a_bias(shape: tuple[int, ...] | None, kind: str, role: str) -> None:
    p = classify("transformer.h.0.attn.bias", shape)
    assert (p.kind, p.role) == (kind, role)


def _all(*names: str) -> dict[str, Parameter]:
    return classify_all(dict.fromkeys(names, (2, 2)))


def test_a_lone_decoder_is_the_main_stack() -> None:
    found = _all("model.decoder.layers.0.fc1.weight", "model.decoder.layers.1.fc1.weight")
    assert [p.layer_group for p in found.values()] == ["layer_0", "layer_1"]


def test_encoder_and_decoder_keep_their_own_layers() -> None:
    found = _all("model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight")
    assert [p.layer_group for p in found.values()] == ["encoder.layer_0", "decoder.layer_0"]


def test_two_lists_of_blocks_do_not_collide() -> None:
    found = _all("a.blocks.0.fc1.weight", "a.blocks.1.fc1.weight", "b.blocks.0.fc1.weight")
    assert [p.layer_group for p in found.values()] == ["layer_0", "layer_1", "b.blocks.layer_0"]


@pytest.mark.parametrize(
    ("names", "slots"),
    [
        (["w1", "w2", "w3"], ["gate_proj", "down_proj", "up_proj"]),
        (["w1", "w2"], ["up_proj", "down_proj"]),
        (["w1", "w2", "c_proj"], ["up_proj", "gate_proj", "down_proj"]),
        (["gate", "up", "down"], ["gate_proj", "up_proj", "down_proj"]),
        (["gate"], ["moe_gate"]),
    ],
)
def test_siblings_decide(names: list[str], slots: list[str]) -> None:
    found = _all(*(f"layers.0.mlp.{name}.weight" for name in names))
    assert [p.role for p in found.values()] == [p.slot for p in found.values()] == slots


ODD = [
    "", ".", "..", "weight", "bias", "layers", "layers.", "layers.0", "layers.0.", "layers.-1.x", "layers.٣.q_proj",
    "layers.².q_proj", "layers.#.q_proj.weight", "experts.#.w1", "layers.99999999999999999999.q_proj.weight",
    "\ud800.weight", "model.layers.0\n.self_attn.q_proj.weight", "\x1b[31mlayers.0.q_proj", "İ.layers.3.q_proj.weight",
    "LAYERS.3.Q_PROJ.WEIGHT", "scales", "lora_A", "lora_A.weight", "_bias", "_weight", "quant_state",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_names_get_an_answer(name: str) -> None:
    p = classify(name)
    assert p.name == name
    assert p.role in ROLES
    assert list(classify_all({name: ()})) == [name]


WORDS = sorted(
    {*words.LAYER_LISTS, *words.ATTENTION, *words.FEED_FORWARD, *words.EMBEDDINGS, *words.QUANTIZATION, *words.ADAPTERS}
    | {
        *words.EXPERT_PLACES,
        *words.HEAD_PLACES,
        "0",
        "7",
        "#",
        "",
        "weight",
        "bias",
        "encoder",
        "decoder",
        "mtp",
        "visual",
    }
)


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=9))
def test_any_mixture_of_words_gets_one_of_the_answers(parts: list[str]) -> None:
    name = ".".join(parts)
    p = classify(name, (2,))
    assert p.role in ROLES
    assert p.group in {"embed", "lm_head", "layer", "other"}
    assert p.part in {"attn", "mlp", "norm", ""}
    assert p.kind in {"weight", "bias", "buffer", "quantization", "adapter"}
    assert (p.layer is None) == (p.group != "layer")
    assert (p.layer is None) == (p.layer_group is None)


BOMBS = {
    "one word": "a" * 10**6,
    "dots": "." * 10**6,
    "digits": "layers." + "9" * 10**6 + ".q_proj",
    "lists": "layers." * 150_000,
    "numbers": "1." * 500_000,
    "experts": "experts.3." * 100_000,
    "norms": "norm_" * 200_000,
    "lns": "ln_" * 300_000 + "x",
    "newlines": "layers.1\n.weight" * 60_000,
    "marks": "#." * 500_000,
    "layer norms": "layernorm" * 100_000,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_names_of_a_megabyte_take_linear_time(bomb: str) -> None:
    start = time.thread_time()
    assert classify(bomb).name == bomb
    assert time.thread_time() - start < 10 * slowness()  # quadratic work would take hours


def test_a_hundred_thousand_names() -> None:
    names = {
        f"model.layers.{layer}.mlp.experts.{expert}.{slot}.weight": (2, 2)
        for layer in range(130)
        for expert in range(256)
        for slot in ("gate_proj", "up_proj", "down_proj")
    }
    start = time.thread_time()
    found = classify_all(names)
    assert time.thread_time() - start < 15 * slowness()
    assert {p.role for p in found.values()} == {"moe_expert"}
    assert found["model.layers.129.mlp.experts.255.up_proj.weight"].expert == 255


OTHER_ALLOWED = re.compile(
    r"inv_freq$|projector\.|\.absmax$|\.quant_map$|quant_state|\.scales$|\.biases$"
)  # buffers, projectors between towers, what stands beside quantized weights


def _indexes() -> list[Path]:
    return sorted((Path(__file__).parents[2].parent / "shared" / "realweights" / "json").glob("*.index.json"))


@pytest.mark.skipif(not _indexes(), reason="the folder of real checkpoints is not here")
@pytest.mark.parametrize("path", _indexes(), ids=lambda path: path.name[:40])
def test_real_models_leave_nothing_in_other(path: Path) -> None:
    names = json.loads(path.read_text())["weight_map"]
    found = classify_all(dict.fromkeys(names, (2, 2)))
    assert list(found) == list(names)
    assert [name for name, p in found.items() if p.role == "other" and not OTHER_ALLOWED.search(name)] == []
    layers = {p.layer for p in found.values() if p.layer is not None and not p.stack}
    assert layers == set(range(len(layers)))
