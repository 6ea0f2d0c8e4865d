"""Values of settings for one parameter: levels, gradients and filters give what mergekit 0.1.5 gives (its numbers stand
below as they were observed), and what cannot be is said.
"""

import time

import numpy as np
import pytest
from slowness import slowness

from netweight.errors import OptionError
from netweight.merging.method import Base, Method, Setting
from netweight.merging.recipe.conditions import Conditions
from netweight.merging.recipe.recipe import build_recipe, parse_recipe
from netweight.merging.registry import METHODS
from netweight.merging.settings import check_settings, resolve

METHOD = Method(
    name="ties",
    title="",
    formula="",
    source="",
    base=Base.REQUIRED,
    models=(1, None),
    settings=(
        Setting("weight", "", per_model=True),
        Setting("density", "", per_model=True, default=1.0, low=0.0, high=1.0, open_low=True),
        Setting("lambda", "", default=1.0),
        Setting("normalize", "", kind="flag", default=False),
        Setting("max_iter", "", kind="integer", default=10, low=1),
        Setting("eps", "", default=0.5, high=1.0, open_high=True),
        Setting("t", "", default=0.5, low=0.0, open_low=True),
    ),
    course=lambda _: None,
)
BLOCKS = 5
HEAD = "merge_method: ties\nbase_model: b\n"
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def read(text):
    return parse_recipe(HEAD + text, "merge.yml")


def value(recipe, name, depth=0.0, setting="weight", *, part=None, names=None):
    """What `setting` is for the first model (or for the whole)."""
    sources = recipe.models or recipe.slices[part].sources
    whole, each = resolve(METHOD, recipe, slice_number=part, sources=sources, name=name, depth=depth, names=names)
    return whole[setting] if setting in whole else each[0][setting]


def over_blocks(recipe, kind="mlp.up_proj.weight", setting="weight"):
    return [value(recipe, f"model.layers.{n}.{kind}", n / (BLOCKS - 1), setting) for n in range(BLOCKS)]


def with_weight(text, more=""):
    return read(f"models:\n- model: a\n  parameters:\n    weight: {text}\n{more}")


# ---- values


def test_numbers_become_floats_and_the_rest_stays():
    recipe = read("models: [{model: a, parameters: {weight: 1}}]\nparameters: {normalize: true, max_iter: 3}\n")
    whole, each = resolve(METHOD, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.0)
    assert whole == {"lambda": 1.0, "normalize": True, "max_iter": 3, "eps": 0.5, "t": 0.5}
    assert each == ({"weight": 1.0, "density": 1.0},)
    assert [type(v) for v in whole.values()] == [float, bool, int, float, float]
    assert type(each[0]["weight"]) is float


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[1, 0.5, 0.1]", [1.0, 0.75, 0.5, 0.3, 0.1]),
        ("[1, 3]", [1.0, 1.5, 2.0, 2.5, 3.0]),
        ("[0, 1, 10, 100]", [0.0, 0.75, 5.5, 32.5, 100.0]),
        ("[3]", [3.0] * 5),
        ("0.25", [0.25] * 5),
    ],
)
def test_gradients_go_over_the_blocks(text, wanted):
    np.testing.assert_allclose(over_blocks(with_weight(text)), wanted, rtol=1e-15)


def test_gradients_are_linear_between_their_values_and_exact_at_them():
    numbers = [0.1, 0.7, 0.3, 0.3, 1e-9, 5.0]
    recipe = with_weight(str(numbers))
    depths = np.linspace(0, 1, 101)
    found = [value(recipe, "x", depth) for depth in depths]
    np.testing.assert_allclose(found, np.interp(depths, np.linspace(0, 1, 6), numbers), rtol=1e-14, atol=1e-15)
    assert [value(recipe, "x", n / 5) for n in (0, 5)] == [0.1, 5.0]


@pytest.mark.parametrize(
    ("text", "wanted"), [("[true, false]", [1, 1, 1, 1, 0]), ("[true, false, true]", [1, 1, 0, 0, 1])]
)
def test_flags_change_in_steps(text, wanted):
    recipe = with_weight("1", f"parameters: {{normalize: {text}}}\n")
    assert over_blocks(recipe, setting="normalize") == [bool(flag) for flag in wanted]


