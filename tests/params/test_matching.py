"""Which tensor is which: what is put together of parts, and what is left out, with its reason, where it is not sure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slowness import slowness

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.checkpoint.tensors.rearranged import RearrangedTensor
from netweight.params.matching import Match, match
from netweight.params.model import Model
from netweight.params.pairing import Pairing, align, pair_up

Make = Callable[..., Checkpoint]
Shapes = dict[str, Any]
HIDDEN, INNER, EXPERTS = 8, 6, 3
MIXTRAL = {"model_type": "mixtral", "hidden_size": HIDDEN}
PHI = {"model_type": "phi3", "hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2}
LAYER = "model.layers.0."
QKV, GATE_UP = f"{LAYER}self_attn.qkv_proj.weight", f"{LAYER}mlp.gate_up_proj.weight"
STACKS = f"{LAYER}mlp.experts.gate_up_proj", f"{LAYER}mlp.experts.down_proj"


def dense(prefix: str = "model.", head: str = "lm_head.") -> Shapes:
    """What layouts do not touch."""
    names = {f"{prefix}embed_tokens.weight": (20, HIDDEN), f"{prefix}norm.weight": (HIDDEN,)}
    names |= {f"{prefix}layers.0.{word}_layernorm.weight": (HIDDEN,) for word in ("input", "post_attention")}
    return names | {f"{prefix}layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN), f"{head}weight": (20, HIDDEN)}


def fused() -> Shapes:
    return {QKV: (16, HIDDEN), GATE_UP: (2 * INNER, HIDDEN)}


def apart(**shapes: Any) -> Shapes:
    sizes = {"q": (8, HIDDEN), "k": (4, HIDDEN), "v": (4, HIDDEN)} | shapes
    names = {f"{LAYER}self_attn.{p}_proj.weight": shape for p, shape in sizes.items() if p in "qkv"}
    return names | {f"{LAYER}mlp.{p}_proj.weight": shapes.get(p, (INNER, HIDDEN)) for p in ("gate", "up")}


def packed(experts: int = EXPERTS, prefix: str = "model.", *, turned: bool = False) -> Shapes:
    shapes = [(experts, 2 * INNER, HIDDEN), (experts, HIDDEN, INNER)]
    shapes = [(e, c, r) if turned else (e, r, c) for e, r, c in shapes]
    stacks = {
        f"{prefix}layers.0.mlp.experts.{p}": s for p, s in zip(("gate_up_proj", "down_proj"), shapes, strict=True)
    }
    return stacks | {f"{prefix}layers.0.mlp.gate.weight": (EXPERTS, HIDDEN)}


def single(experts: int = EXPERTS, prefix: str = "model.") -> Shapes:
    place = f"{prefix}layers.0.block_sparse_moe."
    names = {
        f"{place}experts.{e}.w{n}.weight": (HIDDEN, INNER) if n == 2 else (INNER, HIDDEN)
        for e in range(experts)
        for n in (1, 2, 3)
    }
    return names | {f"{place}gate.weight": (EXPERTS, HIDDEN)}


def matched(a: Checkpoint, b: Checkpoint) -> Match:
    """`match`, and what must hold of it whatever the models are: each tensor of the model has its place."""
    found = match(Model(a), Model(b))
    assert found.tensors.keys() == found.sources.keys() <= a.keys()
    for name, sources in found.sources.items():
        assert set(sources) <= b.keys()
        if len(sources) > 1 or isinstance(found.tensors[name], RearrangedTensor):
            assert found.tensors[name].shape == a[name].shape
            assert {part.name for part in found.tensors[name].parts} == set(sources)
            assert name in found.across
    used = {own for sources in found.sources.values() for own in sources}
    assert used | found.left.keys() == b.keys()
    assert not found.unmade.keys() & found.tensors.keys()
    return found


def reasons(found: Pairing) -> dict[str, str]:
    return {entry.name: entry.reason for entry in found.left_out}


# All is paired


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_packed_and_one_by_one(make: Make, swapped: bool, turned: bool) -> None:
    a, b = make("a", dense() | packed(turned=turned), config=MIXTRAL), make("b", dense() | single(), config=MIXTRAL)
    found = pair_up(*((b, a) if swapped else (a, b)))
    assert found.left_out == ()
    assert found.coverage == (1, 1)
    assert matched(a, b).sources[STACKS[1]] == tuple(f"{LAYER}block_sparse_moe.experts.{e}.w2.weight" for e in range(3))


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head."), ("", "lm_head.")],
)
@pytest.mark.parametrize("anchor", ["packed", "single"])
def test_experts_below_a_wrapper(make: Make, prefix: str, head: str, anchor: str) -> None:
    """A text model, and a model with towers whose text model has the other layout: prefixes of names as stored are not
    always those of canonical names.
    """
    towers = {"vision_tower.layers.0.mlp.fc1.weight": (5, 3)}
    sides = [packed, single] if anchor == "packed" else [single, packed]
    text = make("text", dense() | sides[0](), config=MIXTRAL)
    whole = make("whole", dense(prefix, head) | sides[1](prefix=prefix) | towers, config=MIXTRAL)
    found = pair_up(text, whole)
    assert reasons(found) == {"vision_tower.layers.0.mlp.fc1.weight": "missing in A"}
    assert len(found.pairs) == len(text)
    found = pair_up(whole, text)
    assert reasons(found) == {"vision_tower.layers.0.mlp.fc1.weight": "missing in B"}
    matched(text, whole)
    matched(whole, text)


# What is not known for certain


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"model_type": "phi3"},  # no heads
        PHI | {"num_attention_heads": 8, "num_key_value_heads": 2},  # they do not make 16 rows
        PHI | {"model_type": "unheard-of"},
        {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "model_type": 7},
    ],
)
def test_a_projection_whose_parts_are_not_known(make: Make, config: Any) -> None:
    """Its rows are not given to q, k and v by their order, nor is anything else paired by where it stands."""
    base, other = make("a", dense() | {QKV: (16, HIDDEN)}, config=config), make("b", dense() | apart(), config=MIXTRAL)
    for one, two in ((base, other), (other, base)):
        found = pair_up(one, two)
        assert {pair.name for pair in found.pairs} == dense().keys()
        assert all(pair.name_b == pair.name for pair in found.pairs)
        said, query = reasons(found), f"{LAYER}self_attn.q_proj.weight"
        if one is base:
            assert said[QKV] == "missing in B: config.json does not say how to take it apart"
            assert said[query] == "missing in A"
        else:
            assert said[QKV] == "missing in A"
            assert said[query] == f"missing in B: it may be in '{QKV}', and config.json does not say how"
        assert {n for n in reasons(found) if n != QKV} == apart().keys()
        assert found.coverage.a < 1 > found.coverage.b
        assert matched(one, two).across == []


def test_halves_that_are_not_known(make: Make) -> None:
    """Which half of a stack is the gate: families differ, and an unknown one is not guessed."""
    for config in (MIXTRAL | {"model_type": "unheard-of"}, {"hidden_size": HIDDEN, "model_type": "unheard-of"}):
        found = pair_up(make("a", dense() | packed(), config=config), make("b", dense() | single(), config=MIXTRAL))
        said = reasons(found)
        assert said[STACKS[0]] == "missing in B"
        assert STACKS[1] not in said  # each expert's whole matrix: its shape and the model's width say how it lies
        assert {n for n in said if ".w2." in n} == set()
        assert len([n for n in said if ".w1." in n or ".w3." in n]) == 2 * EXPERTS


def test_square_experts_of_an_unknown_family(make: Make) -> None:
    """Nothing says whether they are stored turned: shapes are equal either way, and the values would be another's."""
    place = f"{LAYER}mlp.experts."
    stack = make("a", dense() | {f"{place}down_proj": (2, 8, 8)}, config={"model_type": "unheard-of", "hidden_size": 8})
    apart = make("b", dense() | {f"{place}{e}.down_proj.weight": (8, 8) for e in range(2)}, config={"hidden_size": 8})
    assert reasons(pair_up(stack, apart)) == {
        f"{place}down_proj": "missing in B",
        f"{place}0.down_proj.weight": "missing in A",
        f"{place}1.down_proj.weight": "missing in A",
    }
    known = make("a", {name: tensor.shape for name, tensor in stack.items()}, config=MIXTRAL)
    assert reasons(pair_up(known, apart)) == {}


