"""The places of real models' names, and blocks of every kind of shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netweight.checkpoint.tensor import Checkpoint
from netweight.params.block_types import block_types
from netweight.params.declared import Declared, declared
from netweight.params.role import classify_all
from netweight.params.structure import Structure, structure_of
from netweight.params.tied import find_ties

Make = Callable[..., Checkpoint]
HAS_NO_BETTER_PLACE = re.compile(r"projector|\.absmax$|quant_map$|quant_state")


def places(checkpoint: Checkpoint) -> Structure:
    tensors = dict(checkpoint.items())
    parameters = classify_all({name: tensor.shape for name, tensor in tensors.items()})
    return structure_of(tensors, parameters, find_ties(checkpoint), declared(checkpoint.config))


def _indexes() -> list[Path]:
    return sorted((Path(__file__).parents[2].parent / "shared" / "realweights" / "json").glob("*.index.json"))


@pytest.mark.skipif(not _indexes(), reason="the folder of real checkpoints is not here")
@pytest.mark.parametrize("path", _indexes(), ids=lambda path: path.name[:40])
def test_real_models_leave_nothing_without_a_place(make: Make, path: Path) -> None:
    names = json.loads(path.read_text())["weight_map"]
    beside = path.with_name(path.name.split("__model.safe")[0].split("__pytorch")[0] + "__config.json")
    config = json.loads(beside.read_text()) if beside.exists() else None
    checkpoint = make("m", dict.fromkeys(names, (4, 4)), config=config)
    found = places(checkpoint)
    buffers = sum(p.buffer for p in classify_all(dict.fromkeys(names, (4, 4))).values())
    assert found.total == 16 * (len(names) - buffers)
    assert found.buffers == 16 * buffers
    assert [row for row in found.unplaced if not HAS_NO_BETTER_PLACE.search(row.pattern)] == []
    assert [key for key in found.other if not HAS_NO_BETTER_PLACE.search(key)] == []
    for block in found.blocks:
        assert block.attention
        assert block.mlp or block.experts
        assert block.norms
        assert block.other == {}
    said = declared(config)
    if said.layers is not None:
        assert len(found.blocks) == said.layers
    assert found.embeddings
    assert found.missing_layers == ()


def block(make: Make, shapes: dict[str, Any], config: Any = None) -> Any:
    named = {f"model.layers.0.{name}": shape for name, shape in shapes.items()}
    return places(make("m", {"model.embed_tokens.weight": (100, 32), **named}, config=config)).blocks[0]


def test_experts_stacked_under_plain_names(make: Make) -> None:
    """Granite: three-dimensional weights whose names say nothing of experts."""
    found = block(
        make,
        {
            "block_sparse_moe.input_linear.weight": (6, 40, 32),
            "block_sparse_moe.output_linear.weight": (6, 32, 20),
            "block_sparse_moe.router.layer.weight": (6, 32),
        },
    )
    assert found.experts is not None
    assert (found.experts.count, found.experts.intermediate_size, found.experts.router) == (6, 20, 192)
    assert found.experts.routed == {"gate_up": 6 * 40 * 32, "down_proj": 6 * 32 * 20}
    assert found.mlp == {}


def test_packed_experts_take_their_width_from_config(make: Make) -> None:
    """gpt-oss as it is published: blocks and scales of four-bit floats."""
    config = {"model_type": "gpt_oss", "num_local_experts": 4, "moe_intermediate_size": 16}
    found = block(
        make,
        {
            "mlp.experts.gate_up_proj_blocks": ("U8", (4, 32, 1, 16)),
            "mlp.experts.gate_up_proj_scales": ("U8", (4, 32, 1)),
            "mlp.router.weight": (4, 32),
        },
        config,
    )
    assert (found.experts.count, found.experts.intermediate_size) == (4, 16)
    assert found.experts.routed_total == 4 * 32 * 16 + 4 * 32


def test_linear_attention_has_no_heads(make: Make) -> None:
    shapes = {"linear_attn.in_proj_qkvz.weight": (96, 32), "linear_attn.out_proj.weight": (32, 32)}
    found = block(make, shapes, {"num_attention_heads": 4, "hidden_size": 32})
    assert (found.heads, found.kv_heads) == (None, None)
    assert sum(found.attention.values()) == 128 * 32


def test_heads_that_do_not_come_out_even_are_not_claimed(make: Make) -> None:
    shapes = {"self_attn.q_proj.weight": (30, 32), "self_attn.o_proj.weight": (32, 30)}
    assert block(make, shapes, {"num_attention_heads": 4, "hidden_size": 32}).heads is None


def test_a_number_beyond_reason_makes_no_empty_blocks(make: Make) -> None:
    found = places(make("m", {"layers.0.mlp.up_proj.weight": (2, 2), "layers.999999.mlp.up_proj.weight": (2, 2)}))
    assert [each.index for each in found.blocks] == [0, 999999]
    assert found.missing_layers == ()


def test_towers_stand_apart(make: Make) -> None:
    found = places(
        make(
            "m",
            {
                "language_model.model.embed_tokens.weight": (10, 4),
                "language_model.model.layers.0.mlp.up_proj.weight": (4, 4),
                "vision_tower.encoder.layers.0.mlp.fc1.weight": (5, 5),
                "vision_tower.encoder.layers.1.mlp.fc1.weight": (5, 5),
                "vision_tower.post_layernorm.weight": (5,),
                "multi_modal_projector.linear.weight": (4, 5),
            },
        )
    )
    assert found.towers == {"vision": {"num_layers": 2, "parameters": 55}}
    assert [each.total for each in found.blocks] == [16]
    assert found.other == {"projector": 20}
    assert found.total == 40 + 16 + 55 + 20


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Declared()),
        ([3], Declared()),
        ({"num_attention_heads": True, "hidden_size": "big", "num_hidden_layers": -3}, Declared()),
        (
            {"num_attention_heads": 8, "hidden_size": 64, "multi_query": True},
            Declared(heads=8, kv_heads=1, hidden_size=64, head_size=8),
        ),
        (
            {"num_attention_heads": 8, "hidden_size": 60, "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}},
            Declared(heads=8, kv_heads=8, hidden_size=60, experts=16, experts_per_token=4),
        ),
        (
            {"text_config": {"num_hidden_layers": 3}, "num_hidden_layers": 9, "num_nextn_predict_layers": 1},
            Declared(layers=3, extra_layers=1),
        ),
        (
            {
                "num_local_experts": 4,
                "num_experts_per_tok": 3,
                "text_config": {"num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 5},
            },
            Declared(layers=5, experts=8, experts_per_token=2),
        ),
        (
            {"encoder_layers": 3, "decoder_layers": 2},
            Declared(stacks={"encoder": 3, "decoder": 2}),
        ),
    ],
)
def test_what_configs_declare(config: Any, expected: Declared) -> None:
    assert declared(config) == expected


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("llama", None, ("LlamaAttention", "LlamaMLP", "LlamaSparseMoeBlock")),
        (
            "llama",
            {"architectures": ["MistralForCausalLM"]},
            ("MistralAttention", "MistralMLP", "MistralSparseMoeBlock"),
        ),
        ("opt", {"architectures": ["OPTForCausalLM"]}, ("OPTAttention", None, "OPTSparseMoeBlock")),
        ("t5", {"feed_forward_proj": "gated-gelu"}, ("T5Attention", "T5DenseGatedActDense", "T5SparseMoeBlock")),
        ("never-heard-of", {"architectures": [3]}, (None, None, None)),
        ("never-heard-of", {"architectures": ["x" * 500]}, (None, None, None)),
    ],
)
def test_class_names(family: str, config: Any, expected: Any) -> None:
    assert block_types(family, config) == expected