def test_the_first_filter_that_is_a_part_of_the_name():
    recipe = with_weight(
        "[{filter: mlp, value: [1, 2, 3]}, {filter: self_attn, value: 5}, {filter: model.layers.1, value: 7},"
        " {filter: lm_head, value: [11, 13]}, {filter: embed, value: [17, 19]}, {value: 9}]"
    )
    assert over_blocks(recipe) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert over_blocks(recipe, "self_attn.q_proj.weight") == [5.0] * 5
    assert over_blocks(recipe, "input_layernorm.weight") == [9.0, 7.0, 9.0, 9.0, 9.0]
    assert [value(recipe, name) for name in OUTSIDE] == [17.0, 9.0, 11.0]


@pytest.mark.parametrize("first", ["filter: '*', ", "filter: '', ", "filter: null, ", ""])
def test_what_fits_everything_ends_the_list(first):
    recipe = with_weight(f"[{{{first}value: 4}}, {{filter: mlp, value: 5}}]")
    assert [value(recipe, name) for name in (*OUTSIDE, "x.mlp.y")] == [4.0] * 4


def test_a_filter_is_text_and_no_pattern():
    recipe = with_weight("[{filter: self.attn, value: 4}, {filter: 'mlp*', value: 6}, {value: 1}]")
    assert over_blocks(recipe) + over_blocks(recipe, "self_attn.q_proj.weight") == [1.0] * 10


def test_filters_are_found_alike_in_any_order():
    names = [f"{a}{b}" for a in ("", "x.", "y.x.") for b in ("x", "xx", "x.1", "z")]
    rng = np.random.default_rng(5)
    for _ in range(200):
        words = [None if word == "none" else str(word) for word in rng.choice([*names, "*", "none"], 6)]
        if rng.random() < 0.5:
            words.sort(key=lambda word: -1 if word in {None, "*"} else len(word), reverse=True)
        for name in names:
            wanted = [n for n, word in enumerate(words) if word is None or word == "*" or word in name]
            assert Conditions(tuple(words), tuple(range(6))).find(name) == (wanted[0] if wanted else None)


# ---- levels


def test_where_no_filter_fits_the_next_level_counts():
    recipe = with_weight("{filter: mlp, value: 4}", "parameters: {weight: 2}\n")
    assert value(recipe, "model.layers.0.mlp.x") == 4.0
    assert value(recipe, "model.norm.weight") == 2.0


def test_and_behind_the_last_one_the_default():
    recipe = with_weight("1", "parameters: {lambda: [{filter: mlp, value: [3, 2]}]}\n")
    assert over_blocks(recipe, setting="lambda") == [3.0, 2.75, 2.5, 2.25, 2.0]
    assert value(recipe, "model.norm.weight", setting="lambda") == 1.0


SLICES = """slices:
- sources:
  - {model: a, layer_range: [0, 2], parameters: {weight: {filter: mlp, value: 1}}}
  parameters: {weight: {filter: attn, value: 2}}
- sources: [{model: a, layer_range: [2, 5]}]
  parameters: {weight: 2, lambda: [2, 5]}
- sources: [{model: a, layer_range: [0, 1], parameters: {weight: 7}}]
  parameters: {weight: 8}
parameters: {weight: 3, lambda: 4}
"""


@pytest.mark.parametrize(
    ("part", "name", "wanted"), [(0, "mlp", 1), (0, "attn", 2), (0, "norm", 3), (1, "mlp", 2), (2, "mlp", 7)]
)
def test_source_before_slice_before_recipe(part, name, wanted):
    assert value(read(SLICES), f"model.layers.0.{name}", part=part) == wanted


def test_a_slice_has_settings_of_the_method_too():
    recipe = read(SLICES)
    assert [value(recipe, "x", depth, "lambda", part=1) for depth in (0.0, 0.5, 1.0)] == [2.0, 3.5, 5.0]
    assert value(recipe, "x", 1.0, "lambda", part=0) == 4.0


def test_filters_see_the_name_that_the_model_has_and_for_the_method_that_of_the_output():
    text = "slices:\n- sources: [{model: a, layer_range: [3, 5]}]\nparameters:\n"
    listed = "[{filter: layers.3, value: 3}, {filter: layers.0, value: 10}, {value: 1}]"
    recipe = read(text + f"  weight: {listed}\n  lambda: {listed}\n")
    found = {
        setting: value(recipe, "model.layers.0.x", setting=setting, part=0, names=["model.layers.3.x"])
        for setting in ("weight", "lambda")
    }
    assert found == {"weight": 3.0, "lambda": 10.0}


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ("[{filter: model.x, value: 2}]", 2.0),
        ("[{filter: w.model.x, value: 3}]", 3.0),
        ("[{filter: only.in, value: 2}, {filter: w.model, value: 3}]", 3.0),
        ("[{filter: output.model, value: 2}, {filter: w.model, value: 3}]", 3.0),
        ("[{filter: output.model, value: 2}]", 2.0),
        ("[{filter: output.model, value: 2}, {value: 5}]", 5.0),
    ],
)
def test_filters_of_whole_models_mean_their_own_names_before_those_of_the_output(filters, wanted):
    recipe = with_weight(filters)
    assert value(recipe, "output.model.x", names=["w.model.x"]) == wanted


