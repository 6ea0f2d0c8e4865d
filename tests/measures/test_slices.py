"""Convolutions slice by slice: against WeightWatcher's own values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from weightwatcher_matrices import build

import netweight
from netweight.measures.slices import COLUMNS

RECORDED = json.loads(Path(__file__).with_name("weightwatcher_values.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["convolutions"]}


def weight(name):
    recipe = CASES[name]["recipe"]
    return np.ascontiguousarray(build(recipe).astype(np.float32).reshape(recipe["shape"]))


@pytest.mark.parametrize("name", CASES)
def test_columns_are_those_of_weightwatcher(name, tmp_path):
    array, theirs = weight(name), CASES[name]["columns"]
    save_file({"features.0.weight": array}, tmp_path / "m.safetensors")
    ours = netweight.scan(tmp_path / "m.safetensors", methods=["slices"])["features.0.weight"]["slices"]
    assert list(ours) == [column.name for column in COLUMNS]
    assert ours["slices"] == array.shape[2] * array.shape[3]
    for column, value in theirs.items():
        if column in {"status", "warning"}:
            continue
        least = {"sv_min": 1e-7 * ours["sv_max"], "entropy": 3e-9 * ours["num_evals"]}.get(column, 0.0)
        assert ours[column] == pytest.approx(float(value), rel=1e-6, abs=least), column
    assert ours["warning"] == theirs["warning"]


def test_it_is_numpys_spectrum_of_every_cell(tmp_path):
    array = weight("conv 40x40x3x2")
    save_file({"c.weight": array, "d.weight": array.reshape(40, -1)}, tmp_path / "m.safetensors")
    found = netweight.scan(tmp_path / "m.safetensors", methods=["slices", "tail"])
    values = [np.linalg.svd(array[:, :, i, j].astype(float), compute_uv=False) for i in range(3) for j in range(2)]
    row = found["c.weight"]["slices"]
    assert row["norm"] == pytest.approx(sum((v**2).sum() for v in values) / 2, rel=1e-9)
    assert row["lambda_max"] == pytest.approx(max(v[0] ** 2 for v in values) / 2, rel=1e-9)
    assert row["num_evals"] == 240
    other = found["d.weight"]["slices"]
    assert (other["slices"], other["tail_reason"]) == (0, "no convolution of two dimensions")
    assert math.isnan(other["alpha"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_cell_that_is_not_finite_has_its_reason(bad, tmp_path):
    array = weight("conv 64x32x3x3")
    array[3, 4, 1, 1] = bad
    save_file({"c.weight": array}, tmp_path / "m.safetensors")
    row = netweight.scan(tmp_path / "m.safetensors", methods=["slices"])["c.weight"]["slices"]
    assert "NaN or infinite" in row["tail_reason"]
    assert math.isnan(row["alpha"])


def test_kernels_of_one_channel_are_vectors_of_one_value_each(tmp_path):
    array = np.random.default_rng(1).standard_normal((32, 1, 3, 3)).astype(np.float32)
    save_file({"c.weight": array}, tmp_path / "m.safetensors")
    row = netweight.scan(tmp_path / "m.safetensors", methods=["slices"])["c.weight"]["slices"]
    norms = np.linalg.norm(array.reshape(32, 9).astype(float), axis=0)
    assert row["num_evals"] == 9
    assert row["lambda_max"] == pytest.approx(norms.max() ** 2 / 2, rel=1e-9)
