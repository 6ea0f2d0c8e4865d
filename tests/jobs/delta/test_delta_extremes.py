"""A model against itself, and numbers at the ends of float64: zeros, nulls with reasons, never NaN in JSON."""

from __future__ import annotations

import numpy as np
import pytest
from task_vectors import FIELDS, check_row, normal, read_cosines, read_rows, save, strict_json, tuned

import netweight


def run(tmp_path, base, *models):
    save(tmp_path / "base", base)
    paths = [save(tmp_path / f"m{i}", m) for i, m in enumerate(models)]
    result = netweight.delta(tmp_path / "base", paths, tmp_path / "out")
    strict_json((tmp_path / "out" / "m0" / "summary.json").read_text())
    return result, [read_rows(tmp_path / "out" / p.name / "per_param_stats.csv") for p in paths]


def test_a_model_compared_with_itself(tmp_path):
    base = {f"p{i}": normal((30, 10), kind, seed=i) for i, kind in enumerate(("float32", "bfloat16", "float64"))}
    result, (rows, moved) = run(tmp_path, base, base, tuned(base, 1))
    for row in rows.values():
        assert [row[f] for f in FIELDS[2:]] == [0] * 18
        assert (row["relative_l2"], row["unchanged_percentage"]) == (0, 100)
    assert all(row["l2"] > 0 for row in moved.values())
    summary = strict_json((tmp_path / "out" / "m0" / "summary.json").read_text())
    assert (summary["global_l2"], summary["global_l1"], summary["relative_l2"]) == (0, 0, 0)
    assert result.cosines == [[1.0, None], [None, 1.0]]
    _, cosines = read_cosines(tmp_path / "out" / "pairwise_cosines.csv")
    assert cosines == result.cosines


def test_the_base_itself_as_a_model(tmp_path):
    save(tmp_path / "m", {"a": normal(100)})
    result = netweight.delta(tmp_path / "m", [tmp_path / "m"], tmp_path / "out")
    assert result.models[0].summary["global_l2"] == 0


def test_one_model_listed_twice(tmp_path):
    base = {"a": normal((50, 50))}
    save(tmp_path / "base", base)
    save(tmp_path / "m", tuned(base, 1))
    result = netweight.delta(tmp_path / "base", [tmp_path / "m"] * 2, tmp_path / "out")
    assert [m.name for m in result.models] == ["m", "m-2"]
    first, second = (m.name for m in result.models)
    assert (tmp_path / "out" / first / "per_param_stats.csv").read_bytes() == (
        tmp_path / "out" / second / "per_param_stats.csv"
    ).read_bytes()
    assert result.cosines[0][1] == pytest.approx(1.0, abs=1e-12)


def test_opposite_models(tmp_path):
    base = {"a": np.zeros(1000)}
    move = normal(1000, "float64")
    result, _ = run(tmp_path, base, {"a": move}, {"a": -3 * move})
    assert result.cosines[0][1] == pytest.approx(-1.0, abs=1e-12)
    assert result.cosines[0][1] >= -1.0


def test_sums_beyond_float64(tmp_path):
    """Each value is finite, their squares are not; nulls and reasons instead of Infinity, and no crash."""
    huge = np.array([1e200, -2e200, 3e200])
    base = {"huge": np.zeros(3), "fine": normal(9, "float64"), "fourth": np.zeros(3)}
    model = {"huge": huge, "fine": 3 * base["fine"], "fourth": np.array([1e90, 2e90, -1e90])}
    result, (rows,) = run(tmp_path, base, model)
    assert (rows["huge"]["l2"], rows["huge"]["maxabs"], rows["huge"]["q50"]) == (None, 3e200, 1e200)
    assert rows["huge"]["l1"] == pytest.approx(6e200, rel=1e-12)
    assert rows["huge"]["flag"] == "overflow"
    assert rows["fourth"]["l2"] == pytest.approx(np.sqrt(6) * 1e90, rel=1e-12)
    assert (rows["fourth"]["kurtosis_excess"], rows["fourth"]["flag"]) == (None, "overflow")
    check_row(rows["fine"], base["fine"], model["fine"])
    summary = result.models[0].summary
    assert (summary["global_l2"], summary["relative_l2"]) == (None, None)
    assert summary["reason"] == "sums of squares beyond the range of float64: see `flagged`"


def test_parameters_whose_norms_overflow_only_together(tmp_path):
    base = {f"model.layers.{i}.mlp.up_proj.weight": np.zeros(2) for i in range(3)}
    edge = {n: np.array([1.2e154, 0.1]) for n in base}
    result, (rows, _) = run(tmp_path, base, edge, edge)
    assert [row["l2"] for row in rows.values()] == [pytest.approx(1.2e154)] * 3
    summary = result.models[0].summary
    assert summary["global_l2"] is None
    assert summary["groups"]["layer_0"]["l2"] == pytest.approx(1.2e154)
    assert "beyond the range of float64" in summary["reason"]
    assert result.cosines == [[1.0, None], [None, 1.0]]


def test_sums_of_absolutes_that_overflow_only_together(tmp_path):
    base = {f"p{i}": np.zeros(1) for i in range(2)}
    result, (rows,) = run(tmp_path, base, {n: np.array([1.7e308]) for n in base})
    assert [row["l1"] for row in rows.values()] == [1.7e308] * 2
    assert result.models[0].summary["global_l1"] is None


def test_a_ratio_beyond_float64(tmp_path):
    base = {"p": np.array([1e-160, 0.0])}
    result, (rows,) = run(tmp_path, base, {"p": np.array([1e150, 1e150])})
    assert rows["p"]["relative_l2"] is None
    assert result.models[0].summary["relative_l2"] is None


def test_a_base_whose_norm_is_beyond_float64(tmp_path):
    base = {"p": np.array([1e200, 2e200])}
    result, (rows,) = run(tmp_path, base, {"p": np.array([1e200, 2e200])})
    assert (rows["p"]["base_l2"], rows["p"]["relative_l2"], rows["p"]["l2"]) == (None, None, 0)
    assert result.models[0].summary["relative_l2"] is None


def test_a_base_of_zeros(tmp_path):
    base = {"p": np.zeros((4, 4), np.float32)}
    model = {"p": normal((4, 4))}
    result, (rows,) = run(tmp_path, base, model)
    check_row(rows["p"], base["p"], model["p"])
    assert rows["p"]["relative_l2"] is None
    assert result.models[0].summary["relative_l2"] is None


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1e-45, 1e-40, -0.0])
def test_denormals(tmp_path, value):
    kind = np.float32 if value in (1e-45, 1e-40) else np.float64
    base = {"p": np.zeros(10, kind)}
    model = {"p": np.array([value, -value, 0, 0, value, 2 * value, 0, 0, 3 * value, 0], kind)}
    _, (rows,) = run(tmp_path, base, model)
    x = model["p"].astype("f8")
    assert rows["p"]["maxabs"] == np.abs(x).max()
    assert [rows["p"][f"q{q}"] for q in (0, 50, 90, 100)] == [np.quantile(x, q) for q in (0, 0.5, 0.9, 1)]
    assert rows["p"]["l1"] == pytest.approx(float(np.abs(x).sum()), rel=1e-12)
    assert rows["p"]["unchanged_percentage"] == 100 * (x == 0).mean()
