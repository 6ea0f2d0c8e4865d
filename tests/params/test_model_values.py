"""A model under canonical names has the values that torch has, whatever the layout."""

from __future__ import annotations

import pytest

import netweight
from netweight.params.model import Model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_kinds import EXPERTS, KINDS  # noqa: E402 - torch and transformers may be missing
from layout_models import Folders, stored  # noqa: E402 - likewise

LAYOUTS = [(kind, layout) for kind in KINDS for layout in KINDS[kind].layouts]
layouts = pytest.mark.parametrize(("kind", "layout"), LAYOUTS, ids=[f"{kind}: {layout}" for kind, layout in LAYOUTS])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


def same(tensor, expected):
    """The shape, the type and the bits of a tensor of torch."""
    assert tensor.shape == tuple(expected.shape)
    assert tensor.dtype.name == {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}[expected.dtype]
    bits = (
        expected.contiguous().view(torch.uint8).numpy()
        if expected.ndim
        else expected.reshape(1).view(torch.uint8).numpy()
    )
    assert tensor.read().tobytes() == bits.tobytes()


def mixtral(state):
    """[E, 2I, H], gate above up, and [E, H, I], as matrices of their own."""
    made = {}
    for name, tensor in state.items():
        head, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for e in range(EXPERTS):
                half = tensor.shape[1] // 2
                made |= {
                    f"{head}.{e}.gate_proj.weight": tensor[e, :half],
                    f"{head}.{e}.up_proj.weight": tensor[e, half:],
                }
        elif last == "down_proj":
            made |= {f"{head}.{e}.down_proj.weight": tensor[e] for e in range(EXPERTS)}
        else:
            made[name] = tensor
    return made


def gpt_oss(state):
    """[E, H, 2I], gate and up in turns, and [E, I, H]; biases [E, 2I] and [E, H]; the router is called gate."""
    made = {}
    for name, tensor in state.items():
        head, _, last = name.rpartition(".")
        for e in range(EXPERTS):
            place = f"{head}.{e}"
            if last == "gate_up_proj":
                made |= {f"{place}.gate_proj.weight": tensor[e].T[0::2], f"{place}.up_proj.weight": tensor[e].T[1::2]}
            elif last == "gate_up_proj_bias":
                made |= {f"{place}.gate_proj.bias": tensor[e][0::2], f"{place}.up_proj.bias": tensor[e][1::2]}
            elif last == "down_proj":
                made[f"{place}.down_proj.weight"] = tensor[e].T
            elif last == "down_proj_bias":
                made[f"{place}.down_proj.bias"] = tensor[e]
        if ".experts." not in name:
            made[name.replace(".mlp.router.", ".mlp.gate.")] = tensor
    return made


def phi3(state):
    """Four heads and two groups of size 8; gate above up."""
    made = {}
    for name, tensor in state.items():
        if name.endswith("qkv_proj.weight"):
            q, k, v = tensor[:32], tensor[32:48], tensor[48:]
            made |= {name.replace("qkv_proj", f"{p}_proj"): part for p, part in (("q", q), ("k", k), ("v", v))}
        elif name.endswith("gate_up_proj.weight"):
            half = len(tensor) // 2
            made |= {name.replace("gate_up", "gate"): tensor[:half], name.replace("gate_up", "up"): tensor[half:]}
        else:
            made[name] = tensor
    return made


@pytest.mark.parametrize(
    ("kind", "layout", "restated"),
    [("mixtral", "packed", mixtral), ("gpt_oss", "packed", gpt_oss), ("phi3", "fused", phi3)],
)
def test_values_are_those_of_torch(folders, kind, layout, restated):
    expected = restated(stored(kind, layout))
    with netweight.open(folders(kind, layout), canonical=True) as opened:
        assert opened.keys() == expected.keys()
        for name, tensor in expected.items():
            assert opened[name].name == name
            same(opened[name], tensor)
    plain = netweight.open(folders(kind, layout))
    assert plain.keys() == stored(kind, layout).keys()


@layouts
def test_names_and_values_do_not_depend_on_the_layout(folders, kind, layout):
    """Those of the last layout: a BERT may stand below a prefix, which a name alone does not tell from a part of it."""
    last = list(KINDS[kind].layouts)[-1]
    with (
        netweight.open(folders(kind, layout), canonical=True) as one,
        netweight.open(folders(kind, last), canonical=True) as other,
    ):
        found = {name.removeprefix("bert."): tensor for name, tensor in one.items()}
        expected = {name.removeprefix("bert."): tensor for name, tensor in other.items()}
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
            assert found[name].read().tobytes() == tensor.read().tobytes(), name
        assert sum(t.size for t in found.values()) == sum(t.numel() for t in stored(kind, layout).values())


@layouts
def test_a_canonical_model_is_its_own(folders, kind, layout):
    with netweight.open(folders(kind, layout), canonical=True) as opened:
        again = Model(opened)
        assert again.canonical == {name: name for name in opened}
        assert list(again) == list(opened)
        assert all(again.parts(name) == () for name in opened)
        assert all(tensor == opened[name] for name, (tensor, _) in again.items())
