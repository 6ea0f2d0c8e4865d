"""llama.cpp's names of a hub's tensors, against the map of its own gguf package."""

from __future__ import annotations

import gguf
import pytest

from netweight.checkpoint.gguf.names import ARCHITECTURES
from netweight.checkpoint.gguf.naming import gguf_namer

KNOWN = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
# of BERT all: what the converter renames before it asks its map, or that the map has under another arrangement
APART = {"embeddings.", "encoder.layer", "transformer.wpe", "position_embeddings", "token_type"}


def hub_names(dialect):
    """(a hub's name, llama.cpp's) of every weight matrix of block 2 that is one tensor on both sides."""
    for key, value in dialect.top.items():
        yield f"{value.rpartition(':')[2]}.weight", f"{key.removesuffix('.weight')}.weight"
    for blocks, table in dialect.blocks.items():
        prefix = dialect.layers[blocks].replace("#", "2")
        for key, value in table.items():
            stem = value.rpartition(":")[2]
            if not stem.startswith("=") and "*" not in stem and "norm" not in key:  # two norms may have one name here
                yield f"{prefix}{stem}.weight", f"{blocks}.2.{key.removesuffix('.weight')}.weight"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_of_ggufs_map(architecture):
    dialect = ARCHITECTURES[architecture]
    name_of = gguf_namer({"model_type": dialect.model_type})
    theirs = gguf.get_tensor_name_map(KNOWN[architecture], 4)
    compared = 0
    for hub, ours in hub_names(dialect):
        assert name_of(hub) == ours
        said = theirs.get_name(hub, try_suffixes=(".weight",))
        if said is not None and not any(word in hub for word in APART):
            assert said == ours, hub
            compared += 1
    assert compared >= (0 if architecture == "bert" else 4)


def test_experts_of_a_layer_have_one_name():
    name_of = gguf_namer({"model_type": "qwen3_moe"})
    found = {name_of(f"model.layers.7.mlp.experts.{i}.down_proj.weight") for i in (0, 5, 127)}
    assert found == {"blk.7.ffn_down_exps.weight"}
    mixtral = gguf_namer({"model_type": "mixtral"})
    assert mixtral("model.layers.11.block_sparse_moe.experts.3.w1.weight") == "blk.11.ffn_gate_exps.weight"


@pytest.mark.parametrize("name", ["x.weight", "model.layers.a.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.scale"])
def test_what_has_no_name_is_none(name):
    assert gguf_namer({"model_type": "llama"})(name) is None


def test_unknown_families_have_no_names():
    assert gguf_namer({"model_type": "whisper"}) is None
    assert gguf_namer({}) is None
