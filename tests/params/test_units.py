"""Hidden units by the names of many kinds of models, and keys that do not depend on who saved them."""

from __future__ import annotations

from netweight.params.role import classify_all
from netweight.params.units import keys_of, units_of


def units(shapes):
    parameters = classify_all(shapes)
    return units_of(keys_of(parameters), parameters, shapes), keys_of(parameters)


def llama(prefix="model.layers.{}.mlp.", names=("gate_proj", "up_proj", "down_proj"), layers=2):
    shapes = {"model.embed_tokens.weight": (100, 32)}
    for layer in range(layers):
        for name in names:
            shape = (32, 80) if name in ("down_proj", "w2") else (80, 32)
            shapes[prefix.format(layer) + name + ".weight"] = shape
    return shapes


def test_two_spellings_have_one_key_and_one_block() -> None:
    hub, keys = units(llama())
    meta, other = units(llama("layers.{}.feed_forward.", ("w1", "w3", "w2")))
    assert [block.label for block in hub] == [block.label for block in meta] == ["0", "1"]
    assert keys["model.layers.1.mlp.gate_proj.weight"] == other["layers.1.feed_forward.w1.weight"] == "1.gate_proj"
    assert keys["model.embed_tokens.weight"] == "token_embedding"
    assert hub[0].rows == {"gate_proj": "0.gate_proj", "up_proj": "0.up_proj"}
    assert hub[0].cols == {"down_proj": "0.down_proj"}
    assert (hub[0].count, hub[0].layer, hub[0].expert) == (80, 0, None)


def test_every_expert_is_a_block() -> None:
    shapes = {
        f"model.layers.{layer}.mlp.experts.{e}.{name}.weight": (32, 48) if name == "down_proj" else (48, 32)
        for layer in range(2)
        for e in range(3)
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    found, _ = units(shapes)
    assert [(block.layer, block.expert) for block in found] == [(layer, e) for layer in range(2) for e in range(3)]
    assert len({block.label for block in found}) == 6


def test_matrices_that_do_not_fit_together_are_no_block() -> None:
    shapes = llama(layers=1)
    shapes["model.layers.0.mlp.down_proj.weight"] = (32, 79)
    found, _ = units(shapes)
    assert not any(block.cols for block in found)


def test_lists_under_other_names_keep_what_permutes_together_together() -> None:
    shapes = {
        f"ffn{i}.{name}.weight": (24, 96) if name == "value" else (96, 24) for i in (1, 2) for name in ("key", "value")
    }
    shapes["head.weight"] = (10, 24)
    found, _ = units(shapes)
    assert [(block.label, len(block.rows), len(block.cols)) for block in found] == [("ffn1", 1, 1), ("ffn2", 1, 1)]


def test_a_net_without_mlps_gives_rows_and_leaves_its_outputs_out() -> None:
    shapes = {
        "conv1.weight": (32, 3, 3, 3), "conv1.bias": (32,), "conv2.weight": (32, 32, 3, 3), "fc.weight": (64, 512),
        "out.weight": (64, 64),
    }  # fmt: skip
    found, _ = units(shapes)
    assert {block.label: sorted(block.rows) for block in found} == {
        "rows of 32": ["conv1.weight", "conv2.weight"],
        "rows of 64": ["fc.weight"],
    }


def test_ranks_of_an_adapter_are_units_and_outputs_of_its_base_are_not() -> None:
    shapes = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
        shapes |= {f"{name}A.weight": (8, 64), f"{name}B.weight": (64, 8)}
    found, _ = units(shapes)
    assert [block.count for block in found] == [8, 8]
    assert all(len(block.rows) == len(block.cols) == 1 for block in found)
