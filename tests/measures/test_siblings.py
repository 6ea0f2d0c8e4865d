"""Matrices beside noise and beside their siblings; singular values are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight
from netweight.measures.siblings import NEAR_NOISE, beside_siblings, noise_ratio, pattern_of, training_of

RNG = np.random.default_rng(3)
STARTS = {
    "normal": lambda rows, cols: RNG.normal(0, 0.02, (rows, cols)),
    "uniform": lambda rows, cols: RNG.uniform(-1, 1, (rows, cols)) / np.sqrt(cols),
    "orthogonal": lambda rows, cols: np.linalg.qr(RNG.normal(size=(max(rows, cols), min(rows, cols))))[0].reshape(
        rows, cols
    ),
}


def learnt(rows, cols):
    """A heavy-tailed spectrum, as training makes it."""
    u, v = (np.linalg.qr(RNG.normal(size=(n, n)))[0] for n in (rows, cols))
    k = min(rows, cols)
    return u[:, :k] * (np.arange(1, k + 1) ** -0.5) @ v[:k]


def measures(w):
    return {
        "basic_stats": {
            "l2": float(np.sqrt((w**2).sum())), "l1": float(np.abs(w).sum()), "mean": float(w.mean()),
            "min": float(w.min()), "max": float(w.max()),
        },
        "spectral": {"max_singular_value": float(np.linalg.svd(w, compute_uv=False)[0])},
    }  # fmt: skip


def model(matrices):
    rows = [(name, measures(w)) for name, w in matrices.items()]
    return beside_siblings(rows, {name: w.shape for name, w in matrices.items()})


def layers(make, count=6, shape=(96, 64)):
    return {f"model.layers.{n}.mlp.up_proj.weight": make(*shape) for n in range(count)}


@pytest.mark.parametrize("shape", [(64, 64), (300, 40), (40, 300)])
def test_noise_has_the_edge_of_noise_and_what_was_learnt_is_beyond(shape):
    for make in STARTS.values():
        w = make(*shape) if make is not STARTS["orthogonal"] or shape[0] >= shape[1] else make(*shape[::-1]).T
        rms = np.sqrt((w**2).mean())
        expected = np.linalg.norm(w, 2) / (rms * (np.sqrt(shape[0]) + np.sqrt(shape[1])))
        assert noise_ratio(measures(w), shape) == pytest.approx(expected, rel=1e-12)
        assert expected < NEAR_NOISE
    for factor in (1e-6, 1.0, 1e6):  # whatever the scale
        assert noise_ratio(measures(factor * learnt(*shape)), shape) > 1.5


def test_what_does_not_tell_is_none():
    w = learnt(64, 64)
    assert noise_ratio({}, (64, 64)) is None
    assert noise_ratio({"spectral": {"max_singular_value": 1.0}}, (64, 64)) is None
    assert noise_ratio(measures(w[:8]), (8, 64)) is None
    assert noise_ratio(measures(0 * w), (64, 64)) is None
    assert noise_ratio({**measures(w), "spectral": {"max_singular_value": float("nan")}}, (64, 64)) is None
    assert training_of([3.0, 3.0]) is None


def test_a_low_rank_says_nothing_of_training(tmp_path):
    """A random product of factors, and noise with half of its columns zero, are far from noise of their size."""
    product = RNG.normal(size=(64, 8)) @ RNG.normal(size=(8, 64))
    half = RNG.normal(size=(64, 64)) * (np.arange(64) % 2)
    few = RNG.normal(size=(64, 64)) * (np.arange(64) > 5)
    for w, told in ((product, False), (half, False), (few, True)):
        assert noise_ratio(measures(w), w.shape) > (0.8 if told else NEAR_NOISE)  # by the largest value alone
        file = tmp_path / "model.safetensors"
        save_file({f"layers.{n}.weight": np.ascontiguousarray(w, np.float32) for n in range(4)}, file)
        by_rank = netweight.scan(file, methods=["basic_stats", "spectral"]).health().training
        assert (by_rank is not None and not by_rank.trained) if told else by_rank is None
        assert netweight.scan(file, methods=["tail"]).health().training is None  # which has no rank, but a least value


def test_other_measures_tell_the_same():
    w = learnt(64, 32)
    first = measures(w)
    tail = {"tail": {"sv_max": first["spectral"]["max_singular_value"], "norm": float((w**2).sum())}}
    assert noise_ratio(tail, w.shape) == pytest.approx(noise_ratio(first, w.shape), rel=1e-12)


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_scale_is_told_on_either_side(factor):
    matrices = layers(learnt)
    name = "model.layers.2.mlp.up_proj.weight"
    matrices[name] *= factor
    found = model(matrices)
    assert found[name].scale == pytest.approx(100.0, rel=0.05)
    assert all(beside.scale < 1.5 for other, beside in found.items() if other != name)


def test_noise_is_told_among_what_was_learnt_alone():
    matrices = layers(learnt)
    name = "model.layers.3.mlp.up_proj.weight"
    matrices[name] = RNG.permutation(matrices[name].ravel()).reshape(matrices[name].shape)
    found = model(matrices)
    assert found[name].noise < NEAR_NOISE
    assert all(beside.noise > 1.5 for other, beside in found.items() if other != name)
    assert {beside.noise for beside in model(layers(STARTS["normal"])).values()} == {None}


def test_copies_are_told_and_constants_are_none():
    matrices = layers(learnt)
    names = list(matrices)
    matrices[names[4]] = matrices[names[1]].copy()
    matrices[names[5]] = matrices[names[1]][::-1].copy()  # the same sums, in another order of rows
    found = model(matrices)
    assert found[names[4]].copy == names[1]
    assert [name for name, beside in found.items() if beside.copy] in ([names[4]], [names[4], names[5]])
    assert {beside.copy for beside in model(layers(lambda *shape: np.ones(shape))).values()} == {None}


def test_many_siblings_are_compared_once():
    """20,000 experts, one of them scaled; medians of each without itself would take an hour."""
    w = learnt(16, 16)
    rows = [(f"experts.{n}.w", measures((100 if n == 7 else 1 + n / 1e6) * w)) for n in range(40)]
    rows = [(f"experts.{n}.w", rows[n % 40][1]) for n in range(20_000)]
    found = beside_siblings(rows, dict.fromkeys((name for name, _ in rows), (16, 16)))
    assert {n for n in range(40) if found[f"experts.{n}.w"].scale > 20} == {7}
    assert found["experts.47.w"].copy == "experts.7.w"


def test_siblings_have_one_shape_and_one_pattern():
    matrices = layers(learnt, 2) | {"model.layers.0.mlp.down_proj.weight": 100 * learnt(96, 64)}
    assert all(beside.scale is None for beside in model(matrices).values())
    assert pattern_of("model.layers.0.experts[12].w1") == "model.layers.*.experts[*].w1"
    assert pattern_of("wav2vec2.layer") == "wav2vec2.layer"


def test_a_scan_says_it(tmp_path):
    """Random weights, and learnt ones with three faults, from files."""
    faulty = layers(learnt) | {"lm_head.weight": learnt(80, 64)}
    faulty["model.layers.0.mlp.up_proj.weight"] *= 100
    faulty["model.layers.5.mlp.up_proj.weight"] = faulty["model.layers.4.mlp.up_proj.weight"]
    shuffled = faulty["model.layers.1.mlp.up_proj.weight"]
    faulty["model.layers.1.mlp.up_proj.weight"] = RNG.permutation(shuffled.ravel()).reshape(shuffled.shape)
    told = {}
    for name, weights in {"random": layers(STARTS["normal"]), "faulty": faulty}.items():
        save_file(
            {n: np.ascontiguousarray(w, np.float32) for n, w in weights.items()}, tmp_path / f"{name}.safetensors"
        )
        told[name] = netweight.scan(tmp_path / f"{name}.safetensors", methods=["basic_stats", "spectral"]).health()
    assert told["random"].training.said.startswith("near its initialisation: the largest singular value is ")
    assert not {"scale", "noise", "copy"} & {finding.check for finding in told["random"].findings}
    assert told["faulty"].training.said.startswith("trained: the largest singular value is ")
    faults = {(f.check, f.parameter, f.level) for f in told["faulty"].findings if f.check in {"scale", "noise", "copy"}}
    layer = "model.layers.{}.mlp.up_proj.weight"
    assert faults == {
        ("scale", layer.format(0), "critical"),
        ("noise", layer.format(1), "critical"),
        ("copy", layer.format(5), "info"),
    }
    (copy,) = [f for f in told["faulty"].to_dict()["findings"] if "other" in f]
    assert copy["other"] == layer.format(4)
