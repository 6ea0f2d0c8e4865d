"""Recipes whose `modules` merge the parts of a model in different ways: each part has the value that numpy gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from merge_models import llama
from safetensors.numpy import load_file, save_file

import netweight
from netweight.errors import InputError, OptionError
from netweight.merging.recipe.recipe import parse_recipe, write_recipe

CONFIG = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", "num_hidden_layers": 3},
    "torch_dtype": "float32",
}


def seeing(seed, *, vision=True):
    """A language model with a tower that sees, as llava names its parts."""
    rng = np.random.default_rng(100 + seed)
    made = llama(seed, layers=3, names="language_model.model.")
    made["language_model.lm_head.weight"] = made.pop("lm_head.weight")
    if vision:
        for n in range(2):
            head = f"vision_tower.vision_model.encoder.layers.{n}."
            made[f"{head}self_attn.q_proj.weight"] = rng.standard_normal((4, 4)).astype(np.float32)
            made[f"{head}mlp.fc1.weight"] = rng.standard_normal((6, 4)).astype(np.float32)
        made["multi_modal_projector.linear_1.weight"] = rng.standard_normal((4, 4)).astype(np.float32)
    return made


@pytest.fixture
def three(tmp_path, monkeypatch):
    """{name: tensors} of three models, in the current folder."""
    monkeypatch.chdir(tmp_path)
    made = {name: seeing(seed) for seed, name in enumerate("abc")}
    for name, tensors in made.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
    return made


def run(recipe, **more):
    """(the output's tensors, notes)"""
    Path("recipe.yml").write_text(recipe, encoding="utf-8")
    result = netweight.merge("recipe.yml", "out", **more)
    return load_file("out/model.safetensors"), result.notes


def of(tensors, part):
    return {name for name in tensors if name.startswith(part)}


THREE_PARTS = """
merge_method: linear
parameters: {weight: [{filter: q_proj, value: 0.75}]}
modules:
  text_decoder:
    models:
    - {model: a, parameters: {weight: 0.25}}
    - {model: b}
    parameters: {weight: 0.5}
  vision_tower:
    models: [{model: b, parameters: {weight: 1}}, {model: c, parameters: {weight: 3}}]
  multi_modal_projector:
    models: [{model: c, parameters: {weight: 1.0}}]
"""


def test_every_part_has_its_own_models_and_parameters(three) -> None:
    """Parameters of a model stand above those of its part, these above the recipe's."""
    made, notes = run(THREE_PARTS)
    a, b, c = (three[name] for name in "abc")
    assert made.keys() == a.keys()
    for name in made:
        if name.startswith("vision_tower"):
            wanted = (b[name].astype(float) + 3 * c[name]) / 4
        elif name.startswith("multi_modal"):
            wanted = c[name]
        else:
            wanted = (0.25 * a[name].astype(float) + 0.5 * b[name]) / 0.75
        np.testing.assert_allclose(made[name], wanted, rtol=2e-7, atol=1e-7, err_msg=name)
    (note,) = (note for note in notes if "modules.text_decoder" in note)
    assert note == (
        "recipe.yml, line 5, modules.text_decoder: is the 24 parameters that no other part has"
        " ('language_model.lm_head.weight', 'language_model.model.embed_tokens.weight')"
    )
    assert netweight.verify("out").good


def test_a_filter_that_fits_nothing_in_a_part_leaves_it_to_the_recipe(three) -> None:
    made, _ = run("""
merge_method: linear
parameters: {weight: 1, normalize: false}
modules:
  language_model:
    models: [{model: a}, {model: b}]
    parameters: {weight: [{filter: up_proj, value: 0.5}]}
  vision_tower: {models: [{model: a}]}
  multi_modal_projector: {models: [{model: a}], parameters: {weight: 2}}
""")
    a, b = three["a"], three["b"]
    for name in made:
        scale = 0.5 if "up_proj" in name and "language" in name else 2 if "multi" in name else 1
        wanted = scale * (a[name] + (b[name] if "language" in name else 0))
        np.testing.assert_allclose(made[name], wanted, rtol=1e-6, atol=1e-6, err_msg=name)


def test_layers_of_the_text_beside_whole_towers(three) -> None:
    made, _ = run("""
merge_method: passthrough
modules:
  vision_tower: {models: [{model: c}]}
  multi_modal_projector: {models: [{model: b}]}
  text_decoder:
    slices:
    - sources: [{model: a, layer_range: [0, 2]}]
    - sources: [{model: b, layer_range: [1, 3]}]
""")
    a, b, c = (three[name] for name in "abc")
    layer = "language_model.model.layers."
    for n, (model, number) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2)]):
        for tail in ("mlp.up_proj.weight", "input_layernorm.weight"):
            np.testing.assert_array_equal(made[f"{layer}{n}.{tail}"], model[f"{layer}{number}.{tail}"])
    assert len([name for name in made if name.startswith(layer)]) == 4 * 7
    for name in of(c, "vision_tower"):
        np.testing.assert_array_equal(made[name], c[name])
    np.testing.assert_array_equal(
        made["multi_modal_projector.linear_1.weight"], b["multi_modal_projector.linear_1.weight"]
    )
    np.testing.assert_array_equal(
        made["language_model.model.embed_tokens.weight"], a["language_model.model.embed_tokens.weight"]
    )
    np.testing.assert_array_equal(made["language_model.lm_head.weight"], b["language_model.lm_head.weight"])
    assert json.loads(Path("out/config.json").read_text(encoding="utf-8"))["text_config"]["num_hidden_layers"] == 4
    assert netweight.verify("out").good


