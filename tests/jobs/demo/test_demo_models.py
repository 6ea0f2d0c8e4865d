from __future__ import annotations

import hashlib
import json
import time
from itertools import combinations

import numpy as np
import pytest
from safetensors.numpy import load_file
from slowness import slowness

import netweight
from netweight.errors import OutputError
from netweight.jobs.demo.models import make_demo_models, make_pruned_models

PUBLISHED = {
    "demo-math": 182.634,
    "demo-korean": 31.873,
    "demo-tuned": 0.0,
    "demo-dpo": 0.5287,
    "demo-home": 9.2635,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_demo_models(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def deltas(models):
    """Task vectors in float64: {model: {parameter: array}}."""
    base = load_file(models.base / "model.safetensors")
    return {
        folder.name: {
            name: w.astype(np.float64) - base[name] for name, w in load_file(folder / "model.safetensors").items()
        }
        for folder in models.fine_tunes
    }


def norm(delta, *parts):
    return np.sqrt(sum(np.sum(d * d) for name, d in delta.items() if all(part in name for part in parts)))


def test_norms_stand_in_the_published_proportion(deltas):
    assert list(deltas) == list(PUBLISHED)
    unit = norm(deltas["demo-math"]) / PUBLISHED["demo-math"]
    for model, published in PUBLISHED.items():
        assert norm(deltas[model]) / unit == pytest.approx(published, rel=0.001, abs=0)


def test_the_base_is_a_llama_of_ten_million_parameters(models):
    config = json.loads((models.base / "config.json").read_text())
    weights = load_file(models.base / "model.safetensors")
    layers = {int(name.split(".")[2]) for name in weights if ".layers." in name}
    assert layers == set(range(config["num_hidden_layers"]))
    assert len(weights) == 2 + 9 * len(layers)
    embedding = weights["model.embed_tokens.weight"]
    assert embedding.shape == (config["vocab_size"], config["hidden_size"])
    assert embedding.std() == pytest.approx(0.02, rel=0.01)
    assert 5e6 < sum(w.size for w in weights.values()) < 2e7
    for layer in layers:
        kv = config["num_key_value_heads"] * config["head_dim"]
        assert weights[f"model.layers.{layer}.self_attn.k_proj.weight"].shape == (kv, config["hidden_size"])


def test_only_math_and_home_are_alike(deltas):
    for a, b in combinations([model for model in deltas if model != "demo-tuned"], 2):
        dot = sum(np.sum(deltas[a][name] * deltas[b][name]) for name in deltas[a])
        expected = 0.4 if {a, b} == {"demo-math", "demo-home"} else 0.0
        assert dot / (norm(deltas[a]) * norm(deltas[b])) == pytest.approx(expected, abs=0.01)


def test_each_fine_tune_changes_what_it_is_said_to(deltas):
    math, korean, dpo = deltas["demo-math"], deltas["demo-korean"], deltas["demo-dpo"]
    by_layer = [norm(math, f".layers.{layer}.", ".mlp.") for layer in range(6)]
    assert by_layer == sorted(by_layer)
    assert norm(math, ".layers.5.", ".mlp.") > 0.5 * norm(math)
    assert norm(korean, "embed_tokens") > 0.8 * norm(korean)
    assert {name.split(".")[-2] for name, d in dpo.items() if d.any()} == {"q_proj", "v_proj"}
    sigma = np.linalg.svd(dpo["model.layers.0.self_attn.q_proj.weight"], compute_uv=False)
    assert sigma[4] < 1e-3 * sigma[3]
    assert not any(d.any() for d in deltas["demo-tuned"].values())


def test_the_seed_decides_the_bytes_and_a_second_run_replaces(tmp_path):
    def digests(models):
        return [
            hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
            for folder in (models.base, *models.fine_tunes)
        ]

    started = time.thread_time()
    first = digests(make_demo_models(tmp_path, seed=0))
    assert time.thread_time() - started < 30 * slowness()
    other = digests(make_demo_models(tmp_path, seed=1))
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert digests(make_demo_models(tmp_path, seed=0)) == first
    assert sorted(p.name for p in (tmp_path / "demo-math").iterdir()) == ["config.json", "model.safetensors"]


def test_a_file_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "demo").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        make_demo_models(tmp_path / "demo")
    message = str(caught.value)
    assert message.startswith("cannot write ")
    assert message.endswith("; choose a folder that can be written to")
    assert "\n" not in message


def test_pruned_copies_are_the_base_without_what_they_lost(tmp_path):
    models = make_demo_models(tmp_path / "models")
    narrow, short = make_pruned_models(tmp_path / "pruned")
    base = netweight.open(models.base)
    with netweight.open(short) as found:
        assert len(found) == len(base) - 2 * 9
        for gone, stays in ((0, 0), (2, 4), (3, 5)):
            name = "model.layers.{}.mlp.down_proj.weight"
            np.testing.assert_array_equal(found[name.format(gone)].read(), base[name.format(stays)].read())
        assert found.config["num_hidden_layers"] == 4
    with netweight.open(narrow) as found:
        name = "model.layers.1.mlp.up_proj.weight"
        np.testing.assert_array_equal(found[name].read(), np.delete(base[name].read(), np.s_[::3], axis=0))
        assert found["model.layers.1.mlp.down_proj.weight"].shape == (256, 512)
        assert found.config["intermediate_size"] == 512
    base.close()