# Parts that do not make up the whole


def test_parts_of_several_types(make: Make) -> None:
    """Of floats of at most 32 bits the fused one is float32."""
    base = make("a", dense() | fused(), config=PHI)
    found = pair_up(base, make("b", dense() | apart(k=("BF16", (4, HIDDEN))), config=MIXTRAL))
    assert reasons(found) == {}
    assert next(pair.b.dtype.name for pair in found.pairs if pair.name == QKV) == "F32"
    parts = apart(k=("F64", (4, HIDDEN)))
    found = pair_up(base, make("c", dense() | parts, config=MIXTRAL))
    said = reasons(found)
    assert said.pop(QKV) == "missing in B: its parts are of the types F32, F64"
    assert said == {name: "missing in A" for name in parts if "self_attn" in name}
    assert {pair.name for pair in found.pairs} == {*dense(), GATE_UP}
    all_half = {name: ("BF16", shape) for name, shape in apart().items()}  # as long as it is one
    assert reasons(pair_up(base, make("b", dense() | all_half, config=MIXTRAL))) == {}


@pytest.mark.parametrize("dtype", ["I8", "F4", "BOOL"])
def test_parts_that_are_no_numbers_of_whole_bytes(make: Make, dtype: str) -> None:
    parts = {name: (dtype, shape) for name, shape in apart().items()}
    base = make("a", dense() | fused(), config=PHI)
    said = reasons(pair_up(base, make("b", dense() | parts, config=MIXTRAL)))
    assert {said[name] for name in fused()} == {f"missing in B: its parts are of the types {dtype}"}
    quantised = make("a", dense() | {name: (dtype, shape) for name, shape in fused().items()}, config=PHI)
    said = reasons(pair_up(quantised, make("b", dense() | apart(), config=MIXTRAL)))
    assert all(said[name].startswith("missing in B: its parts are of the types ") for name in fused())


