"""Models that are merged in their own element type give the bytes of the general way, which widens every block."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from merge_families import save

import netweight
from netweight.jobs.merge.request import Weights
from netweight.kernels.cpu.merging import CpuMergeKernels

SHAPES = {"model.layers.0.mlp.up_proj.weight": (300, 200), "model.layers.0.mlp.down_proj.weight": (90, 1000)}
SHAPES["model.norm.weight"] = (77,)
NATIVE = {name: method for name, method in vars(CpuMergeKernels).items() if name.endswith("_native") and name[0] != "_"}


def fine_tunes(folder, kind, count):
    """References of a base and models near it, with some numbers that are not finite."""
    rng = np.random.default_rng(5)
    base = {n: (0.02 * rng.standard_normal(s)).astype(np.float32) for n, s in SHAPES.items()}
    made = [base]
    for _ in range(count):
        made.append({n: a + 1e-3 * rng.standard_normal(a.shape).astype(np.float32) for n, a in base.items()})
    made[1]["model.norm.weight"][[3, 40]] = np.inf, np.nan
    return [save(folder / f"m{i}", {n: a.astype(kind) for n, a in one.items()}, None) for i, one in enumerate(made)]


def both_ways(monkeypatch, tmp_path, run):
    """The bytes of `run(out)` as it is and by the general way, its records, and which fused kernels were called."""
    monkeypatch.setattr("netweight.passes.merge_blocks.STRETCH", 16384)
    monkeypatch.setattr("netweight.passes.merge_blocks.BLOCK", 4096)
    monkeypatch.setattr("netweight.passes.merge_blocks._NATIVE_BYTES", 4)
    monkeypatch.setattr(CpuMergeKernels, "prepare", lambda *_: None)  # it calls them all
    called = set()

    def noted(name):
        def call(*args, **more):
            called.add(name)
            return NATIVE[name](*args, **more)

        return call

    for name in NATIVE:
        monkeypatch.setattr(CpuMergeKernels, name, noted(name))
    fused = run(tmp_path / "fused")
    used = frozenset(called)
    called.clear()
    monkeypatch.setattr(CpuMergeKernels, "fuses", lambda *_: False)
    wide = run(tmp_path / "wide")
    assert not called
    assert netweight.verify(tmp_path / "fused").good
    return fused, wide, used


def given(models):
    return Weights(explicit=(0.4, 0.25, -0.3)[:models])


METHODS = {
    "task_arithmetic": (3, {}, {"combine_native"}),
    "ties": (3, {"density": 0.4}, {"count_magnitudes_native", "merge_differences_native"}),
    "dare_ties": (2, {"density": 0.4}, {"merge_differences_native"}),
    "breadcrumbs": (2, {"density": 0.5, "gamma": 0.1}, {"count_magnitudes_native", "merge_differences_native"}),
    "slerp": (1, {"t": 0.4}, {"gram_native", "combine_native"}),
    "model_stock": (3, {}, {"difference_gram_native", "combine_native"}),
    "della": (2, {"density": 0.5, "epsilon": 0.1}, set()),
}


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_both_ways(tmp_path, monkeypatch, method, kind) -> None:
    models, settings, kernels = METHODS[method]
    base, *tuned = fine_tunes(tmp_path, kind, models)
    weights = None if method in ("slerp", "model_stock") else given(models)

    def run(out):
        found = netweight.merge(
            None, out, base=base, models=tuned, method=method, settings=settings, weights=weights, workers=2
        )
        return (out / "model.safetensors").read_bytes(), found.record["parameters"]

    fused, wide, used = both_ways(monkeypatch, tmp_path, run)
    assert fused == wide
    assert fused[0] != (Path(base) / "model.safetensors").read_bytes()
    assert used == kernels


def test_measured_norms_are_the_same_both_ways(tmp_path, monkeypatch) -> None:
    base, *tuned = fine_tunes(tmp_path, ml_dtypes.bfloat16, 3)
    tuned = tuned[1:]

    def run(out):
        weighting = netweight.merge(None, out, base=base, models=tuned, weights=Weights(mode="exp")).weights
        return weighting["models"], (out / "model.safetensors").read_bytes()

    fused, wide, used = both_ways(monkeypatch, tmp_path, run)
    assert fused == wide
    assert used == {"difference_gram_native", "combine_native"}


@pytest.mark.parametrize("output", ["bfloat16", "float32"])
def test_what_is_read_in_one_type_may_be_written_in_another(tmp_path, monkeypatch, output) -> None:
    """Looks stay native; writes only where the output has the inputs' type."""
    base, *tuned = fine_tunes(tmp_path, ml_dtypes.bfloat16, 2)

    def run(out):
        netweight.merge(
            None, out, base=base, models=tuned, method="ties", settings={"density": 0.3}, dtype=output, weights=given(2)
        )
        return (out / "model.safetensors").read_bytes()

    fused, wide, used = both_ways(monkeypatch, tmp_path, run)
    assert fused == wide
    assert ("merge_differences_native" in used) == (output == "bfloat16")
    assert "count_magnitudes_native" in used


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
@pytest.mark.parametrize("output", ["bfloat16", "float16", "float32"])
def test_where_one_input_is_float32_all_are_widened_to_it(tmp_path, monkeypatch, method, output) -> None:
    """As a base and what adapters make of it."""
    base, first, second = fine_tunes(tmp_path / "a", ml_dtypes.bfloat16, 2)
    _, wider, _ = fine_tunes(tmp_path / "b", np.float32, 2)
    models = [wider] if method == "slerp" else [first, wider, second]
    _, settings, kernels = METHODS[method]

    def run(out):
        found = netweight.merge(
            None, out, base=base, models=models, method=method, settings=settings, dtype=output,
            weights=None if method == "slerp" else given(3),
        )  # fmt: skip
        return (out / "model.safetensors").read_bytes(), found.record["parameters"]

    fused, wide, used = both_ways(monkeypatch, tmp_path, run)
    assert fused == wide
    assert used == kernels


def test_models_of_several_types_go_the_general_way(tmp_path, monkeypatch) -> None:
    base, first, _ = fine_tunes(tmp_path / "a", ml_dtypes.bfloat16, 2)
    _, _, second = fine_tunes(tmp_path / "b", np.float16, 2)

    def run(out):
        netweight.merge(
            None, out, base=base, models=[first, second], method="ties", settings={"density": 0.3}, weights=given(2)
        )
        return (out / "model.safetensors").read_bytes()

    fused, wide, used = both_ways(monkeypatch, tmp_path, run)
    assert fused == wide
    assert not used
