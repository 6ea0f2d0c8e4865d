"""`netweight.scan(..., methods=["formats"])`: which rows, which way they run, what is said without."""

from __future__ import annotations

import math

import numpy as np
import pytest
from safetensors.numpy import save_file
from task_vectors import normal, save

import netweight
from netweight.cli.main import main
from netweight.measures import formats as measure
from netweight.passes import format_errors
from netweight.statistics.formats.ggml import NEEDED, coded
from netweight.statistics.formats.table import FORMATS


def relative(matrix, decoded):
    x = matrix.astype(np.float64)
    return math.sqrt(((x - decoded) ** 2).sum() / (x**2).sum())


def one(path, array, **settings):
    save_file({"w": array}, path / "a.safetensors")
    return netweight.scan(path / "a.safetensors", methods=["formats"], **settings)["w"]["formats"]


def test_all_rows_are_those_of_the_whole_matrix_and_a_sample_is_near(tmp_path):
    matrix = normal((3000, 512), "float32", seed=3)
    exact, sampled = one(tmp_path, matrix, exact=True), one(tmp_path, matrix)
    assert (exact["sampled_rows"], exact["sampling_error"]) == (3000, 0.0)
    assert (sampled["sampled_rows"], exact["formats_reason"], sampled["formats_reason"]) == (256, "", "")
    assert exact["q4_k_relative_error"] == pytest.approx(relative(matrix, coded(matrix, "Q4_K")), rel=1e-9)
    assert exact["q4_k_sqnr_db"] == pytest.approx(-20 * math.log10(exact["q4_k_relative_error"]), rel=1e-12)
    assert exact["mean_square"] == pytest.approx(float((matrix.astype(float) ** 2).mean()), rel=1e-9)
    assert 0 < sampled["sampling_error"] < 0.02
    for each in FORMATS:
        field = f"{each.key}_relative_error"
        assert sampled[field] == pytest.approx(exact[field], rel=6 * sampled["sampling_error"])
    numbers = (np.arange(256) * 3000 + 1500) // 256
    rows = matrix[numbers]
    assert sampled["q8_0_relative_error"] == pytest.approx(relative(rows, coded(rows, "Q8_0")), rel=1e-9)


def test_the_advice_names_the_least_size_below_each_error(tmp_path):
    row = one(tmp_path, normal((300, 512), "float32", seed=4))
    assert row["smallest"] == "0.02: Q6_K (6.56 bits), 0.04: Q5_K (5.5 bits), 0.08: IQ4_XS (4.25 bits)"


def test_blocks_run_along_the_inputs_however_a_matrix_is_stored(tmp_path):
    """GPT-2's Conv1D is stored inputs by outputs: its blocks of 32 inputs are columns of the file."""
    weight = normal((256, 768), "float32", seed=5) * np.exp(np.linspace(-3, 3, 256))[:, None].astype(np.float32)
    at = "h.0.attn.c_attn.weight"
    model = save(tmp_path / "gpt2", {at: weight}, {"model_type": "gpt2"})
    found = netweight.scan(model, methods=["formats"], exact=True)[at]["formats"]
    outputs = np.ascontiguousarray(weight.T)
    assert found["q8_0_relative_error"] == pytest.approx(relative(outputs, coded(outputs, "Q8_0")), rel=1e-9)
    assert found["q8_0_relative_error"] != pytest.approx(relative(weight, coded(weight, "Q8_0")), rel=0.02)
    assert found["sampled_rows"] == 768


def test_what_a_format_cannot_take_says_why(tmp_path):
    row = one(tmp_path, normal((40, 96), "float32"))
    assert row["formats_reason"] == "rows do not divide into blocks of Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, IQ4_XS, NF4"
    assert math.isnan(row["q4_k_relative_error"])
    assert row["q8_0_relative_error"] > 0
    for array, reason in (
        (np.zeros((9, 64), np.float32), "all elements are zero as float32"),
        (np.full((9, 64), 5e-324), "all elements are zero as float32"),
        (np.full((9, 64), np.nan, np.float32), "elements that are NaN or infinite, or beyond float32"),
        (np.full((9, 64), 1e200), "elements that are NaN or infinite, or beyond float32"),
        (np.ones(64, np.float32), "a vector: formats leave it in 16 or 32 bits"),
    ):
        row = one(tmp_path, array)
        assert row["formats_reason"] == reason
        assert all(math.isnan(row[f"{each.key}_relative_error"]) for each in FORMATS)


def test_without_the_library_the_others_are_measured_and_the_way_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(format_errors, "installed", lambda: False)
    monkeypatch.setattr(measure, "installed", lambda: False)
    row = one(tmp_path, normal((40, 256), "float32"))
    assert row["formats_reason"] == NEEDED
    assert math.isnan(row["q8_0_relative_error"])
    assert row["fp8_channel_relative_error"] > 0


def test_results_do_not_depend_on_workers_or_memory(tmp_path):
    arrays = {f"m{i}": normal((500, 384), "bfloat16", seed=i) for i in range(5)}
    save_file(arrays, tmp_path / "m.safetensors")
    results = [
        netweight.scan(tmp_path / "m.safetensors", methods=["all", "formats"], **settings).to_dict()
        for settings in ({"workers": 1}, {"workers": 2}, {"workers": 2, "memory": 1 << 30})
    ]
    assert results[0] == results[1] == results[2]


def test_the_terminal_has_a_line_for_every_format(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    save_file({"a": normal((600, 512), "bfloat16"), "b": normal((40, 96), "bfloat16")}, tmp_path / "m.safetensors")
    with pytest.raises(SystemExit) as left:
        main(["scan", str(tmp_path / "m.safetensors"), "--methods", "formats"])
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "formats: relative errors, of sampled rows; --exact takes all" in shown
    assert max(map(len, shown.splitlines())) <= 300  # the reason is one line; tables fit
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    size = (600 * 512 * 8.5 + 40 * 96 * 8.5) / 8
    assert f"{size / 1000:.0f} kB" in lines["Q8_0"]
    kept = (600 * 512 * 4.5 + 40 * 96 * 16) / 8
    assert f"{kept / 1000:.0f} kB" in lines["Q4_K"]
    assert "1 matrix: rows do not divide into blocks of Q6_K" in shown