def test_models_get_their_own_values_in_order():
    recipe = read(
        "models: [{model: b}, {model: a, parameters: {weight: 1}}, {model: c, parameters: {weight: 2, density: 0.5}}]\n"
    )
    _, each = resolve(METHOD, recipe, slice_number=None, sources=recipe.models[1:], name="x", depth=0.0)
    assert each == ({"weight": 1.0, "density": 1.0}, {"weight": 2.0, "density": 0.5})


# ---- what cannot be


def refused(text):
    recipe = read(text)
    with pytest.raises(OptionError) as caught:
        check_settings(METHOD, recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "models:\n- model: a\n  parameters: {wieght: 1}\n",
            (
                "merge.yml, line 5, models[0].parameters.wieght: unknown setting 'wieght' (did you mean 'weight'?): "
                "ties has weight, density, lambda, normalize, max_iter, eps, t"
            ),
        ),
        ("models: [{model: a}]\nparameters:\n  foo: 1\n", "line 5, parameters.foo: unknown setting 'foo': ties has"),
        (
            "models:\n- model: a\n  parameters:\n    lambda: 1\n",
            "line 6, models[0].parameters.lambda: lambda belongs to the whole merge, not to a model: write it",
        ),
        ("models: [{model: a}]\nparameters: {density: 0}\n", "parameters.density: expected a number in (0, 1], got 0"),
        (
            "models: [{model: a}]\nparameters: {density: [1, 0.5, -1]}\n",
            "parameters.density[2]: expected a number in (0, 1], got -1",
        ),
        (
            "models: [{model: a}]\nparameters:\n  density:\n  - {filter: x, value: 1}\n  - {value: [1, -2]}\n",
            "line 7, parameters.density[1].value[1]: expected a number in (0, 1], got -2",
        ),
        ("models: [{model: a}]\nparameters: {weight: true}\n", "parameters.weight: expected a number, got true"),
        ("models: [{model: a}]\nparameters: {normalize: 2}\n", "parameters.normalize: expected true or false, got 2"),
        (
            "models: [{model: a}]\nparameters: {max_iter: 2.5}\n",
            "parameters.max_iter: expected a whole number of at least 1, got 2.5",
        ),
        (
            "models: [{model: a}]\nparameters: {max_iter: 0}\n",
            "parameters.max_iter: expected a whole number of at least 1, got 0",
        ),
        (
            "models: [{model: a}]\nparameters: {max_iter: [1, 2]}\n",
            "max_iter is a whole number, and has no gradient; write one number",
        ),
        ("models: [{model: a}]\nparameters: {eps: 1}\n", "parameters.eps: expected a number below 1, got 1"),
        ("models: [{model: a}]\nparameters: {t: 0}\n", "parameters.t: expected a number above 0, got 0"),
        ("models: [{model: a}]\nparameters: {int8_mask: 3}\n", "parameters.int8_mask: expected true or false, got 3"),
        (
            "slices:\n- sources:\n  - model: a\n    layer_range: [0, 1]\n    parameters:\n      density: -2\n",
            "line 8, slices[0].sources[0].parameters.density: expected a number in (0, 1], got -2",
        ),
        (
            "slices:\n- sources: [{model: a, layer_range: [0, 1]}]\n  parameters:\n    densty: 2\n",
            "line 6, slices[0].parameters.densty: unknown setting 'densty' (did you mean 'density'?)",
        ),
    ],
)
def test_settings_that_cannot_be(text, expected):
    assert expected in refused(text)


