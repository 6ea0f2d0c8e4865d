"""The published snippets of the replaced tool, with netweight in its place."""

from __future__ import annotations

import contextlib
import glob
import io
import json

import numpy as np
import pytest
import torch
from task_vectors import normal, save, tuned

import netweight
from netweight import Scope
from netweight.errors import InputError, OptionError


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scope")
    base = {f"model.layers.{i}.self_attn.{p}_proj.weight": normal((40, 24), seed=i) for i in range(3) for p in "qk"}
    base["model.norm.weight"] = np.ones(24, np.float32)
    tune = tuned(base, 1, 1e-4)
    tune["model.layers.1.self_attn.q_proj.weight"] = base["model.layers.1.self_attn.q_proj.weight"] * np.float32(1.3)
    tune["model.layers.2.self_attn.k_proj.weight"] = base["model.layers.2.self_attn.k_proj.weight"]
    return save(folder / "base", base), save(folder / "tune", tune)


def test_the_whole_workflow(models, tmp_path) -> None:
    from netweight.core.comparator import find_most_changed_layers

    base_scope = Scope(str(models[0]))
    base_results = base_scope.scan(methods=["all"], parallel=True, num_workers=8)
    with (tmp_path / "base_analysis.json").open("w") as file:
        json.dump(base_results, file, indent=2)
    finetuned_scope = Scope(models[1])
    finetuned_results = finetuned_scope.scan(methods=["all"], parallel=True, num_workers=8)
    comparison = base_scope.compare_with(finetuned_results, methods=["basic_stats", "spectral"])
    most_changed = find_most_changed_layers(comparison, top_k=10)
    layer, score, metrics = most_changed[0]
    assert layer == "model.layers.1.self_attn.q_proj.weight"
    assert score > 0.3
    assert metrics["l2_norm_ratio"] == pytest.approx(1.3)
    assert "condition_number_ratio" in metrics
    assert all(stats["quantization"]["extreme_outlier_percentage"] <= 100 for stats in finetuned_results.values())
    assert find_most_changed_layers is netweight.find_most_changed_layers


def test_results_read_back_from_json_compare_by_their_numbers(models, tmp_path) -> None:
    (tmp_path / "tune.json").write_text(json.dumps(Scope(models[1]).scan(methods=["all"]).to_dict()))
    read = json.loads((tmp_path / "tune.json").read_text())
    comparison = Scope(models[0]).compare_with(read, methods=["basic_stats", "spectral"])
    metrics = comparison["layer_comparisons"]["model.layers.1.self_attn.q_proj.weight"]
    assert metrics["l2_norm_ratio"] == pytest.approx(1.3, rel=1e-6)
    assert metrics["condition_number_ratio"] == pytest.approx(1.0, rel=1e-4)


def test_a_scan_with_vectors_compares_with_vectors(models, tmp_path) -> None:
    whole = netweight.scan(models[1], methods="all").to_dict()
    assert "model.norm.weight" in whole
    for results in (whole, {"health": {}, "parameters": whole}):
        comparison = Scope(models[0]).compare_with(json.loads(json.dumps(results)), methods=["all"])
        assert "model.norm.weight" in comparison["common_layers"]
        assert (comparison["only_in_model1"], comparison["only_in_model2"]) == ([], [])
        assert comparison.refs == (str(models[0]), "the given results")
    weights = {name: fields for name, fields in whole.items() if name != "model.norm.weight"}
    comparison = Scope(models[0]).compare_with(weights)
    assert (comparison["only_in_model1"], comparison["only_in_model2"]) == ([], [])


@pytest.mark.parametrize(
    ("results", "got"),
    [
        ({}, "got an empty mapping"),
        ({"x": 1}, "got something else under 'x'"),
        ({"x": {"basic_stats": 1}}, "got something else under 'x'"),
        ({"health": {}, "parameters": None}, "got NoneType"),
    ],
)
def test_what_is_no_scan_is_refused(models, results, got) -> None:
    with pytest.raises(InputError, match="expected the results of a scan, {parameter: .*, " + got):
        Scope(models[0]).compare_with(results)


def test_training_stability(tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in range(6):
        w = torch.from_numpy(normal((32, 16), seed=step))
        if step == 5:
            w[:, 1] = w[:, 0] * (1 + 1e-9) + 1e-9  # nearly the same column
        if step == 4:
            w[:, 1] = w[:, 0]
        torch.save({"layer.weight": w, "layer.bias": torch.zeros(32)}, tmp_path / "checkpoints" / f"step_{step}.pt")
    warned = []
    for ckpt in sorted(glob.glob(str(tmp_path / "checkpoints" / "step_*.pt")))[-5:]:  # noqa: PTH207 - the snippet's way
        scope = Scope(ckpt)
        results = scope.scan(methods=["spectral"], parallel=True)
        for stats in results.values():
            cond = stats["spectral"]["condition_number"]
            if cond > 1e6:
                warned.append(ckpt[-4])
    assert warned == ["4", "5"]


def test_quantization_strategy(tmp_path) -> None:
    heavy = normal((64, 64), seed=1)
    heavy[:, :5] *= 100
    save(tmp_path / "m", {"heavy.weight": heavy, "light.weight": np.linspace(-1, 1, 4096).reshape(64, 64).astype("f4")})
    advice = {}
    for layer, stats in Scope(tmp_path / "m").scan(methods=["quantization"], parallel=True).items():
        outlier_pct = stats["quantization"]["extreme_outlier_percentage"]
        advice[layer] = "smooth" if outlier_pct > 5 else "mixed" if outlier_pct > 1 else "int8"
    assert advice == {"heavy.weight": "smooth", "light.weight": "int8"}


def test_drift(models) -> None:
    comparison = Scope(models[0]).compare_with(models[1])
    frozen = [n for n, m in comparison["layer_comparisons"].items() if 0.99 < m["l2_norm_ratio"] < 1.01]
    adapted = [n for n, m in comparison["layer_comparisons"].items() if not 0.9 <= m["l2_norm_ratio"] <= 1.1]
    assert adapted == ["model.layers.1.self_attn.q_proj.weight"]
    assert "model.layers.2.self_attn.k_proj.weight" in frozen


def test_the_summary_is_printed(models) -> None:
    scope = Scope(models[0])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        scope.print_summary(top_issues=2)
    assert "q_proj" in said.getvalue()
    assert "health" in said.getvalue().lower()


def test_sequential_gives_the_same_as_parallel(models) -> None:
    scope = Scope(models[0])
    methods = ["basic_stats", "quantization", "sparsity"]
    assert str(scope.scan(methods, parallel=False)) == str(scope.scan(methods, parallel=True, num_workers=4))


def test_devices(models) -> None:
    assert repr(Scope(models[0], device="auto")) == f"Scope({str(models[0])!r}, device='auto')"
    assert str(Scope(models[0], device="cpu").scan("basic_stats")) == str(Scope(models[0]).scan("basic_stats"))
    with pytest.raises(OptionError, match="--device: expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N, got 'gpu'"):
        Scope(models[0], device="gpu")
    elsewhere = Scope(models[0], device="cuda:99")
    for ask in (lambda: elsewhere.scan("basic_stats"), lambda: elsewhere.compare_with(models[1])):
        with pytest.raises(OptionError, match="--device cuda:99: there is no such "):
            ask()
