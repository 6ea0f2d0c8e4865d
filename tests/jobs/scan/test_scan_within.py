"""What lies inside matrices, in whole scans: codes, heads in every layout, rows of tokens; and beside other methods."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

import netweight

WIDTH, HEADS, LAYERS = 128, 8, 3
SIZE = WIDTH // HEADS


def written(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(w) for name, w in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def llama(**changed):
    """A small Llama with 8 heads and 4 of keys and values."""
    tensors = {"model.embed_tokens.weight": normal(0, 700, WIDTH), "lm_head.weight": normal(1, 700, WIDTH)}
    for i in range(LAYERS):
        for j, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
            rows = WIDTH // 2 if name in ("k_proj", "v_proj") else WIDTH
            tensors[f"model.layers.{i}.self_attn.{name}.weight"] = normal(10 * i + j + 2, rows, WIDTH)
        tensors[f"model.layers.{i}.mlp.up_proj.weight"] = normal(100 + i, 256, WIDTH)
    return tensors | changed


CONFIG = {
    "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2,
}  # fmt: skip


def within(result, name):
    return result[name]["within"]


def test_heads_are_those_of_config_and_told_by_number(tmp_path):
    name = "model.layers.1.self_attn.{}.weight"
    q, k, o = (llama()[name.format(part)].copy() for part in ("q_proj", "k_proj", "o_proj"))
    q[3 * SIZE : 4 * SIZE] *= 100
    k[2 * SIZE : 3 * SIZE] = 0
    o[:, 5 * SIZE : 6 * SIZE] /= 50
    model = written(
        tmp_path / "m", llama(**{name.format("q_proj"): q, name.format("k_proj"): k, name.format("o_proj"): o}), CONFIG
    )
    result = netweight.scan(model, methods="within")
    found = within(result, name.format("q_proj"))
    assert (found["heads"], found["head_scale_at"], found["zero_heads"]) == (HEADS, 3, 0)
    assert found["head_scale"] == pytest.approx(100, rel=0.1)
    found = within(result, name.format("k_proj"))
    assert (found["heads"], found["zero_heads"], found["head_scale"]) == (HEADS // 2, 1, math.inf)
    found = within(result, name.format("o_proj"))
    assert (found["heads"], found["head_scale_at"]) == (HEADS, 5)
    assert found["head_scale"] == pytest.approx(50, rel=0.1)
    assert within(result, "model.layers.1.mlp.up_proj.weight")["heads"] is None
    said = {(f.parameter, f.check): f.said for f in result.health().findings if "head" in f.check}
    assert said.keys() == {
        (name.format("q_proj"), "head_scale"),
        (name.format("k_proj"), "zero_heads"),
        (name.format("o_proj"), "head_scale"),
    }
    assert said[name.format("q_proj"), "head_scale"].endswith("x, head 3")


def test_without_config_no_heads_are_told(tmp_path):
    save_file(llama(), tmp_path / "model.safetensors")
    result = netweight.scan(tmp_path / "model.safetensors", methods="within")
    assert within(result, "model.layers.0.self_attn.q_proj.weight")["heads"] is None


def test_a_head_of_noise_among_heads_with_directions(tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    q = normal(5, WIDTH, WIDTH)
    for head in range(HEADS):
        if head != 6:
            q[head * SIZE : (head + 1) * SIZE] += 0.1 * np.outer(normal(head, SIZE), normal(50 + head, WIDTH)) / 0.002
    result = netweight.scan(written(tmp_path / "m", llama(**{name: q}), CONFIG), methods="within")
    found = within(result, name)
    assert (found["head_noise_at"], round(found["head_noise"], 1)) == (6, 1.0)
    assert found["head_noise_median"] > 1.25
    assert [f.other for f in result.health().findings if f.check == "head_noise"] == ["head 6"]


def test_heads_inside_gpt2s_fused_projection(tmp_path):
    """Stored [in, out], all of q, then k, then v."""
    tensors = {f"h.{i}.attn.c_attn.weight": normal(i, WIDTH, 3 * WIDTH) for i in range(5)}
    tensors |= {f"h.{i}.attn.c_proj.weight": normal(20 + i, WIDTH, WIDTH) for i in range(5)}
    tensors["h.4.attn.c_attn.weight"][:, WIDTH + 2 * SIZE : WIDTH + 3 * SIZE] *= 30  # head 2 of k
    tensors["h.4.attn.c_proj.weight"][4 * SIZE : 5 * SIZE] *= 30  # head 4, whose inputs are rows
    tensors["h.3.attn.c_attn.weight"][:, 2 * WIDTH :] *= 90  # all of v
    config = {"model_type": "gpt2", "n_embd": WIDTH, "n_head": HEADS}
    result = netweight.scan(written(tmp_path / "m", tensors, config), methods=["within", "basic_stats"])
    assert within(result, "h.4.attn.c_attn.weight[k_proj]")["head_scale_at"] == 2
    assert within(result, "h.4.attn.c_proj.weight")["head_scale_at"] == 4
    assert within(result, "h.4.attn.c_attn.weight[v_proj]")["head_scale"] < 2
    faults = {(f.parameter, f.check) for f in result.health().findings if f.level != "info"}
    assert faults == {
        ("h.4.attn.c_attn.weight[k_proj]", "head_scale"), ("h.4.attn.c_proj.weight", "head_scale"),
        ("h.3.attn.c_attn.weight[v_proj]", "scale"),
    }  # fmt: skip


def test_codes_in_plain_floats_and_none_in_packed_ones(tmp_path):
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    w = normal(7, 256, WIDTH)
    rows = np.abs(w).max(axis=1, keepdims=True) / 127
    tensors = llama(**{
        names[0]: (np.rint(w / rows) * rows).astype(ml_dtypes.bfloat16),
        names[1]: dequantize(quantize(w, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0),
        names[2]: w.astype(ml_dtypes.float8_e4m3fn).astype(ml_dtypes.bfloat16),
    })  # fmt: skip
    result = netweight.scan(written(tmp_path / "m", tensors, CONFIG), methods="within")
    assert [within(result, name)["code_group"] for name in names] == ["row", "32 columns", ""]
    assert within(result, names[2])["significant_bits"] == 4
    said = {f.parameter: f.said for f in result.health().findings if f.check in ("code", "bits")}
    assert said[names[1]] == "rounded to the values of a code: 14 values, one scale for 32 columns of a row"
    assert said[names[2]] == "significant bits below 5: 4"
    packed = {"weight": np.rint(w / rows).astype(np.int8), "weight_scale": rows.astype(np.float32)}
    stored = {f"model.layers.0.mlp.up_proj.{key}": value for key, value in packed.items()}
    quantised = {
        **CONFIG,
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {
                "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
            },
        },
    }  # fmt: skip
    rest = {name: w for name, w in llama().items() if name != names[0]}
    packed_model = netweight.scan(
        written(tmp_path / "q", rest | stored, quantised), methods="within", include=[names[0]]
    )
    assert not within(packed_model, names[0])["code_group"]
    assert packed_model.health().findings == ()


def test_rows_of_tokens_in_the_table_and_the_head(tmp_path):
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(700, 24)) @ rng.normal(size=(24, WIDTH)) * 0.01
    table = (directions + rng.normal(0, 0.01, (700, WIDTH))).astype(np.float32)
    head = table[:, ::-1].copy()
    table[650:] = rng.normal(0, 0.02, (50, WIDTH))
    head[600:] = 0
    tensors = llama(**{"model.embed_tokens.weight": table, "lm_head.weight": head})
    result = netweight.scan(written(tmp_path / "m", tensors, CONFIG), methods="within")
    found = within(result, "model.embed_tokens.weight")
    assert found["begun_rows"] in (48, 49, 50)
    assert found["untrained_rows"] == found["begun_rows"]
    found = within(result, "lm_head.weight")
    assert (found["zero_rows"], found["untrained_rows"], found["untrained_percentage"]) == (100, 100, 100 * 100 / 700)
    assert within(result, "model.layers.0.mlp.up_proj.weight")["untrained_rows"] is None
    assert {f.parameter for f in result.health().findings if f.check == "tokens"} == {
        "model.embed_tokens.weight", "lm_head.weight",
    }  # fmt: skip


def test_the_same_beside_other_methods_and_with_any_workers(tmp_path):
    model = written(tmp_path / "m", llama(), CONFIG)
    alone = netweight.scan(model, methods="within", workers=1)
    beside = netweight.scan(model, methods="all", workers=3)
    formats = netweight.scan(model, methods=["within", "formats"])
    assert {row.name for row in alone.rows} == {row.name for row in beside.rows}
    for row in alone.rows:
        for other in (beside, formats):
            for field, value in row.measures["within"].items():
                wanted = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-6, nan_ok=True)
                assert within(other, row.name)[field] == wanted, (row.name, field)


@pytest.mark.filterwarnings("error")
def test_orthogonal_matrices_have_every_measure(tmp_path):
    """Rotations, and recurrent weights as they begin: all singular values are one but for rounding."""
    q = np.linalg.qr(np.random.default_rng(3).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    result = netweight.scan(written(tmp_path / "m", llama(**{"rotation.weight": q}), CONFIG), methods="all")
    assert result["rotation.weight"]["tail"]["tpl_p"] == 1.0
    assert result.failed == ()


def test_differences_have_no_codes(tmp_path):
    """Of a fine-tune in bfloat16 they are steps of its base."""
    base = {name: w.astype(ml_dtypes.bfloat16) for name, w in llama().items()}
    tuned = {name: (w.astype(np.float32) * 1.01).astype(ml_dtypes.bfloat16) for name, w in base.items()}
    result = netweight.scan(
        written(tmp_path / "tuned", tuned, CONFIG), base=written(tmp_path / "base", base, CONFIG), methods="within"
    )
    assert {row.measures["within"]["code_group"] for row in result.rows} == {""}


def test_files_hold_what_python_has(tmp_path):
    model = written(tmp_path / "m", llama(), CONFIG)
    result = netweight.scan(model, methods="within", output=tmp_path / "out.json")
    held = json.loads((tmp_path / "out.json").read_text())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert held[name]["within"]["heads"] == HEADS
    assert held[name]["within"]["head_scale"] == within(result, name)["head_scale"]
    assert held["model.layers.0.mlp.up_proj.weight"]["within"]["head_scale"] is None


def test_long_rows(tmp_path):
    """Longer than what a band of 128 of them may take."""
    w = normal(3, 5, 300_000)
    scale = np.abs(w).max(axis=1, keepdims=True) / 127
    save_file({"coded": np.rint(w / scale) * scale, "plain": w}, tmp_path / "model.safetensors")
    result = netweight.scan(tmp_path / "model.safetensors", methods="within")
    assert [within(result, name)["code_group"] for name in ("coded", "plain")] == ["row", ""]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.0, 3e38, 1e-45])
@pytest.mark.parametrize("shape", [(2, 2), (3, 700), (700, 3), (128, 128), (260, 64)])
def test_what_is_odd_has_no_finding_of_codes_and_heads(tmp_path, shape, value):
    names = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight")
    odd = np.full(shape, value, np.float32)
    mixed = normal(4, *shape)
    mixed[::2] = value
    for number, tensors in enumerate((dict.fromkeys(names, odd), dict.fromkeys(names, mixed))):
        model = written(tmp_path / f"{number}", {name: w.copy() for name, w in tensors.items()}, CONFIG)
        result = netweight.scan(model, methods="within")
        assert result.failed == ()
        assert not [f.said for f in result.health().findings if f.check in ("code", "head_scale", "head_noise")]
        for row in result.rows:
            assert (
                row.measures["within"]["untrained_rows"] is None or row.measures["within"]["untrained_rows"] <= shape[0]
            )
