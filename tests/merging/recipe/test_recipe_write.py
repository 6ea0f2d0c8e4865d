"""What is written is read back as the same recipe, by this project and by any reader of YAML 1.1."""

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.errors import OptionError
from netweight.merging.method import Base, Method, Setting
from netweight.merging.recipe.conditions import Conditions
from netweight.merging.recipe.recipe import (
    Recipe,
    Slice,
    Source,
    build_recipe,
    parse_recipe,
    recipe_mapping,
    write_recipe,
)
from netweight.merging.recipe.tokens import TokenizerChoice, TokenRule
from netweight.merging.registry import find
from netweight.merging.settings import resolve

texts = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip),
    st.sampled_from(
        ["1e-5", "12", "yes", "null", "~", "1:30", "2024-01-01", "a: b", "# c", "*x", "- d", "c++/m", "m@v1", "<<"]
    ),
)
numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False))
values = st.one_of(
    st.booleans(),
    numbers,
    st.lists(numbers, min_size=1, max_size=4).map(tuple),
    st.lists(st.booleans(), min_size=1, max_size=3).map(tuple),
)
conditions = st.lists(
    st.tuples(st.none() | st.text(st.characters(codec="utf-8"), max_size=9), values), min_size=1, max_size=4
)
filtered = conditions.map(lambda pairs: Conditions(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)))
# Keys of the recipe and of a model, which are refused as names of settings; `<<` is YAML's own.
BESIDE = [
    "merge_method", "base_model", "models", "slices", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template",
]  # fmt: skip
# Hypothesis draws words of the sources too, and so these.
settings_names = texts.filter(lambda text: text not in {"<<", *BESIDE})
parameters = st.dictionaries(settings_names, values | filtered, max_size=3)
templates = st.none() | st.sampled_from(["auto", "chatml", "llama3"]) | texts.map("{{{{ x }}}}\r\n{} ".format)
dtypes = st.none() | st.sampled_from([DTYPES[name] for name in ("F32", "F16", "BF16", "F64")])


@st.composite
def slices(draw):
    begin, length = draw(st.integers(0, 50)), draw(st.integers(1, 9))
    models = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    return Slice(tuple(Source(m, (begin, begin + length), draw(parameters)) for m in models), draw(parameters))


rules = st.one_of(
    st.just(TokenRule()),
    st.builds(TokenRule, model=texts, force=st.booleans()),
    st.builds(TokenRule, model=texts, token=texts | st.integers(0, 99), force=st.booleans()),
    st.builds(TokenRule, zero=st.just(True), force=st.booleans()),
)
sources = st.sampled_from(["base", "union"])
choices = st.builds(
    TokenizerChoice, sources, st.dictionaries(texts, rules, max_size=2), st.none() | st.integers(1, 256)
)


@st.composite
def recipes(draw):
    models, parts = (), ()
    if draw(st.booleans()):
        names = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
        models = tuple(Source(name, None, draw(parameters)) for name in names)
    else:
        parts = tuple(draw(st.lists(slices(), min_size=1, max_size=3)))
    base, source, name = draw(st.none() | texts), draw(st.none() | choices), draw(st.none() | texts)
    dtype, out = draw(dtypes), draw(dtypes)
    return Recipe(draw(texts), base, models, parts, draw(parameters), dtype, out, source, "made", name, draw(templates))


@settings(max_examples=150, deadline=None)
@given(recipes(), st.lists(st.text(max_size=30), max_size=2))
def test_what_is_written_is_read_back(recipe, comments):
    text = write_recipe(recipe, comments)
    again = parse_recipe(text, "again.yml")
    assert again == recipe
    assert recipe_mapping(again) == recipe_mapping(recipe)
    assert yaml.safe_load(text) == recipe_mapping(recipe)  # PyYAML, which mergekit reads with
    assert json.loads(json.dumps(recipe_mapping(recipe))) == recipe_mapping(recipe)


