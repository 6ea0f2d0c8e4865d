"""The matrices and biases inside a tensor under the names of their own: how stacks are turned, and what is cut how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netweight.checkpoint.matrix import Part
from netweight.params.layouts.fused import canonical_parts, layout_of

HIDDEN, INNER, EXPERTS = 8, 6, 3
PLACE, ATTENTION = "model.layers.0.mlp.experts.", "model.layers.0.self_attn."
GATE_UP, DOWN = f"{PLACE}gate_up_proj", f"{PLACE}down_proj"
SIZED = {"hidden_size": 12, "num_attention_heads": 6}  # heads of 2


def cut(name: str, values: np.ndarray, config: Any, shapes: Any = None) -> dict[str, np.ndarray]:
    """{canonical name: the matrix, or the vector of a bias}."""
    found = {}
    for named in canonical_parts(name, values.shape, layout_of(shapes or {name: values.shape}, config)):
        part: Part = named.part
        cells = values.reshape(-1)[part.start : part.start + part.region_rows * part.region_cols]
        cells = cells.reshape(part.region_rows, part.region_cols)
        cells = cells[np.concatenate(part.row_runs)][:, np.concatenate(part.col_runs)]
        found[named.name] = (cells.T if part.transposed else cells).squeeze(0 if named.name.endswith("bias") else ())
    return found


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def stacked(values: np.ndarray, last: str, *, turned: bool, takes_turns: bool = False) -> dict[str, np.ndarray]:
    """What a stack holds, by numpy."""
    made = {}
    for e, matrix in enumerate(values):
        whole = matrix.T if turned else matrix  # [out, in]
        if last == "down_proj":
            made[f"{PLACE}{e}.down_proj.weight"] = whole
            continue
        half = len(whole) // 2
        gate, up = (whole[0::2], whole[1::2]) if takes_turns else (whole[:half], whole[half:])
        made |= {f"{PLACE}{e}.gate_proj.weight": gate, f"{PLACE}{e}.up_proj.weight": up}
    return made


# How a stack is turned


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("model_type", ["mixtral", "llama4", "gpt_oss", "qwen3_vl_moe"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_width_of_the_model_says_how_a_stack_is_turned(turned: bool, model_type: str, nested: bool) -> None:
    """Whatever the family usually does."""
    config = {"model_type": model_type, "hidden_size": HIDDEN}
    if nested:
        config = {"model_type": model_type, "hidden_size": 999, "text_config": config}
    gate_up, down = numbers(EXPERTS, 2 * INNER, HIDDEN), numbers(EXPERTS, HIDDEN, INNER)
    if turned:
        gate_up, down = (x.transpose(0, 2, 1).copy() for x in (gate_up, down))
    check(
        cut(GATE_UP, gate_up, config),
        stacked(gate_up, "gate_up_proj", turned=turned, takes_turns=model_type == "gpt_oss"),
    )
    check(cut(DOWN, down, config), stacked(down, "down_proj", turned=turned))


@pytest.mark.parametrize(
    ("model_type", "turned"), [("mixtral", False), ("olmoe", False), ("llama4", True), ("gpt_oss", True)]
)
@pytest.mark.parametrize("hidden", [12, None, 7])
def test_the_family_says_it_where_the_width_does_not(model_type: str, turned: bool, hidden: int | None) -> None:
    """Both sides are as wide as the model, or the config has no width, or one that fits neither."""
    config = {"model_type": model_type} | ({"hidden_size": hidden} if hidden else {})
    square = numbers(2, 12, 12)
    check(
        cut(GATE_UP, square, config),
        stacked(square, "gate_up_proj", turned=turned, takes_turns=model_type == "gpt_oss"),
    )
    check(cut(DOWN, square, config), stacked(square, "down_proj", turned=turned))


def test_an_unknown_family() -> None:
    config = {"model_type": "unheard-of", "hidden_size": HIDDEN}
    down = numbers(2, HIDDEN, INNER)
    check(cut(DOWN, down, config), stacked(down, "down_proj", turned=False))
    turned = numbers(2, INNER, HIDDEN)
    check(cut(DOWN, turned, config), stacked(turned, "down_proj", turned=True))
    gate_up = numbers(2, 2 * INNER, HIDDEN)  # its halves are not told apart
    check(cut(GATE_UP, gate_up, config), {f"{PLACE}{e}.gate_up_proj.weight": gate_up[e] for e in (0, 1)})
    assert cut(DOWN, numbers(2, 8, 8), config) == {}
    assert cut(GATE_UP, numbers(2, 8, 8), None) == {}


@pytest.mark.parametrize("shape", [(0, 8, 6), (2, 0, 6), (2, 8, 0), (8, 6), (2, 2, 8, 6), ()])
def test_what_is_no_stack(shape: tuple[int, ...]) -> None:
    assert cut(DOWN, numbers(*shape), {"model_type": "mixtral", "hidden_size": 8}) == {}


def test_halves_need_an_even_number() -> None:
    config = {"model_type": "mixtral", "hidden_size": HIDDEN}
    odd = numbers(2, 7, HIDDEN)
    check(cut(GATE_UP, odd, config), {f"{PLACE}{e}.gate_up_proj.weight": odd[e] for e in (0, 1)})


# Biases


@pytest.mark.parametrize("name", [f"{GATE_UP}_bias", f"{GATE_UP}.bias"])
def test_biases_of_a_stack(name: str) -> None:
    """gpt-oss: one row an expert, gate and up in turns; [experts, out] however the weights are turned."""
    config = {"model_type": "gpt_oss", "hidden_size": HIDDEN}
    both = numbers(2, 2 * INNER)
    expected = {f"{PLACE}{e}.{p}_proj.bias": both[e, k::2] for e in (0, 1) for k, p in enumerate(("gate", "up"))}
    check(cut(name, both, config), expected)
    down = numbers(2, HIDDEN)
    check(cut(f"{DOWN}_bias", down, config), {f"{PLACE}{e}.down_proj.bias": down[e] for e in (0, 1)})
    unknown = {"model_type": "unheard-of"}
    check(cut(name, both, unknown), {f"{PLACE}{e}.gate_up_proj.bias": both[e] for e in (0, 1)})


def test_an_expert_that_holds_gate_and_up() -> None:
    """gpt-oss' experts as linear layers: rows take turns, as they do in the bias."""
    config = {"model_type": "gpt_oss", "hidden_size": HIDDEN}
    weight, bias = numbers(2 * INNER, HIDDEN), numbers(2 * INNER)
    head = f"{PLACE}31."
    check(
        cut(f"{head}gate_up_proj.weight", weight, config),
        {f"{head}gate_proj.weight": weight[0::2], f"{head}up_proj.weight": weight[1::2]},
    )
    check(
        cut(f"{head}gate_up_proj.bias", bias, config),
        {f"{head}gate_proj.bias": bias[0::2], f"{head}up_proj.bias": bias[1::2]},
    )
    assert cut(f"{head}down_proj.bias", bias, config) == {}