def test_a_base_and_a_model_without_a_tower(three, tmp_path) -> None:
    """What a part does not take of a model is listed, and no model must hold what only other parts take."""
    text = seeing(7, vision=False)
    (tmp_path / "t").mkdir()
    save_file(text, tmp_path / "t/model.safetensors")
    (tmp_path / "t/config.json").write_text(json.dumps(CONFIG))
    made, _ = run("""
merge_method: task_arithmetic
base_model: a
parameters: {weight: 0.5}
modules:
  language_model: {models: [{model: t}]}
  vision_tower: {models: [{model: b}]}
  multi_modal_projector: {models: [{model: b}]}
""")
    a, b = three["a"], three["b"]
    for name in made:
        other = text if name.startswith("language") else b
        wanted = a[name] + 0.5 * (other[name].astype(float) - a[name])
        np.testing.assert_allclose(made[name], wanted, rtol=1e-6, atol=1e-6, err_msg=name)
    dropped = json.loads(Path("out/netweight_merge.json").read_text(encoding="utf-8"))["dropped"]
    assert {entry["name"] for entry in dropped} == of(b, "language_model")
    assert {entry["reason"] for entry in dropped} == {"the recipe takes other parts of b"}


def test_one_part_is_the_model(three) -> None:
    """With parameters beside it too."""
    for parameters in ("", "parameters: {weight: 1}\n"):
        inner = "" if parameters else "    parameters: {weight: 1}\n"
        models = f"    models: [{{model: a}}, {{model: b}}]\n{inner}"
        made, notes = run(f"merge_method: linear\n{parameters}modules:\n  default:\n{models}", overwrite=True)
        for name in made:
            np.testing.assert_allclose(made[name], (three["a"][name] + three["b"][name]) / 2, rtol=1e-6, atol=1e-7)
        assert not [note for note in notes if "modules" in note]


def test_the_record_holds_the_parts(three) -> None:
    recipe = parse_recipe(THREE_PARTS, "m.yml")
    assert parse_recipe(write_recipe(recipe), "again") == recipe
    assert recipe.references() == ("a", "b", "c")


A = "{models: [{model: a}]}"
CUT = "{slices: [{sources: [{model: a, layer_range: [0, 1]}]}]}"
FAULTS = {
    f"modules: {{vision_tower: {A}, multi_modal_projector: {A}}}": (
        r"modules: no part has 'language_model.lm_head.weight' and 23 more of a: name one for it \(language_model"
    ),
    f"modules: {{vision_towr: {A}, language_model: {A}}}": (
        r"modules.vision_towr: no parameter of a stands in a module 'vision_towr' \(did you mean 'vision_tower'\?\)"
    ),
    f"modules: {{one: {A}, two: {A}}}": r"modules.one: no parameter of a stands in a module 'one'; it has language_mod",
    f"modules: {{text_decoder: {A}, audio: {A}}}": r"modules.text_decoder: no parameter of a stands in a module",
    "modules: {}": r"modules: expected at least one part, got",
    "modules: {default: {models: []}}": r"expected models \(or slices\) with at least one model, got none",
    f"modules: {{default: {A}}}\nmodels: [{{model: a}}]": r"expected models, slices or modules, got two",
    f"modules: {{default: {{models: [{{model: a, wieght: 1}}]}}, x: {A}}}": r"unknown key 'wieght'",
    f"modules: {{default: {{model: [a]}}, x: {A}}}": r"modules.default.model: unknown key 'model' .did you mean",
    f"modules: {{text_decoder: {A}, vision_tower: {CUT}, multi_modal_projector: {A}}}": (
        r"slices are of the main stack of layers, which is that of text_decoder; write models for vision_tower"
    ),
    f"modules: {{text_decoder: {{models: [{{model: a, parameters: {{wieght: 1}}}}]}}, vision_tower: {A}}}": (
        r"recipe.yml, line 3, modules.text_decoder.models\[0\].parameters.wieght: unknown setting"
    ),
}


@pytest.mark.parametrize("text", FAULTS)
def test_parts_that_cannot_be(three, text) -> None:
    with pytest.raises((InputError, OptionError), match=FAULTS[text]):
        run(f"merge_method: linear\nparameters: {{weight: 1}}\n{text}\n")
