"""Names of other habits than those of language models from the hub: their roles, layers and kinds."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file
from slowness import slowness

import netweight
from netweight.params.role import classify, classify_all

# name -> role, slot, kind, layer
KNOWN = {
    # TransformerLens
    "embed.W_E": ("embedding", "token_embedding", "weight", None),
    "pos_embed.W_pos": ("embedding", "position_embedding", "weight", None),
    "unembed.W_U": ("output", "lm_head", "weight", None),
    "unembed.b_U": ("bias", "lm_head", "bias", None),
    "blocks.3.attn.W_Q": ("q_proj", "q_proj", "weight", 3),
    "blocks.3.attn._W_K": ("k_proj", "k_proj", "weight", 3),
    "blocks.3.attn.W_O": ("o_proj", "o_proj", "weight", 3),
    "blocks.3.attn.b_V": ("bias", "v_proj", "bias", 3),
    "blocks.3.attn.IGNORE": ("other", "", "buffer", 3),
    "blocks.3.mlp.W_in": ("up_proj", "up_proj", "weight", 3),
    "blocks.3.mlp.W_gate": ("gate_proj", "gate_proj", "weight", 3),
    "blocks.3.mlp.b_out": ("bias", "down_proj", "bias", 3),
    "blocks.3.mlp.experts.7.W_out": ("moe_expert", "down_proj", "weight", 3),
    "blocks.3.ln1.w": ("norm", "norm", "weight", 3),
    # diffusers
    "transformer_blocks.12.attn1.to_q.weight": ("q_proj", "q_proj", "weight", 12),
    "transformer_blocks.12.attn.to_out.0.weight": ("o_proj", "o_proj", "weight", 12),
    "transformer_blocks.12.attn.add_k_proj.bias": ("bias", "k_proj", "bias", 12),
    "transformer_blocks.12.attn.to_add_out.weight": ("o_proj", "o_proj", "weight", 12),
    "transformer_blocks.12.ff.net.0.proj.weight": ("up_proj", "up_proj", "weight", 12),
    "transformer_blocks.12.ff_context.net.2.weight": ("down_proj", "down_proj", "weight", 12),
    "single_transformer_blocks.4.attn.to_v.weight": ("v_proj", "v_proj", "weight", 4),
    "down_blocks.1.attentions.0.transformer_blocks.2.attn2.to_k.weight": ("k_proj", "k_proj", "weight", 2),
    "down_blocks.1.resnets.0.conv1.weight": ("conv", "conv", "weight", None),
    "mid_block.attentions.0.to_q.weight": ("q_proj", "q_proj", "weight", None),
    "double_blocks.5.img_attn.qkv.weight": ("qkv", "qkv", "weight", 5),
    "double_blocks.5.txt_mlp.0.weight": ("up_proj", "up_proj", "weight", 5),
    "double_blocks.5.img_mlp.2.weight": ("down_proj", "down_proj", "weight", 5),
    "single_blocks.5.linear1.weight": ("other", "", "weight", 5),  # attention and feed-forward in one
    "joint_blocks.5.x_block.attn.proj.weight": ("o_proj", "o_proj", "weight", 5),
    "blocks.9.ffn.0.weight": ("up_proj", "up_proj", "weight", 9),
    "blocks.9.ffn.2.bias": ("bias", "down_proj", "bias", 9),
    # adapters: diffusers, kohya
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight": (
        "q_proj", "q_proj", "adapter", 0),
    "unet.up_blocks.1.attentions.0.transformer_blocks.2.attn2.to_out.0.lora.down.weight": (
        "o_proj", "o_proj", "adapter", 2),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_3_attn1_to_q.lora_down.weight": (
        "q_proj", "q_proj", "adapter", 3),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj.lora_up.weight": (
        "up_proj", "up_proj", "adapter", 0),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0.alpha": ("o_proj", "o_proj", "adapter", 0),
    "lora_te_text_model_encoder_layers_11_self_attn_v_proj.lora_up.weight": ("v_proj", "v_proj", "adapter", 11),
    "lora_te1_text_model_encoder_layers_2_mlp_fc2.dora_scale": ("down_proj", "down_proj", "adapter", 2),
    "lora_unet_double_blocks_7_img_attn_qkv.lora_down.weight": ("qkv", "qkv", "adapter", 7),
    # speech
    "encoder.layers.4.feed_forward.intermediate_dense.weight": ("up_proj", "up_proj", "weight", 4),
    "encoder.layers.4.feed_forward.output_dense.weight": ("down_proj", "down_proj", "weight", 4),
    "speech_encoder.encoder.layers.4.ffn2.output_dense.weight": ("down_proj", "down_proj", "weight", 4),
    "speech_encoder.encoder.layers.4.self_attn.linear_out.weight": ("o_proj", "o_proj", "weight", 4),
    "feature_extractor.conv_layers.0.conv.weight": ("conv", "conv", "weight", None),
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": ("conv", "conv", "weight", None),
    "decoder.resblocks.3.convs1.0.weight_v": ("conv", "conv", "weight", 3),
    # the annotated transformer, OpenNMT, torchvision
    "encoder.layers.1.self_attn.linears.0.weight": ("q_proj", "q_proj", "weight", 1),
    "encoder.layers.1.self_attn.linears.3.bias": ("bias", "o_proj", "bias", 1),
    "encoder.layers.1.feed_forward.w_1.weight": ("up_proj", "up_proj", "weight", 1),
    "decoder.transformer_layers.1.context_attn.linear_keys.weight": ("k_proj", "k_proj", "weight", 1),
    "decoder.transformer_layers.1.self_attn.final_linear.weight": ("o_proj", "o_proj", "weight", 1),
    "encoder.layers.encoder_layer_6.mlp.linear_1.weight": ("up_proj", "up_proj", "weight", 6),
    "encoder.layers.encoder_layer_6.self_attention.out_proj.weight": ("o_proj", "o_proj", "weight", 6),
    # recurrent layers, state spaces
    "rnn.weight_hh_l1_reverse": ("recurrent", "recurrent_hh", "weight", None),
    "weight_ih_l0": ("recurrent", "recurrent_ih", "weight", None),
    "cell.bias_hh": ("bias", "recurrent_hh", "bias", None),
    "backbone.layers.2.mixer.x_proj.weight": ("ssm", "x_proj", "weight", 2),
    "backbone.layers.2.mixer.D": ("ssm", "d", "weight", 2),
    "model.layers.2.mamba.conv1d.weight": ("conv", "conv1d", "weight", 2),
    "model.layers.2.mamba.dt_bias": ("bias", "", "bias", 2),
    "backbone.layers.2.mixer.q_proj.weight": ("q_proj", "q_proj", "weight", 2),
    "backbone.layers.2.mixer.up_proj.weight": ("up_proj", "up_proj", "weight", 2),
    "backbone.blocks.2.ffn.proj_up_gate.weight": ("gate_proj", "gate_proj", "weight", 2),
    "backbone.blocks.2.mlstm_layer.k.weight": ("k_proj", "k_proj", "weight", 2),
    # heads and embeddings of other families
    "lm_loss.weight": ("output", "lm_head", "weight", None),
    "pred_layer.proj.weight": ("output", "lm_head", "weight", None),
    "output_projection.weight": ("output", "lm_head", "weight", None),
    "transformer.tokens_embed.weight": ("embedding", "token_embedding", "weight", None),
    "transformer.positions_embed.weight": ("embedding", "position_embedding", "weight", None),
    # as they were: SliceGPT, Molmo, RWKV, words with a number in them
    "model.layers.6.mlp_shortcut_Q": ("other", "rotation", "weight", 6),
    "model.transformer.blocks.6.ff_out.weight": ("down_proj", "down_proj", "weight", 6),
    "blocks.6.ffn.key.weight": ("up_proj", "up_proj", "weight", 6),
    "lora_unet.weight": ("other", "", "weight", None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), KNOWN.items(), ids=KNOWN)
def test_known_names(name, expected):
    p = classify(name)
    assert (p.role, p.slot, p.kind, p.layer) == expected
    assert p.name == name


def test_lists_of_blocks_in_one_model_do_not_collide():
    """A U-Net has a list of blocks in every attention."""
    names = [f"down_blocks.{i}.attentions.0.transformer_blocks.0.attn1.to_q.weight" for i in range(3)]
    kohya = [f"lora_unet_down_blocks_{i}_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight" for i in range(3)]
    for held in (names, kohya):
        groups = {p.layer_group for p in classify_all(dict.fromkeys(held, (2, 2))).values()}
        assert len(groups) == 3


def test_what_stands_beside_running_statistics_is_a_norm():
    shapes = {"net.1.weight": (8,), "net.1.bias": (8,), "net.1.running_mean": (8,), "net.0.weight": (8, 4)}
    found = classify_all(shapes)
    assert [(p.role, p.part, p.state) for p in found.values()] == [
        ("norm", "norm", "learned"), ("bias", "norm", "learned"), ("other", "", "running"), ("other", "", "learned"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "role"), [((8, 4, 3, 3), "conv"), ((8, 4, 3, 3, 3), "conv"), ((8, 4), "other"), ((8,), "other")]
)
def test_convolutions_by_shape(shape, role):
    assert classify("features.0.weight", shape).role == role


def test_moonvit_counts_its_matrices_from_0():
    names = [f"vision_tower.encoder.blocks.0.mlp.fc{i}.weight" for i in range(3)]
    assert [p.role for p in classify_all(dict.fromkeys(names[:2], (2, 2))).values()] == ["up_proj", "down_proj"]
    assert [p.role for p in classify_all(dict.fromkeys(names[1:], (2, 2))).values()] == ["up_proj", "down_proj"]


def test_names_that_match_many_rows_take_linear_time():
    start = time.thread_time()
    for name in ("lora_unet_" + "0_" * 100_000, "linears.0." * 50_000, ".net.0" * 50_000, "_mlp.0" * 50_000):
        assert classify(name).name == name
    assert time.thread_time() - start < 10 * slowness()


def test_info_lists_what_it_does_not_know_by_the_form_of_the_names(tmp_path, capsys):
    held = {f"a.{i}.W": np.ones((4, i + 1), np.float32) for i in range(3)} | {"z": np.ones(100, np.float32)}
    save_file(held | {"lm_head.weight": np.ones((4, 4), np.float32)}, tmp_path / "model.safetensors")
    found = netweight.info(tmp_path)
    assert [(row.pattern, row.tensors, row.parameters) for row in found.other] == [("z", 1, 100), ("a.N.W", 3, 24)]
    assert found.other[1].example == "a.0.W"
    from netweight.views.info import show_info

    show_info(found, depth=None)
    assert "other: a.N.W: 3 tensors, 24" in capsys.readouterr().out
    assert json.loads(json.dumps(found.to_dict()))["other"][0]["pattern"] == "z"


def test_widths_of_a_model_of_transformerlens(tmp_path):
    """It stores its matrices [in, out]."""
    hidden, inner, heads = 16, 48, 2
    held = {"embed.W_E": (40, hidden), "unembed.W_U": (hidden, 40), "pos_embed.W_pos": (9, hidden)}
    for layer in range(2):
        at = f"blocks.{layer}"
        held |= {f"{at}.attn.W_{x}": (heads, hidden, 8) for x in "QKV"} | {f"{at}.attn.W_O": (heads, 8, hidden)}
        held |= {f"{at}.mlp.W_in": (hidden, inner), f"{at}.mlp.W_out": (inner, hidden), f"{at}.ln1.w": (hidden,)}
    save_file({n: np.ones(s, np.float32) for n, s in held.items()}, tmp_path / "model.safetensors")
    layers = netweight.structure(tmp_path).structure["layers"]
    assert [layer["mlp"]["intermediate_size"] for layer in layers] == [inner, inner]
    assert layers[0]["attention"]["total"] == 4 * heads * hidden * 8
    assert netweight.info(tmp_path).other == ()