def test_biases_of_projections_one_after_another() -> None:
    bias = numbers(20)
    config = {**SIZED, "model_type": "phi3", "num_key_value_heads": 2}
    q, k, v = np.split(bias, [12, 16])
    expected = {f"{ATTENTION}{p}_proj.bias": x for p, x in (("q", q), ("k", k), ("v", v))}
    check(cut(f"{ATTENTION}qkv_proj.bias", bias, config), expected)
    both = numbers(40)
    expected = {f"model.layers.0.mlp.{p}_proj.bias": x for p, x in (("gate", both[:20]), ("up", both[20:]))}
    check(cut("model.layers.0.mlp.gate_up_proj.bias", both, config), expected)
    assert cut(f"{ATTENTION}qkv_proj.bias", numbers(26), config) == {}
    assert cut(f"{ATTENTION}qkv_proj.bias", bias, {"model_type": "phi3"}) == {}
    assert cut(f"{ATTENTION}o_proj.bias", bias, config) == {}


@pytest.mark.parametrize(
    ("model_type", "place"), [("gpt_neox", "gpt_neox.layers.0.attention."), ("bloom", "h.0.self_attention.")]
)
def test_biases_head_by_head(model_type: str, place: str) -> None:
    weight, bias = numbers(36, 12), numbers(36)
    config = {**SIZED, "model_type": model_type}
    for leaf, values in (("weight", weight), ("bias", bias)):
        by_head = values.reshape(6, 3, 2, -1)
        expected = {
            f"{place}{p}_proj.{leaf}": by_head[:, n].reshape(12, *values.shape[1:]) for n, p in enumerate("qkv")
        }
        check(cut(f"{place}query_key_value.{leaf}", values, config), expected)


def test_biases_of_gpt2() -> None:
    """Its weights are [in, out], its biases as anywhere."""
    names = {"h.0.attn.c_attn.weight": (12, 36), "h.0.attn.c_attn.bias": (36,), "h.0.mlp.c_fc.weight": (12, 48)}
    weight, bias = numbers(12, 36), numbers(36)
    expected = {f"h.0.attn.{p}_proj.weight": weight[:, 12 * n : 12 * n + 12].T for n, p in enumerate("qkv")}
    check(cut("h.0.attn.c_attn.weight", weight, {**SIZED, "model_type": "gpt2"}, names), expected)
    expected = {f"h.0.attn.{p}_proj.bias": bias[12 * n : 12 * n + 12] for n, p in enumerate("qkv")}
    check(cut("h.0.attn.c_attn.bias", bias, {**SIZED, "model_type": "gpt2"}, names), expected)
    assert cut("h.0.attn.bias", numbers(1, 1, 8, 8), {**SIZED, "model_type": "gpt2"}, names) == {}  # a mask


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{ATTENTION}qkv_proj.weight_scale", (20, 1)),
        (f"{ATTENTION}qkv_proj.lora_A.weight", (20, 12)),
        (f"{ATTENTION}rotary_emb.inv_freq", (20,)),
        ("vision_tower.layers.0.self_attn.qkv_proj.weight", (20, 12)),  # the text model's heads are not its own
        ("vision_tower.layers.0.self_attn.qkv_proj.bias", (20,)),
        (f"{ATTENTION}kv_a_proj_with_mqa.weight", (20, 12)),
        ("model.norm.weight", (20,)),
        ("", (20, 12)),
        ("weight", (20, 12)),
        ("bias", (20,)),
        (".", (20,)),
        ("experts.weight", (2, 4, 6)),
    ],
)
def test_what_is_not_cut(name: str, shape: tuple[int, ...]) -> None:
    config = {**SIZED, "model_type": "phi3", "num_key_value_heads": 2}
    assert cut(name, numbers(*shape), config) == {}


def test_a_language_model_inside_another_model() -> None:
    """The halves are those of the inner model's family where the outer type is not known; else those of the outer's."""
    gate_up = numbers(EXPERTS, 2 * INNER, HIDDEN)
    inner = {"model_type": "mixtral", "hidden_size": HIDDEN}
    for outer, known in (("llava", True), ("unheard-of", True), ("gpt2", False)):
        found = cut(GATE_UP, gate_up, {"model_type": outer, "text_config": inner})
        expected = {f"{PLACE}{e}.gate_proj.weight" for e in range(EXPERTS)}
        assert (expected <= found.keys()) is known
    assert not any(".gate_proj." in n for n in cut(GATE_UP, gate_up, {"model_type": "llava", "text_config": 7}))
