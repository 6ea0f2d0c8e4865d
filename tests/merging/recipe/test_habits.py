"""Recipes as people write them, which mergekit reads in the same way or whose keys it ignores."""

from __future__ import annotations

import pytest

from netweight.errors import OptionError
from netweight.merging.recipe.conditions import Conditions
from netweight.merging.recipe.habits import SETTINGS
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.registry import METHODS
from netweight.merging.settings import WITHOUT_EFFECT, check_settings, resolve

TWO = "merge_method: linear\nmodels:\n- model: lab/a\n- model: lab/b\n"


def read(text):
    return parse_recipe(text, "m.yml")


def test_every_setting_is_known_by_its_name():
    """A setting of one method is a word that people leave in recipes of others."""
    every = {setting.name for method in METHODS.values() for setting in method.settings}
    assert every | WITHOUT_EFFECT.keys() <= SETTINGS


def test_null_is_absent():
    recipe = read(f"{TWO}chat_template: null\ndtype: ~\nbase_model: null\nslices: null\n")
    assert (recipe.dtype, recipe.base, recipe.notes) == (None, None, ())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("'0.5'", 0.5),
        ('"2"', 2),
        ("['0.1', 1]", (0.1, 1)),
        ("[{filter: '1', value: '0.25'}, {value: 1}]", Conditions(("1", None), (0.25, 1))),
    ],
)
def test_numbers_in_quotes(written, meant):
    assert read(f"{TWO}parameters: {{weight: {written}}}\n").parameters == {"weight": meant}


@pytest.mark.parametrize("written", ["half", "'1,5'", "nan", "'inf'", "1e999", "''"])
def test_text_is_no_number(written):
    with pytest.raises(OptionError, match=r"m.yml, line 5, parameters.weight: expected a"):
        read(f"{TWO}parameters: {{weight: {written}}}\n")


@pytest.mark.parametrize(("written", "meant"), [("1.0", True), ("0", False), ("1", True), ("'1'", True)])
def test_flags_as_numbers(written, meant):
    recipe = read(f"{TWO}parameters: {{weight: 1, normalize: {written}}}\n")
    method = METHODS["linear"]
    assert check_settings(method, recipe) == ()
    whole, _ = resolve(method, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.0)
    assert whole["normalize"] is meant


def test_a_density_above_one_is_one():
    recipe = read(
        "merge_method: ties\nbase_model: lab/base\nmodels:\n- {model: lab/a, parameters: {weight: 1, density: 1.5}}\n"
        "- {model: lab/b, parameters: {weight: 1, density: [0.5, 3]}}\n"
    )
    method = METHODS["ties"]
    (note,) = check_settings(method, recipe)
    assert note.startswith("m.yml, line 4, models[0].parameters.density and 1 more: a density above 1 is 1: every")
    _, each = resolve(method, recipe, slice_number=None, sources=recipe.models, name="x", depth=1.0)
    assert [own["density"] for own in each] == [1.0, 1.0]
    _, each = resolve(method, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.5)
    assert each[1]["density"] == 0.75


def test_layers_as_floats():
    source = "{model: lab/a, layer_range: [0, 4.0]}"
    recipe = read(f"merge_method: passthrough\nslices:\n- sources: [{source}]\n")
    assert recipe.slices[0].sources[0].layers == (0, 4)
    with pytest.raises(OptionError, match="expected two whole numbers"):
        read("merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 4.5]}]\n")


