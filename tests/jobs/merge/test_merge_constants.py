"""What a merge copies: what the model's code computes alone. Routers' biases and running statistics are merged."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import netweight
from netweight.errors import InputError
from netweight.merging.recipe.recipe import parse_recipe

ROUTER = "model.layers.0.mlp.gate."
LEARNED = (
    f"{ROUTER}e_score_correction_bias",
    f"{ROUTER}weight",
    "net.1.running_mean",
    "net.1.running_var",
    "net.1.weight",
)
DERIVED = ("model.rotary_emb.inv_freq", "net.1.num_batches_tracked", "h.0.attn.masked_bias", "embeddings.position_ids")


@pytest.fixture
def models(tmp_path):
    """Learned values are 1, 3 and 11 in base, a and b, so are derived ones."""
    for name, value in (("base", 1), ("a", 3), ("b", 11)):
        (tmp_path / name).mkdir()
        tensors = {n: np.full(4 if n != f"{ROUTER}weight" else (4, 8), value, np.float32) for n in LEARNED}
        tensors |= {n: np.full(3, value, np.int64 if "_" in n[-4:] else np.float32) for n in DERIVED}
        save_file(tensors, tmp_path / name / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("method", "weights", "expected"),
    [
        ("merge_method: linear", (0.5, 0.5), 7),
        ("merge_method: linear", (0, 1), 11),
        ("merge_method: task_arithmetic\nbase_model: {base}", (1, 0.5), 1 + 2 + 5),
    ],
)
def test_what_is_learned_is_merged(models, method, weights, expected):
    each = [f"  - {{model: {models / n}, parameters: {{weight: {w}}}}}" for n, w in zip("ab", weights, strict=True)]
    recipe = "\n".join([method.format(base=models / "base"), "models:", *each, ""])
    merged = netweight.merge(parse_recipe(recipe, "a test"), models / "out")
    written = load_file(models / "out" / "model.safetensors")
    first = 1 if "base_model" in recipe else 3
    for name in LEARNED:
        np.testing.assert_array_equal(written[name], np.full_like(written[name], expected), err_msg=name)
    for name in DERIVED:
        np.testing.assert_array_equal(written[name], np.full_like(written[name], first), err_msg=name)
    (note,) = [note for note in merged.notes if "copied, not merged" in note]
    assert "and 3 more" in note
    assert netweight.verify(models / "out").good


def test_running_statistics_that_a_model_lacks_are_missing(models):
    tensors = load_file(models / "b" / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "net.1.running_var"}, models / "b" / "model.safetensors")
    with pytest.raises(InputError, match=r"'net\.1\.running_var' is missing in .*b"):
        netweight.merge(None, models / "out", base=models / "base", models=[models / "a", models / "b"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_weights_that_are_integers_are_refused(models, dtype):
    """Codes without a scale beside them, and without a word of it in config.json, are not numbers to copy."""
    name = "model.layers.0.self_attn.q_proj.weight"
    for folder in ("base", "a", "b"):
        tensors = load_file(models / folder / "model.safetensors")
        save_file(tensors | {name: np.ones((4, 4), dtype)}, models / folder / "model.safetensors")
    with pytest.raises(InputError, match=rf"'{name}' is (I8|U8|I32) in .*base; expected float weights"):
        netweight.merge(None, models / "out", base=models / "base", models=[models / "a", models / "b"])
    assert not (models / "out").exists()