def test_a_part_that_is_missing(make: Make) -> None:
    base = make("a", dense() | fused(), config=PHI)
    held = {name: shape for name, shape in apart().items() if ".k_proj." not in name and ".up_proj." not in name}
    said = reasons(pair_up(base, make("b", dense() | held, config=MIXTRAL)))
    assert said[QKV] == f"missing in B: its part '{LAYER}self_attn.k_proj.weight' is missing"
    assert said[GATE_UP] == f"missing in B: its part '{LAYER}mlp.up_proj.weight' is missing"
    assert {name for name in said if said[name] == "missing in A"} == held.keys()
    held = {name: shape for name, shape in held.items() if ".v_proj." not in name}
    said = reasons(pair_up(base, make("b", dense() | held, config=MIXTRAL)))
    assert said[QKV] == f"missing in B: its part '{LAYER}self_attn.k_proj.weight' and 1 more is missing"


def test_a_part_of_another_shape(make: Make) -> None:
    """More key heads than the base has: q fits, k and v do not."""
    parts = apart(k=(8, HIDDEN), v=(8, HIDDEN))
    base = make("a", dense() | fused(), config=PHI)
    said = reasons(pair_up(base, make("b", dense() | parts, config=MIXTRAL)))
    assert said[QKV] == f"missing in B: its part '{LAYER}self_attn.k_proj.weight' has shape [8, 8], expected [4, 8]"
    assert said[f"{LAYER}self_attn.q_proj.weight"] == "missing in A"
    turned = apart(q=(HIDDEN, 8), k=(HIDDEN, 4), v=(HIDDEN, 4))
    said = reasons(pair_up(base, make("b", dense() | turned, config=MIXTRAL)))
    assert said[QKV].endswith("k_proj.weight' has shape [8, 4], expected [4, 8]")


def test_parts_that_another_tensor_has_already(make: Make) -> None:
    """A base that holds both: what is paired by name is no part of anything else."""
    base = make("a", dense() | fused() | apart(), config=PHI)
    model = make("b", dense() | apart(), config=MIXTRAL)
    found = pair_up(base, model)
    assert {pair.name for pair in found.pairs} == {*dense(), *apart()}
    assert reasons(found) == dict.fromkeys(fused(), "missing in B")


# Stacks of other sizes


def test_a_stack_with_more_experts_than_the_base_has_one_by_one(make: Make) -> None:
    base, model = make("base", dense() | single(2), config=MIXTRAL), make("b", dense() | packed(4), config=MIXTRAL)
    found = matched(base, model)
    inside = f"{LAYER}mlp.experts."
    assert found.left == {
        STACKS[0]: tuple(f"{inside}{e}.{p}_proj.weight" for e in (2, 3) for p in ("gate", "up")),
        STACKS[1]: tuple(f"{inside}{e}.down_proj.weight" for e in (2, 3)),
    }
    pairing = pair_up(base, model)
    assert len(pairing.pairs) == len(base)
    assert pairing.only_in_a == ()
    assert pairing.only_in_b == (*found.left[STACKS[0]], *found.left[STACKS[1]])
    whole = sum(t.size for t in model.values())
    assert pairing.coverage == (1, 1 - 2 * 3 * HIDDEN * INNER / whole)
    aligned = align(base, [model])
    assert aligned.skipped == (tuple(Skipped(name, "missing in base base") for name in pairing.only_in_b),)


def test_a_stack_with_more_experts_than_the_model_has_one_by_one(make: Make) -> None:
    """A stack is one parameter: where an expert lacks, it is left out, and so are those that are there."""
    base, model = make("a", dense() | packed(4), config=MIXTRAL), make("b", dense() | single(2), config=MIXTRAL)
    assert matched(base, model).left.keys() == {n for n in single(2) if ".experts." in n}
    found = pair_up(base, model)
    said = reasons(found)
    inside = f"{LAYER}mlp.experts."
    assert found.only_in_a == STACKS
    assert said[STACKS[0]] == f"missing in B: its part '{inside}2.gate_proj.weight' and 3 more is missing"
    assert said[STACKS[1]] == f"missing in B: its part '{inside}2.down_proj.weight' and 1 more is missing"
    assert set(found.only_in_b) == {n for n in single(2) if ".experts." in n}