@pytest.mark.parametrize("key", BESIDE)
@pytest.mark.parametrize("inside", [False, True], ids=["of the recipe", "of a model"])
def test_a_key_of_the_recipe_is_no_name_of_a_setting(key, inside):
    own = {key: 1.0}
    models = (Source("a", None, own if inside else {}),)
    recipe = Recipe("linear", None, models, (), {} if inside else own, None, None, None, "made", None)
    with pytest.raises(OptionError, match=f"the key '{key}' stands beside parameters, not under it: move it out"):
        parse_recipe(write_recipe(recipe), "x")


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_exactly(number):
    text = write_recipe(build_recipe("linear", None, ["a"], weights=[number]))
    for weight in (
        parse_recipe(text, "x").models[0].parameters["weight"],
        yaml.safe_load(text)["models"][0]["parameters"]["weight"],
    ):
        assert isinstance(weight, float)
        assert weight.hex() == number.hex()


def test_the_text_is_what_a_person_would_write():
    recipe = build_recipe(
        "ties", "lab/base", ["lab/a", "c++/b"], weights=[0.5, 1e-5], settings={"normalize": True}, dtype=DTYPES["BF16"]
    )
    assert write_recipe(recipe, ["made by netweight"]) == (
        "# made by netweight\n"
        "merge_method: ties\n"
        "base_model: lab/base\n"
        "models:\n"
        "- model: lab/a\n"
        "  parameters: {weight: 0.5}\n"
        "- model:\n"
        "    model: {path: c++/b}\n"
        "  parameters: {weight: 1.0e-05}\n"
        "parameters: {normalize: true}\n"
        "dtype: bfloat16\n"
    )


@pytest.mark.parametrize(
    "comment", ["a\nmerge_method: evil", "a\r\nb: 1", "a\u2028b: 1", "a\x85b: 1", "\x1b[31m", "\ud800"]
)
def test_a_comment_cannot_leave_its_line(comment):
    recipe = build_recipe("linear", None, ["a"])
    text = write_recipe(recipe, [comment])
    assert parse_recipe(text, "x") == recipe
    assert text.splitlines()[1:] == write_recipe(recipe).splitlines()
    assert text.splitlines()[0].isprintable()


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(OptionError, match="cannot be written as UTF-8"):
        write_recipe(build_recipe("linear", None, ["a\udcff"]))


def test_an_element_type_without_a_name_in_recipes_is_refused():
    recipe = build_recipe("linear", None, ["a"], out_dtype=DTYPES["I8"])
    with pytest.raises(OptionError, match="expected an output of float32, float16, bfloat16, float64, got I8"):
        write_recipe(recipe)


# ---- recipes of options

METHOD = Method("m", "", "", "", Base.REQUIRED, (1, None), (Setting("weight", "", per_model=True),), lambda _: None)
NAMES = [
    *(f"model.layers.{n}.{part}" for n in (1, 11, 111, 2) for part in ("x", "x.weight", "mlp.x.weight")),
    "lm_head.weight",
    "foo.lm_head.weight",
    "lm_head.weight.scale",
    "weight",
    "x",
    "model.norm.weight",
]


def weights_of(recipe, name):
    _, each = resolve(METHOD, recipe, slice_number=None, sources=recipe.models, name=name, depth=0.3)
    return [row["weight"] for row in each]


def test_every_parameter_gets_its_own_weights():
    wanted = {name: (n + 0.25, -n / 7 - 1) for n, name in enumerate(NAMES)}
    made = build_recipe("m", "base", ["a", "b"], weights=wanted)
    for recipe in (made, parse_recipe(write_recipe(made), "x")):
        for name, row in wanted.items():
            assert weights_of(recipe, name) == list(row)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text("ab.1", min_size=1, max_size=6),
        st.lists(st.floats(-9, 9), min_size=2, max_size=2),
        min_size=1,
        max_size=30,
    )
)
def test_every_parameter_gets_its_own_weights_whatever_the_names(wanted):
    recipe = build_recipe("m", "base", ["a", "b"], weights=wanted)
    for name, row in wanted.items():
        assert weights_of(recipe, name) == row