def test_one_folder_is_one_model_however_it_is_written(tmp_path, monkeypatch):
    """Only where it is here: ./name that is not must not be looked for on the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    recipe = read("merge_method: ties\nbase_model: a\nmodels: [{model: ./a}, {model: ./lab/b}]\n")
    assert recipe.references() == ("a", "./lab/b")
    assert read(f"{TWO}base_model: a/\n").base == "a"
    with pytest.raises(OptionError, match="'a' stands 2 times"):
        read("merge_method: linear\nmodels: [{model: a}, {model: ./a}]\n")


def test_a_base_that_slices_name():
    part = "- base_model: {}\n  sources: [{{model: lab/a, layer_range: [0, 2]}}]\n"
    head = "merge_method: ties\nslices:\n"
    assert read(head + part.format("lab/base") + part.format("lab/base")).base == "lab/base"
    assert read(head + part.format("lab/base") + "base_model: lab/base\n").base == "lab/base"
    for others in ("lab/other", None):
        last = part.format(others) if others else "- sources: [{model: lab/a, layer_range: [0, 2]}]\n"
        with pytest.raises(OptionError, match=r"slices\[0\].base_model: unknown key"):
            read(head + part.format("lab/base") + last)


def test_modules_with_a_default_alone():
    """Messages name the lines of what they are about."""
    models = "    models:\n    - model: lab/a\n      parameters: {weight: 1}\n    - model: lab/b\n"
    inside = f"modules:\n  default:\n{models}"
    recipe = read(f"merge_method: linear\n{inside}")
    assert recipe.references() == ("lab/a", "lab/b")
    assert [source.line for source in recipe.models] == [5, 7]
    with pytest.raises(OptionError, match="expected models, slices or modules, got two"):
        read(f"merge_method: linear\n{inside}models: [{{model: lab/c}}]\n")


def test_types_of_a_part_do_not_count():
    """As in mergekit 0.1.5, which writes float32 here."""
    inside = "modules:\n  default:\n    models: [{model: lab/a}]\n    dtype: float16\n    base_model: lab/base\n"
    recipe = read(f"merge_method: linear\n{inside}")
    assert (recipe.dtype, recipe.base) == (None, None)
    assert recipe.references() == ("lab/a",)
    assert len(recipe.notes) == 2


def test_habits_inside_of_modules():
    part = "models: [{model: lab/a, revision: x, parameters: {weight: '2'}}]"
    cut = "slices: [{sources: [{model: lab/b, layer_range: [0, 4.0]}]}]"
    recipe = read(f"merge_method: linear\nmodules:\n  one: {{{part}, dtype: float16}}\n  two: {{{cut}}}\n")
    (_, one), (_, two) = recipe.modules
    assert one.models[0].parameters == {"weight": 2}
    assert two.slices[0].sources[0].layers == (0, 4)
    assert [note.partition(" is ignored")[0] for note in recipe.notes] == [
        "m.yml, line 3, modules.one.dtype: dtype",
        "m.yml, line 3, modules.one.models[0].revision: revision",
    ]


def test_keys_that_mergekit_ignores_are_said_once():
    first = "- model: lab/a\n  revision: main\n  weight: 0.5\n"
    recipe = read(f"merge_method: linear\nmodels:\n{first}- model: lab/b\n  revision: v2\nselect_topk: 0.1\n")
    ignored = "is ignored, as mergekit ignores it"
    assert recipe.notes == (
        f"m.yml, line 8, select_topk: select_topk {ignored}: settings stand under parameters",
        f"m.yml, line 4, models[0].revision and 1 more: revision {ignored}: it has no meaning there",
        f"m.yml, line 5, models[0].weight: weight {ignored}: settings stand under parameters",
    )


@pytest.mark.parametrize("key", ["wieght: 1", "chat_template: alpacca", "tokens: {}", "experts: []"])
def test_what_is_not_known_or_changes_the_result_is_refused(key):
    with pytest.raises(OptionError, match=r"m.yml, line 5, "):
        read(f"{TWO}{key}\n")


def test_settings_of_other_methods_have_no_effect():
    recipe = read(
        "merge_method: slerp\nbase_model: lab/a\nparameters: {t: 0.5, normalize: true}\n"
        "models:\n- {model: lab/a, parameters: {weight: 1}}\n- {model: lab/b, parameters: {weight: 1, density: 0.5}}\n"
    )
    assert check_settings(METHODS["slerp"], recipe) == (
        "m.yml, line 3, parameters.normalize: normalize has no effect: slerp has none",
        "m.yml, line 5, models[0].parameters.weight and 1 more: weight has no effect: slerp has none",
        "m.yml, line 6, models[1].parameters.density: density has no effect: slerp has none",
    )