def test_two_stacks_of_other_sizes(make: Make) -> None:
    base, model = make("a", dense() | packed(4), config=MIXTRAL), make("b", dense() | packed(2), config=MIXTRAL)
    said = reasons(pair_up(base, model))
    assert said == {
        STACKS[0]: "shape [4, 12, 8] in A, [2, 12, 8] in B",
        STACKS[1]: "shape [4, 8, 6] in A, [2, 8, 6] in B",
    }
    turned = pair_up(model, base)  # its experts are there, by number
    assert set(reasons(turned).values()) == {"missing in A"}
    assert set(turned.only_in_b) == {
        f"{LAYER}mlp.experts.{e}.{p}_proj.weight" for e in (2, 3) for p in ("gate", "up", "down")
    }


def test_two_stacks_that_are_turned_against_each_other(make: Make) -> None:
    base, model = (
        make("a", dense() | packed(), config=MIXTRAL),
        make("b", dense() | packed(turned=True), config=MIXTRAL),
    )
    found = pair_up(base, model)
    assert found.left_out == ()
    assert {pair.b.shape for pair in found.pairs if pair.name in STACKS} == {(3, 12, 8), (3, 8, 6)}
    matched(base, model)


# Names


def test_names_that_collide(make: Make) -> None:
    """Two names of one model that would become one are kept, and paired by what they are called."""
    gate, router = f"{LAYER}block_sparse_moe.gate.weight", f"{LAYER}mlp.router.weight"
    both = make("a", dense() | {gate: (3, HIDDEN), router: (4, HIDDEN)})
    one = make("b", dense() | {router: (4, HIDDEN)})
    found = pair_up(both, one)
    assert {pair.name for pair in found.pairs} == {*dense(), router}
    assert reasons(found) == {gate: "missing in B"}
    other = make("b", dense() | {f"{LAYER}mlp.gate.weight": (4, HIDDEN)})  # either might be meant: neither is taken
    assert reasons(pair_up(both, other)) == {
        gate: "missing in B", router: "missing in B", f"{LAYER}mlp.gate.weight": "missing in A",
    }  # fmt: skip


def test_a_model_that_holds_its_experts_twice(make: Make) -> None:
    """Packed and one by one: what has the base's names is taken, the rest is listed."""
    twice = make("b", dense() | single() | packed(), config=MIXTRAL)
    for base in (make("a", dense() | single(), config=MIXTRAL), make("a", dense() | packed(), config=MIXTRAL)):
        found = pair_up(base, twice)
        assert all(pair.name == pair.name_b for pair in found.pairs)
        assert len(found.pairs) == len(base)
        assert set(found.only_in_b) == twice.keys() - base.keys()
        assert matched(base, twice).across == []


def test_a_hundred_thousand_tensors(make: Make) -> None:
    """Stacks against experts one by one, in time that is linear in their number."""
    stacks, parts = {}, {}
    for layer in range(130):
        place = f"model.layers.{layer}."
        stacks[f"{place}mlp.experts.gate_up_proj"], stacks[f"{place}mlp.experts.down_proj"] = (256, 12, 8), (256, 8, 6)
        for e in range(256):
            parts |= {
                f"{place}block_sparse_moe.experts.{e}.w{n}.weight": (8, 6) if n == 2 else (6, 8) for n in (1, 2, 3)
            }
    a, b = make("a", dense() | stacks, config=MIXTRAL), make("b", dense() | parts, config=MIXTRAL)
    assert len(b) > 99_000
    start = time.thread_time()
    found = match(Model(a), Model(b))
    assert time.thread_time() - start < 40 * slowness()  # 5 s usually
    assert (len(found.tensors), found.left, found.unmade) == (len(a), {}, {})


PIECES = st.sampled_from([*dense(), *fused(), *apart(), *packed(), *single(), *packed(prefix="model.language_model.")])
SIZES = {**dense(), **fused(), **apart(), **packed(), **single(), **packed(prefix="model.language_model.")}
HELD = st.dictionaries(PIECES, st.sampled_from([None, (2, 12, 8), (8, 6), (8,), ()]), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HELD, HELD, st.sampled_from([MIXTRAL, PHI, None]), st.sampled_from([MIXTRAL, PHI, None]))
def test_any_two_models(make: Make, first: Shapes, second: Shapes, config_a: Any, config_b: Any) -> None:
    """Every tensor is paired, left, or both in part; and never raises."""
    a, b = (
        make(ref, {name: SIZES[name] if shape is None else shape for name, shape in held.items()}, config=config)
        for ref, held, config in (("a", first, config_a), ("b", second, config_b))
    )
    found = matched(a, b)
    assert {name for name in a if name in b} <= found.tensors.keys()
