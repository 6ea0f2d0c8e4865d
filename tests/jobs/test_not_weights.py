"""Masks, frequencies, schedules and running statistics: compared apart, and in no norm, cosine, total or ranking."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import netweight
from netweight.jobs.merge.request import Weights

Q, W_IN = "blocks.0.attn.W_Q", "blocks.0.mlp.W_in"
IGNORE, SCHEDULE = "blocks.0.attn.IGNORE", "sqrt_alphas_cumprod"
MEAN, VARIANCE, CODES = "bn.running_mean", "bn.running_var", "quantizer.layers.0.codebook.cluster_size"
DERIVED, RUNNING = (IGNORE, SCHEDULE), (MEAN, VARIANCE, CODES)


def tensors(seed: int, ignore: float = -1e5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {Q: rng.normal(size=(4, 8, 2)), W_IN: rng.normal(size=(8, 16)), "bn.weight": rng.normal(size=8)}
    running = {MEAN: rng.normal(size=8) * 1000, VARIANCE: rng.random(8) * 1e6, CODES: rng.random(8) * 1e5}
    derived = {IGNORE: np.full(1, ignore), SCHEDULE: np.linspace(1, 1000, 8)}
    return {name: value.astype("f4") for name, value in (weights | running | derived).items()}


@pytest.fixture
def models(tmp_path):
    for name, seed in (("base", 0), ("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        save_file(tensors(seed), tmp_path / name / "model.safetensors")
    return tmp_path


def flat(seed: int) -> np.ndarray:
    held = tensors(seed)
    return np.concatenate([held[n].ravel() for n in (Q, W_IN, "bn.weight")]).astype("f8")


def test_compare(models):
    found = netweight.compare(models / "base", models / "a", methods="all")
    a, b = flat(0), flat(1)
    assert found.totals["cosine_similarity"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-9)
    assert found.totals["l2_distance"] == pytest.approx(np.linalg.norm((b - a).astype("f4")), rel=1e-6)
    assert set(found["layer_comparisons"]) == {Q, W_IN, "bn.weight"}
    fields = found.to_dict()
    assert {n: e["state"] for n, e in fields["not_weights"].items()} == {
        **dict.fromkeys(RUNNING, "running"),
        **dict.fromkeys(DERIVED, "derived"),
    }
    moved = np.abs(tensors(1)[VARIANCE] - tensors(0)[VARIANCE]).max()
    assert fields["not_weights"][VARIANCE]["max_absolute_difference"] == pytest.approx(moved)
    assert fields["not_weights"][IGNORE]["identical_percentage"] == 100
    assert not set(DERIVED + RUNNING) & set(found.frame.column("param"))


def test_masks_of_minus_infinity(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        save_file(tensors(seed, -np.inf), tmp_path / name / "model.safetensors")
    assert netweight.compare(tmp_path / "a", tmp_path / "b").totals["n_nonfinite"] == 0
    scanned = netweight.scan(tmp_path / "a")
    assert set(scanned) == {Q, W_IN, "bn.weight"}
    assert scanned.health().counts()["critical"] == 0


def test_delta(models):
    found = netweight.delta(models / "base", [models / "a", models / "b"])
    moved = [flat(i).astype("f4") - flat(0).astype("f4") for i in (1, 2)]
    cosine = float(moved[0].astype("f8") @ moved[1] / np.linalg.norm(moved[0]) / np.linalg.norm(moved[1]))
    assert found.cosines[0][1] == pytest.approx(cosine, rel=1e-6)
    for model, vector in zip(found.models, moved, strict=True):
        assert model.summary["global_l2"] == pytest.approx(np.linalg.norm(vector), rel=1e-6)
        assert model.summary["n_params_considered"] == 3
        apart = {entry["name"]: entry for entry in model.summary["not_weights"]}
        assert set(apart) == {*DERIVED, *RUNNING}
        assert apart[IGNORE] == {**apart[IGNORE], "state": "derived", "l2": 0.0, "unchanged_percentage": 100.0}
    mean = tensors(1)[MEAN] - tensors(0)[MEAN]
    [entry] = [e for e in found.models[0].summary["not_weights"] if e["name"] == MEAN]
    assert entry["l2"] == pytest.approx(np.linalg.norm(mean.astype("f8")), rel=1e-6)
    assert not set(DERIVED + RUNNING) & set(found.frame.column("param"))


@pytest.mark.parametrize("granularity", ["global", "layer", "parameter"])
@pytest.mark.parametrize("given", [True, False])
def test_weights_of_a_merge_follow_from_weights_alone(models, tmp_path, granularity, given):
    """Running statistics are merged, and their norms, which are far larger, have no say."""
    if given:
        netweight.delta(models / "base", [models / "a", models / "b"], outdir=tmp_path / "tv")
    weights = Weights("metagpt", granularity=granularity, delta=tmp_path / "tv" if given else None)
    paths = [str(models / name) for name in ("base", "a", "b")]
    netweight.merge(None, tmp_path / "o", base=paths[0], models=paths[1:], weights=weights)
    norms = [np.linalg.norm((flat(i) - flat(0)).astype("f4").astype("f8")) for i in (1, 2)]
    base, a, b = (tensors(i) for i in range(3))
    # equal norms in a layer that nothing learned is in, and for a running statistic by itself
    shares = [n**2 / sum(m**2 for m in norms) for n in norms] if granularity == "global" else None
    written = load_file(tmp_path / "o" / "model.safetensors")
    for name in (MEAN, VARIANCE):
        if shares is None and granularity == "layer":
            of_group = [np.linalg.norm((m["bn.weight"] - base["bn.weight"]).astype("f8")) for m in (a, b)]
            used = [n**2 / sum(m**2 for m in of_group) for n in of_group]
        else:
            used = shares or [0.5, 0.5]
        expected = base[name] + used[0] * (a[name] - base[name]) + used[1] * (b[name] - base[name])
        np.testing.assert_allclose(written[name], expected, rtol=2e-6)
    np.testing.assert_array_equal(written[IGNORE], base[IGNORE])


def test_terminal_lists_them_apart(models):
    base, tuned = models / "base", models / "a"
    for args in (["compare", base, tuned], ["delta", "--base", base, "--models", tuned, "--outdir", models / "tv"]):
        done = subprocess.run(
            [sys.executable, "-m", "netweight", *map(str, args)], capture_output=True, text=True, check=True
        )
        assert f"3 running statistics; '{VARIANCE}' changed most" in done.stdout
        assert "2 tensors that the model's code computes; no finite value changed" in done.stdout
    summary = json.loads((models / "tv" / "a" / "summary.json").read_text())
    assert len(summary["not_weights"]) == 5