SHARE, POSITIVE, ANY = ("0", "1", "-0.001", "1.001"), ("0", "1e9", "-0.001"), ("-1e9", "1e9")
ENDS = {
    "density": SHARE[:3],  # above 1 it is 1
    "epsilon": SHARE,
    "gamma": SHARE,
    "select_topk": SHARE,
    "eps": POSITIVE,
    "tol": POSITIVE,
    "max_iter": ("1", "1000", "0"),
    "weight": ANY,
    "lambda": ANY,
    "scale": ANY,
    ("slerp", "t"): ANY,
    ("nearswap", "t"): POSITIVE,
    ("ram", "epsilon"): POSITIVE,
    ("ramplus_tl", "epsilon"): POSITIVE,
    "r": ANY,
    "alpha": POSITIVE,
}
"""Of every number that a method takes: two values that it can have, then such that it cannot."""


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_numbers_of_every_method_have_their_ends(method):
    for setting in method.settings:
        if setting.kind == "flag":
            continue
        low, high, *beyond = ENDS.get((method.name, setting.name)) or ENDS[setting.name]
        for given in (low, high):
            check_settings(method, read(f"models: [{{model: a}}]\nparameters: {{{setting.name}: {given}}}\n"))
        for given in beyond:
            with pytest.raises(OptionError, match=rf"{setting.name}: expected a .*, got {given}$"):
                check_settings(method, read(f"models: [{{model: a}}]\nparameters: {{{setting.name}: {given}}}\n"))


def test_a_method_without_settings_says_so():
    bare = Method("arcee_fusion", "", "", "", Base.REQUIRED, (1, 1), (), lambda _: None)
    recipe = with_weight("1")
    assert check_settings(bare, recipe) == (
        "merge.yml, line 6, models[0].parameters.weight: weight has no effect: arcee_fusion has none",
    )
    with pytest.raises(OptionError, match="unknown setting 'wait': arcee_fusion has no settings"):
        check_settings(bare, read("models: [{model: a}]\nparameters: {wait: 1}\n"))
    assert resolve(bare, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.0) == ({}, ({},))


def test_what_mergekit_keeps_masks_in_changes_nothing():
    recipe = with_weight("1", "parameters: {int8_mask: true}\n")
    check_settings(METHOD, recipe)
    assert "int8_mask" not in resolve(METHOD, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.0)[0]


def test_it_may_stand_with_a_model_though_a_method_declares_it():
    mask = Setting("int8_mask", "", kind="flag", default=False)
    method = Method("dare_ties", "", "", "", Base.REQUIRED, (1, None), (*METHOD.settings, mask), lambda _: None)
    check_settings(method, read("models:\n- model: a\n  parameters: {weight: 1, int8_mask: true}\n"))


def test_values_that_are_good_pass():
    check_settings(METHOD, read(SLICES))
    check_settings(METHOD, with_weight("[{filter: x, value: [1, -2]}, {value: 3}]", "parameters: {eps: -9, t: 1e-9}\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "models:\n- model: c\n- model: a\n",
            (
                "merge.yml, line 4, models[0]: no value for weight of c: ties needs it; write weight: ... (a number) "
                "under the model's parameters, or the recipe's"
            ),
        ),
        (
            "models:\n- model: a\n  parameters: {weight: {filter: mlp, value: 1}}\n",
            "line 4, models[0]: no value for weight of a: none of its filters fits model.norm.weight; write",
        ),
        (
            "models:\n- model: a\n  parameters: {weight: 1, density: -7}\n",
            "models[0]: density for model.norm.weight: expected a number in (0, 1], got -7",
        ),
        (
            "models:\n- model: a\n  parameters: {weight: 1}\nparameters: {max_iter: [1, 2]}\n",
            "max_iter for model.norm.weight: expected a whole number",
        ),
    ],
)
def test_a_parameter_without_a_value(text, expected):
    recipe = read(text)
    with pytest.raises(OptionError) as caught:
        resolve(METHOD, recipe, slice_number=None, sources=recipe.models, name="model.norm.weight", depth=0.0)
    assert expected in str(caught.value)


def test_a_setting_of_the_method_without_a_value():
    method = Method("slerp", "", "", "", Base.REQUIRED, (1, 1), (Setting("t", "", low=0.0, high=1.0),), lambda _: None)
    recipe = read("models: [{model: a}]\n")
    with pytest.raises(
        OptionError, match=r"merge\.yml: no value for t: slerp needs it; write t: \.\.\. \(a number in \[0, 1\]\)"
    ):
        resolve(method, recipe, slice_number=None, sources=recipe.models, name="x", depth=0.0)


def test_settings_of_many_parameters_take_no_time():
    names = [f"model.layers.{n}.mlp.experts.{m}.weight" for n in range(50) for m in range(20)]
    models = [f"m{n}" for n in range(8)]
    weights = {name: [n + m / 10 for m in range(8)] for n, name in enumerate(names)}
    recipe = build_recipe("ties", "b", models, weights=weights)
    start = time.thread_time()
    for n, name in enumerate(names):
        _, each = resolve(METHOD, recipe, slice_number=None, sources=recipe.models, name=name, depth=0.5)
        assert each[3]["weight"] == n + 0.3
    assert time.thread_time() - start < 2 * slowness()  # 0.1 s usually
