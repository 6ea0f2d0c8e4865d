"""What is read of each tensor is what its file holds there, and no more."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import netweight
from netweight.params.model import Model
from netweight.passes.bases import Basis, inputs_in, outputs_in
from netweight.passes.corners import COLUMNS, corners, rows_of, wanted


def model(tmp_path, tensors, config=None):
    tmp_path.mkdir(exist_ok=True)
    save_file(tensors, tmp_path / "model.safetensors")
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return Model(netweight.open(tmp_path))


def test_they_are_the_first_rows_and_columns(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": rng.normal(size=(9000, 48)).astype(ml_dtypes.bfloat16),
        "model.layers.0.mlp.up_proj.weight": rng.normal(size=(300, 4096)).astype("f4"),
        "model.layers.0.input_layernorm.weight": rng.normal(size=4096).astype("f4"),
        "model.layers.0.mlp.experts.9.up_proj.weight": rng.normal(size=(8, 8)).astype("f4"),
        "steps": np.arange(5),
    }
    found = {corner.key: corner for corner in corners(model(tmp_path, tensors), 3)}
    assert sorted(found) == ["0.up_proj", "model.layers.0.input_layernorm.weight", "token_embedding"]
    up = found["0.up_proj"]
    assert up.rows == ((0, 32),)
    np.testing.assert_array_equal(up.values, tensors["model.layers.0.mlp.up_proj.weight"][:32, :COLUMNS])
    assert up.read_bytes == 32 * 4096 * 4
    tokens = found["token_embedding"]
    numbers = [row for first, count in tokens.rows for row in range(first, first + count)]
    assert numbers == [*range(32), *range(96, 128), *range(512, 544), *range(2048, 2080), *range(8192, 8224)]
    np.testing.assert_array_equal(tokens.values, tensors["model.embed_tokens.weight"][numbers].astype("f4"))
    assert tokens.values.shape[1] == 48
    assert found["model.layers.0.input_layernorm.weight"].values.shape == (1, 4096)


def test_a_smaller_model_has_the_beginning_of_a_larger_ones_rows(tmp_path) -> None:
    parameter = dict(wanted(model(tmp_path, {"model.embed_tokens.weight": np.ones((40, 4), "f4")})))[
        "model.embed_tokens.weight"
    ][1]
    assert rows_of((40, 4), parameter) == ((0, 32),)
    assert rows_of((100, 4), parameter) == ((0, 32), (96, 4))
    assert rows_of((32_000, 4), parameter)[:2] == rows_of((128_256, 4), parameter)[:2]
    assert rows_of((0, 4), parameter) == ()


def test_the_digest_is_of_whole_rows_and_of_the_type(tmp_path) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(16, 300)).astype("f4")
    w = w.astype("f2").astype("f4")
    beyond = w.copy()
    beyond[3, 299] += 1
    names = {"a": w, "b": beyond, "c": w.astype("f2")}
    found = {
        name: next(iter(corners(model(tmp_path / name, {"x.up_proj.weight": held}), 1))) for name, held in names.items()
    }
    assert len({corner.digest for corner in found.values()}) == 3
    np.testing.assert_array_equal(found["a"].values, found["b"].values)


def test_rows_are_outputs_also_where_the_file_has_inputs_first(tmp_path) -> None:
    rng = np.random.default_rng(2)
    tensors = {
        "transformer.h.0.attn.c_attn.weight": rng.normal(size=(32, 96)).astype("f4"),
        "transformer.h.0.mlp.c_fc.weight": rng.normal(size=(32, 128)).astype("f4"),
        "transformer.h.0.mlp.c_proj.weight": rng.normal(size=(128, 32)).astype("f4"),
    }
    found = {c.key: c for c in corners(model(tmp_path, tensors, {"model_type": "gpt2", "n_embd": 32, "n_head": 4}), 2)}
    np.testing.assert_array_equal(found["0.up_proj"].values, tensors["transformer.h.0.mlp.c_fc.weight"].T[:64])
    assert found["0.up_proj"].shape == (128, 32)
    np.testing.assert_array_equal(found["0.k_proj"].values, tensors["transformer.h.0.attn.c_attn.weight"][:, 32:64].T)


def test_a_basis_is_a_product(tmp_path) -> None:
    rng = np.random.default_rng(3)
    reads, writes = rng.normal(size=(70, 24)).astype("f4"), rng.normal(size=(24, 70)).astype("f4")
    gain = rng.normal(size=24).astype("f4")
    held = model(tmp_path, {"layers.0.up.weight": reads, "layers.0.down.weight": writes}).tensors
    order, signs = rng.permutation(24)[:10], np.where(rng.random(10) < 0.5, -1.0, 1.0)
    some = Basis(24, order, signs)
    turned = Basis(24, order, signs, np.linalg.qr(rng.normal(size=(24, 24)))[0][:, :7].astype("f4"))
    for basis in (some, turned):
        matrix = np.zeros((24, basis.size))
        if basis.map is None:
            matrix[order, range(10)] = signs
        else:
            matrix = basis.map
        np.testing.assert_allclose(
            inputs_in(held["layers.0.up.weight"], gain, basis), reads * gain @ matrix, rtol=2e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            inputs_in(held["layers.0.up.weight"], None, basis), reads @ matrix, rtol=2e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            outputs_in(held["layers.0.down.weight"], basis), writes.T @ matrix, rtol=2e-5, atol=1e-5
        )