def test_equal_weights_need_no_filters():
    recipe = build_recipe("m", "base", ["a", "b"], weights={"x": (0.5, 1), "y": (0.5, 2)})
    assert recipe.models[0].parameters == {"weight": 0.5}
    assert recipe.models[1].parameters == {"weight": Conditions(("x", "y"), (1.0, 2.0))}


def test_settings_are_the_recipes_own_parameters():
    recipe = build_recipe("m", None, ["a"], settings={"t": [0, 1], "k": {"filter": "mlp", "value": 2}})
    assert recipe.parameters == {"t": (0, 1), "k": Conditions(("mlp",), (2,))}
    assert recipe.models == (Source("a", None, {}),)
    assert [source.line for source in recipe.models] == [0]  # there is no file
    assert recipe.where("parameters", "t") == "the command line, parameters.t"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"weights": [1.0]}, "the command line: expected 2 weights, one for each model, got 1"),
        (
            {"weights": {"x": (1, 2), "y": (1, 2, 3)}},
            "the command line: expected 2 weights, one for each model, got 2, 3",
        ),
        ({"weights": [1.0, math.nan]}, "the command line: expected a finite number, got nan"),
        ({"weights": {"*": (1, 2), "y": (2, 3)}}, "a parameter named '*' cannot have its own weight"),
        ({"settings": {"t": "x"}}, "the command line: t: expected a number, true or false, a list of them, or filters"),
    ],
)
def test_options_that_cannot_be(arguments, expected):
    with pytest.raises(OptionError) as caught:
        build_recipe("m", "base", ["a", "b"], **arguments)
    assert expected in str(caught.value)


def test_models_that_cannot_be():
    with pytest.raises(OptionError, match=r"the command line, models\[1\]\.model: 'a' stands 2 times"):
        build_recipe("m", "base", ["a", "a"])
    with pytest.raises(OptionError, match="the command line: expected models"):
        build_recipe("m", "base", [])


def test_blocks_with_one_weight_are_one_filter() -> None:
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(12) for part in ("q", "k", "norm")]
    rows = {name: (float(name.split(".")[2]), 1.0) for name in names} | {"model.norm.weight": (50.0, 2.0)}
    rows["model.layers.7.k.weight"] = (70.5, 1.0)  # a block that does not agree
    rows["outer.model.layers.3.q.weight"] = (99.0, 1.0)  # `model.layers.3.` is a part of this name
    recipe = build_recipe("task_arithmetic", "base", ["a", "b"], weights=rows)
    assert len(recipe.models[0].parameters["weight"].filters) == 10 + 3 + 3 + 1 + 1
    for name, row in rows.items():
        _, each = resolve(
            find("task_arithmetic"), recipe, slice_number=None, sources=recipe.models, name=name, depth=0.0
        )
        assert tuple(one["weight"] for one in each) == row


def test_weights_by_name_reach_a_model_whose_names_have_a_prefix() -> None:
    rows = {"layers.0.q.weight": (1.0, 2.0), "layers.1.q.weight": (3.0, 4.0)}
    recipe = build_recipe("task_arithmetic", "base", ["a", "b"], weights=rows)
    for name, row in rows.items():
        _, each = resolve(
            find("task_arithmetic"),
            recipe,
            slice_number=None,
            sources=recipe.models,
            name=name,
            depth=0.0,
            names=[name, f"module.{name}"],
        )
        assert tuple(one["weight"] for one in each) == row


def test_a_block_stands_before_names_that_are_parts_of_its_own():
    """Found by chance: `.1` is a part of `1.1`, which is of the block `1.`."""
    wanted = {"1.": [0.0, 0.0], ".1": [0.0, 1.0], "1.1": [0.0, 0.0]}
    recipe = build_recipe("m", "base", ["a", "b"], weights=wanted)
    for made in (recipe, parse_recipe(write_recipe(recipe), "x")):
        assert {name: weights_of(made, name) for name in wanted} == wanted
