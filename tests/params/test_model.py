"""A model as a mapping of canonical names, from headers; and what a name says of how its values come about."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import netweight
from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.tensors.rearranged import RearrangedTensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.errors import ReadError
from netweight.params.model import Held, Model
from netweight.params.role import classify
from netweight.source.held import HeldBytes

Make = Callable[..., Checkpoint]


def test_a_model_is_a_mapping(make: Make):
    config = {"model_type": "mixtral", "hidden_size": 8}
    held = make(
        "m",
        {
            "model.norm.weight": (8,),
            "model.layers.1.block_sparse_moe.gate.weight": (2, 8),
            "model.layers.1.mlp.experts.gate_up_proj": (2, 12, 8),
            "model.layers.1.mlp.experts.down_proj": (2, 8, 6),
        },
        config=config,
    )
    model = Model(held)
    inside = "model.layers.1.mlp.experts."
    named = [f"{inside}{e}.{p}_proj.weight" for e in (0, 1) for p in ("gate", "up")]
    named = [
        "model.norm.weight",
        "model.layers.1.mlp.gate.weight",
        *named,
        *(f"{inside}{e}.down_proj.weight" for e in (0, 1)),
    ]
    assert list(model) == named
    assert len(model) == 8
    assert repr(model) == "<Model 'm': 8 parameters>"
    assert f"{inside}gate_up_proj" not in model
    with pytest.raises(KeyError):
        model[f"{inside}gate_up_proj"]
    tensor, parameter = model[f"{inside}1.up_proj.weight"]
    assert (tensor.name, tensor.shape) == (f"{inside}1.up_proj.weight", (6, 8))
    assert isinstance(tensor, RearrangedTensor)
    assert [part.name for part in tensor.parts] == [f"{inside}gate_up_proj"]
    assert (parameter.layer, parameter.expert, parameter.role, parameter.slot) == (1, 1, "moe_expert", "up_proj")
    assert parameter.name == tensor.name
    gate, parameter = model["model.layers.1.mlp.gate.weight"]
    assert (gate.source, parameter.role) == (held["model.layers.1.block_sparse_moe.gate.weight"].source, "moe_gate")
    assert model.parameters.keys() == model.tensors.keys() == held.keys()  # by the file's names
    assert model.parts("model.norm.weight") == ()
    (itself,) = model.named_parts("model.norm.weight")
    assert (itself.name, itself.part.size) == ("model.norm.weight", 8)
    assert [part.name for part in model.named_parts(f"{inside}down_proj")] == named[-2:]
    assert model.held[named[-1]] == Held(f"{inside}down_proj", model.parts(f"{inside}down_proj")[1].part)


def test_as_a_checkpoint(tmp_path):
    """All that is not names stays; it has the files of the one that it was made of, and closes them."""
    config = {"model_type": "mixtral", "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    down = np.arange(96, dtype="f4").reshape(2, 8, 6)
    names = {"model.layers.0.mlp.experts.down_proj": down, "module.x.weight": np.ones(3, "f4")}
    save_file(names, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened = netweight.open(tmp_path, canonical=True)
    plain = netweight.open(tmp_path)
    for key in ("ref", "format", "files", "config", "config_problem", "metadata", "skipped", "notes", "location"):
        assert getattr(opened, key) == getattr(plain, key), key
    assert opened.config == config
    assert list(opened) == [*(f"model.layers.0.mlp.experts.{e}.down_proj.weight" for e in (0, 1)), "x.weight"]
    np.testing.assert_array_equal(opened["model.layers.0.mlp.experts.1.down_proj.weight"].read(), down[1])
    opened.check_unchanged()
    opened.close()
    for tensor in opened.values():
        with pytest.raises(ReadError):
            tensor.read()
    assert plain["module.x.weight"].read().tolist() == [1, 1, 1]


def test_shared_storage_keeps_its_names(make: Make):
    shared = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}
    names = {"language_model.model.embed_tokens.weight": (20, 8), "language_model.lm_head.weight": (20, 8)}
    canonical = Model(make("m", names, shared=shared)).as_checkpoint()
    assert canonical.shared == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    assert set(canonical.shared.items()) <= {(a, b) for a in canonical for b in canonical}
    stack = "model.layers.0.mlp.experts.down_proj"
    shared = {f"{stack}_copy": stack}  # a name that is a part of nothing, tied to one that is taken apart
    config = {"model_type": "mixtral", "hidden_size": 8}
    canonical = Model(
        make("m", {stack: (2, 8, 6), f"{stack}_copy": (2, 8, 6)}, shared=shared, config=config)
    ).as_checkpoint()
    assert canonical.shared == {}


@pytest.mark.parametrize("order", [1, -1])
def test_nothing_is_lost_where_two_tensors_hold_one_matrix(make: Make, order: int):
    """Experts both packed and one by one: the stack is kept whole."""
    place = "model.layers.0.mlp.experts."
    names = {f"{place}down_proj": (2, 8, 6), f"{place}1.down_proj.weight": (8, 6), f"{place}gate_up_proj": (2, 12, 8)}
    model = Model(make("m", dict(list(names.items())[::order]), config={"model_type": "mixtral", "hidden_size": 8}))
    apart = {f"{place}{e}.{p}_proj.weight" for e in (0, 1) for p in ("gate", "up")}
    assert set(model) == {f"{place}down_proj", f"{place}1.down_proj.weight", *apart}
    assert {held.name for held in model.held.values()} == names.keys()
    assert sum(tensor.size for tensor, _ in model.values()) == sum(t.size for t in model.tensors.values())


def test_a_scalar_and_a_tensor_without_elements(make: Make):
    config = {"model_type": "mixtral", "hidden_size": 8}
    names = {"scale": (), "none": (0, 4), "model.layers.0.mlp.experts.down_proj": (0, 8, 6)}
    model = Model(make("m", names, config=config))
    assert {name: tensor.shape for name, (tensor, _) in model.items()} == names


# How the values of a parameter come about


@pytest.mark.parametrize(
    ("name", "shape", "state"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), "learned"),
        ("model.layers.0.self_attn.q_proj.bias", (8,), "learned"),
        ("model.layers.0.mlp.gate.e_score_correction_bias", (4,), "learned"),
        ("model.layers.0.mlp.gate.E_SCORE_CORRECTION_BIAS", (4,), "learned"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 8), "learned"),
        ("model.layers.0.mlp.up_proj.weight_scale", (1,), "learned"),
        ("bn1.running_mean", (8,), "running"),
        ("encoder.conv.batch_norm.running_var", (8,), "running"),
        ("bn1.num_batches_tracked", (), "derived"),
        ("model.rotary_emb.inv_freq", (4,), "derived"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), "derived"),
        ("model.rotary_emb.original_inv_freq", (4,), "derived"),
        ("transformer.h.0.attn.bias", (1, 1, 8, 8), "derived"),
        ("transformer.h.0.attn.bias", (8,), "learned"),
        ("transformer.h.0.attn.masked_bias", (), "derived"),
        ("embeddings.position_ids", (1, 8), "derived"),
        ("freqs_cis", (8, 4), "derived"),
        ("no.such.word", (2,), "learned"),
        ("", (2,), "learned"),
    ],
)
def test_how_values_come_about(name, shape, state):
    assert classify(name, shape).state == state


# Whatever the names and shapes are

WORDS = st.sampled_from([
    "model", "layers", "h", "0", "1", "self_attn", "attn", "mlp", "experts", "shared_expert", "qkv_proj", "c_attn",
    "query_key_value", "gate_up_proj", "down_proj", "gate_up_proj_bias", "gate_up_projs", "w1", "block_sparse_moe",
    "gate", "weight", "bias", "inv_freq", "lora_A", "weight_scale", "vision_tower", "norm", "#", "",
])  # fmt: skip
NAMES = st.lists(WORDS, min_size=1, max_size=7).map(".".join)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 6, 8, 12, 16, 24]), max_size=4).map(tuple)
TYPES = [
    "phi3",
    "mixtral",
    "gpt_oss",
    "llama4",
    "gpt2",
    "gpt_neox",
    "bloom",
    "falcon",
    "internlm2",
    "molmo",
    "clip",
    "x",
    3,
]


@given(
    st.dictionaries(NAMES, SHAPES, max_size=8),
    st.sampled_from(TYPES),
    st.sampled_from([{}, {"hidden_size": 8, "num_attention_heads": 4}, {"hidden_size": 12, "num_key_value_heads": 1}]),
)
def test_every_element_is_in_the_mapping_once(names, model_type, numbers):
    """Each number in the files is another one: all of them come back, and none twice."""
    counted, made = 1, {}
    for name, shape in names.items():
        values = np.arange(counted, counted + int(np.prod(shape)), dtype="f4")
        source = HeldBytes(memoryview(values.tobytes()), name)
        made[name] = StoredTensor(name, shape, DTYPES["F32"], source, 0)
        counted += values.size
    held = Checkpoint("m", made, format="safetensors", files=(), config={"model_type": model_type, **numbers})
    model = Model(held)
    found = [tensor.read().reshape(-1) for tensor, _ in model.values()]
    assert sorted(np.concatenate([*found, []])) == list(range(1, counted))
    assert all(name == tensor.name == parameter.name for name, (tensor, parameter) in model.items())
    assert {part.name for tensor, _ in model.values() for part in tensor.parts} <= names.keys() | set(model)


def test_an_alias_of_a_tensor_that_is_not_there(make: Make) -> None:
    """A reader may name an alias that was left out: under canonical names it is none either."""
    held = make("m", {"visual.x.weight": (2,)}, shared={"gone.weight": "visual.x.weight", "visual.x.weight": "lost"})
    renamed = Model(held).as_checkpoint()
    assert list(renamed) == ["model.visual.x.weight"]
    assert renamed.shared == {}
