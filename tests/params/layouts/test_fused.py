"""How fused tensors are cut, against the reshapes that the models' own code does."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.params.layouts.fused import layout_of, pieces
from netweight.params.role import classify

HIDDEN, HEADS, SIZE = 12, 6, 2
BASE = {"hidden_size": HIDDEN, "num_attention_heads": HEADS}


def cut(name: str, weight: np.ndarray, config: dict, shapes: dict | None = None) -> dict[str, np.ndarray]:
    layout = layout_of(shapes or {name: weight.shape}, config)
    found = {}
    for piece in pieces(classify(name, weight.shape), weight.shape, layout):
        part = piece.part
        cells = weight.reshape(-1)[part.start : part.start + part.region_rows * part.region_cols]
        cells = cells.reshape(part.region_rows, part.region_cols)
        cells = cells[np.concatenate(part.row_runs)][:, np.concatenate(part.col_runs)]
        found[part.label] = cells.T if part.transposed else cells
    return found


def weight(rows: int, cols: int = HIDDEN) -> np.ndarray:
    return np.arange(rows * cols, dtype=np.float32).reshape(rows, cols)


def check(found: dict[str, np.ndarray], whole: np.ndarray, **parts: np.ndarray) -> None:
    assert list(found) == ["", *parts]
    np.testing.assert_array_equal(found[""], whole)
    for role, expected in parts.items():
        np.testing.assert_array_equal(found[role], expected, err_msg=role)


def test_phi3_keeps_queries_keys_and_values_one_after_another() -> None:
    w = weight((HEADS + 2 * 2) * SIZE)
    config = {**BASE, "model_type": "phi3", "num_key_value_heads": 2}
    q, k, v = np.split(w, [HEADS * SIZE, (HEADS + 2) * SIZE])
    check(cut("model.layers.0.self_attn.qkv_proj.weight", w, config), w, q_proj=q, k_proj=k, v_proj=v)
    w = weight(40)
    found = cut("model.layers.0.mlp.gate_up_proj.weight", w, config)
    check(found, w, gate_proj=w[:20], up_proj=w[20:])


@pytest.mark.parametrize("model_type", ["gpt_neox", "bloom"])
def test_neox_and_bloom_keep_them_head_by_head(model_type: str) -> None:
    w = weight(3 * HIDDEN)
    name = {"gpt_neox": "gpt_neox.layers.0.attention", "bloom": "transformer.h.0.self_attention"}[model_type]
    q, k, v = (w.reshape(HEADS, 3, SIZE, HIDDEN)[:, i].reshape(-1, HIDDEN) for i in range(3))
    found = cut(f"{name}.query_key_value.weight", w, {**BASE, "model_type": model_type})
    check(found, w, q_proj=q, k_proj=k, v_proj=v)


def test_falcon_in_its_three_ways() -> None:
    name = "transformer.h.0.self_attention.query_key_value.weight"
    w = weight((HEADS + 2) * SIZE)
    config = {**BASE, "model_type": "falcon", "multi_query": True, "new_decoder_architecture": False}
    q, k, v = np.split(w, [HEADS * SIZE, (HEADS + 1) * SIZE])
    check(cut(name, w, config), w, q_proj=q, k_proj=k, v_proj=v)
    w = weight((HEADS + 2 * 2) * SIZE)
    config = {**BASE, "model_type": "falcon", "num_kv_heads": 2, "new_decoder_architecture": True}
    grouped = w.reshape(2, HEADS // 2 + 2, SIZE, HIDDEN)
    q, k, v = (grouped[:, part].reshape(-1, HIDDEN) for part in (slice(0, 3), slice(3, 4), slice(4, 5)))
    check(cut(name, w, config), w, q_proj=q, k_proj=k, v_proj=v)
    w = weight(3 * HIDDEN)
    config = {**BASE, "model_type": "falcon", "multi_query": False, "new_decoder_architecture": False}
    q, k, v = (w.reshape(HEADS, 3, SIZE, HIDDEN)[:, i].reshape(-1, HIDDEN) for i in range(3))
    check(cut(name, w, config), w, q_proj=q, k_proj=k, v_proj=v)
    both = config | {"text_config": {"multi_query": True}}  # the model's own word comes first
    check(cut(name, w, both), w, q_proj=q, k_proj=k, v_proj=v)


def test_gpt2_is_stored_in_by_out() -> None:
    w = weight(HIDDEN, 3 * HIDDEN)
    name = "h.0.attn.c_attn.weight"
    shapes = {name: w.shape, "h.0.mlp.c_fc.weight": (HIDDEN, 48), "h.0.attn.c_proj.weight": (HIDDEN, HIDDEN)}
    q, k, v = np.split(w, 3, axis=1)
    check(cut(name, w, {"model_type": "gpt2"}, shapes), w.T, q_proj=q.T, k_proj=k.T, v_proj=v.T)
    square = weight(HIDDEN)
    check(cut("h.0.attn.c_proj.weight", square, {"model_type": "gpt2"}, shapes), square.T)
    linear = weight(3 * HIDDEN)  # the same names over nn.Linear
    q, k, v = np.split(linear, 3)
    found = cut("transformer.h.0.attn.c_attn.weight", linear, {"model_type": "gpt2"})
    check(found, linear, q_proj=q, k_proj=k, v_proj=v)


def test_experts_are_matrices_of_their_own() -> None:
    w = np.arange(3 * 8 * 5, dtype=np.float32).reshape(3, 8, 5)
    found = cut("model.layers.0.mlp.experts.gate_up_proj", w, {"model_type": "qwen3_moe"})
    assert list(found) == [f"{e}{part}" for e in range(3) for part in ("", ".gate_proj", ".up_proj")]
    for e in range(3):
        np.testing.assert_array_equal(found[f"{e}"], w[e])
        np.testing.assert_array_equal(found[f"{e}.gate_proj"], w[e][:4])
        np.testing.assert_array_equal(found[f"{e}.up_proj"], w[e][4:])
    found = cut("model.layers.0.mlp.experts.gate_up_proj", w.reshape(3, 5, 8), {"model_type": "gpt_oss"})
    for e in range(3):
        np.testing.assert_array_equal(found[f"{e}"], w.reshape(3, 5, 8)[e].T)
        np.testing.assert_array_equal(found[f"{e}.gate_proj"], w.reshape(3, 5, 8)[e][:, ::2].T)
        np.testing.assert_array_equal(found[f"{e}.up_proj"], w.reshape(3, 5, 8)[e][:, 1::2].T)
    found = cut("model.layers.0.mlp.experts.down_proj", w, {"model_type": "qwen3_moe"})
    assert list(found) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        ("model.layers.0.self_attn.qkv_proj.weight", (24, 12), {"model_type": "phi3"}),  # no heads said
        ("model.layers.0.self_attn.qkv_proj.weight", (26, 12), {**BASE, "model_type": "phi3"}),  # they do not fit
        ("model.layers.0.self_attn.qkv_proj.weight", (36, 12), {**BASE, "model_type": "unheard-of"}),
        ("model.layers.0.self_attn.qkv_proj.bias", (36,), {**BASE, "model_type": "phi3"}),
        ("model.layers.0.self_attn.q_proj.weight", (12, 12), {**BASE, "model_type": "llama"}),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (36, 12), {**BASE, "model_type": "deepseek_v3"}),
    ],
)
def test_what_is_not_certain_is_not_cut(name: str, shape: tuple[int, ...], config: dict) -> None:
    found = pieces(classify(name, shape), shape, layout_of({name: shape}, config))
    assert [piece.part.label for piece in found] == [""]
