"""Recipes are read as mergekit reads them; what cannot be is said in one line, with file, line and key."""

import pytest

from netweight.dtypes import DTYPES
from netweight.errors import FormatError, NetweightError, OptionError
from netweight.merging.recipe.conditions import Conditions
from netweight.merging.recipe.recipe import dtype_named, parse_recipe, read_recipes, write_recipe
from netweight.merging.recipe.tokens import TokenizerChoice, TokenRule
from netweight.merging.recipe.yaml import MAX_BYTES

HEAD = "merge_method: ties\nbase_model: lab/base\n"
MODELS = HEAD + "models:\n- model: lab/a\n"


def weight(text):
    return MODELS + f"  parameters:\n    weight: {text}\n"


def parsed_weight(text):
    return parse_recipe(weight(text), "merge.yml").models[0].parameters["weight"]


def message(text, error=OptionError):
    with pytest.raises(error) as caught:
        parse_recipe(text, "merge.yml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what mergekit's documentation and examples show, in other words


def test_whole_models_with_their_own_settings():
    recipe = parse_recipe(
        """
        name: a label
        models:
          - model: lab/base   # the base needs no settings
          - model: lab/math@v2
            parameters: {density: 0.5, weight: 0.25}
          - model: ./models/code
            parameters:
              density: [1, 0.7, 0.1]
              weight:
                - filter: mlp
                  value: 0.5
                - filter: self_attn
                  value: [0, 1]
                - value: 0
        merge_method: ties
        base_model: lab/base
        parameters:
          normalize: true
          int8_mask: yes
        dtype: float16
        out_dtype: torch.bfloat16
        tokenizer_source: base
        """,
        "merge.yml",
    )
    assert recipe.method == "ties"
    assert recipe.references() == ("lab/base", "lab/math@v2", "./models/code")
    assert recipe.models[1].parameters == {"density": 0.5, "weight": 0.25}
    assert recipe.models[2].parameters == {
        "density": (1, 0.7, 0.1),
        "weight": Conditions(("mlp", "self_attn", None), (0.5, (0, 1), 0)),
    }
    assert recipe.parameters == {"normalize": True, "int8_mask": True}
    assert (recipe.dtype, recipe.out_dtype) == (DTYPES["F16"], DTYPES["BF16"])
    assert (recipe.tokenizer, recipe.name, recipe.origin) == (TokenizerChoice("base"), "a label", "merge.yml")
    assert [source.line for source in recipe.models] == [4, 5, 7]
    assert recipe.where("models", 2, "parameters", "weight", 1) == "merge.yml, line 13, models[2].parameters.weight[1]"


def test_slices_of_two_models_with_gradients_under_filters():
    recipe = parse_recipe(
        """
        slices:
        - sources:
          - {model: lab/first, layer_range: [0, 40]}
          - {model: lab/second, layer_range: [0, 40]}
        merge_method: slerp
        base_model: lab/first
        parameters:
          t:
          - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
          - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
          - value: 0.5
        dtype: bfloat16
        """,
        "merge.yml",
    )
    assert recipe.models == ()
    assert [source.layers for source in recipe.slices[0].sources] == [(0, 40), (0, 40)]
    assert recipe.parameters["t"].filters == ("self_attn", "mlp", None)
    assert recipe.parameters["t"].values == ((0, 0.5, 0.3, 0.7, 1), (1, 0.5, 0.7, 0.3, 0), 0.5)


def test_stacked_layers_of_one_model_and_another():
    recipe = parse_recipe(
        "slices:\n- sources:\n  - model: lab/b\n    layer_range: [0, 24]\n"
        "- sources:\n  - model: lab/a\n    layer_range: [20, 40]\n"
        "  parameters: {scale: 0.5}\nmerge_method: passthrough\ndtype: float16\n",
        "merge.yml",
    )
    assert recipe.base is None
    assert recipe.references() == ("lab/b", "lab/a")
    assert recipe.slices[1].parameters == {"scale": 0.5}
    assert [part.line for part in recipe.slices] == [2, 5]


def test_the_base_is_the_first_reference_wherever_it_stands():
    recipe = parse_recipe("merge_method: ties\nmodels: [{model: a}, {model: b}, {model: c}]\nbase_model: c\n", "x")
    assert recipe.references() == ("c", "a", "b")


def test_keys_without_a_value_are_as_if_left_out():
    recipe = parse_recipe(MODELS + "  parameters:\nparameters:\ndtype:\ntokenizer_source:\nslices:\n", "x")
    assert (recipe.models[0].parameters, recipe.parameters, recipe.dtype, recipe.slices) == ({}, {}, None, ())


def test_a_model_as_a_mapping_with_path_and_revision():
    text = "merge_method: linear\nmodels:\n- model: {model: {path: lab/a, revision: v1}}\n"
    text += "- model: {model: {path: ./c++}}\n"
    assert [source.model for source in parse_recipe(text, "x").models] == ["lab/a@v1", "./c++"]


def test_the_newer_form_of_the_tokenizer():
    assert parse_recipe(MODELS + "tokenizer: {source: base}\n", "x").tokenizer == TokenizerChoice("base")
    assert parse_recipe(MODELS + "tokenizer: {}\n", "x").tokenizer == TokenizerChoice("union")
    text = (
        MODELS
        + """tokenizer:
  source: lab/b
  pad_to_multiple_of: 64
  tokens:
    <|a|>: {source: lab/a}
    <|b|>: {source: {kind: model_token, model: lab/a, token: x}, force: true}
    <|c|>: {source: {kind: model_token, model: lab/a, token_id: 7}}
    <|d|>: {source: {kind: zero}}
    <|e|>:
"""
    )
    recipe = parse_recipe(text, "x")
    rules = {
        "<|a|>": TokenRule("lab/a"),
        "<|b|>": TokenRule("lab/a", "x", force=True),
        "<|c|>": TokenRule("lab/a", 7),
        "<|d|>": TokenRule(zero=True),
        "<|e|>": TokenRule(),
    }
    assert recipe.tokenizer == TokenizerChoice("lab/b", rules, 64)
    assert recipe.references()[-1] == "lab/b"
    assert parse_recipe(write_recipe(recipe), "again").tokenizer == recipe.tokenizer


@pytest.mark.parametrize("key", ["'<<'", '"<<"', '"\\0"'])
def test_keys_in_quotes_are_no_merge_keys(key):
    tokens = parse_recipe(MODELS + f"tokenizer: {{tokens: {{{key}: {{source: lab/a}}}}}}\n", "x").tokenizer.rules
    assert tokens == {key.strip("'\"").replace("\\0", "\0"): TokenRule("lab/a")}


def test_anchors_and_merge_keys():
    text = (
        HEAD
        + "models:\n- model: a\n  parameters: &p {weight: 1, density: 0.1}\n"
        + "- model: b\n  parameters: {<<: *p, density: 0.5}\n"
    )
    recipe = parse_recipe(text + "- model: c\n  parameters: *p\n", "x")
    assert [source.parameters for source in recipe.models] == [
        {"weight": 1, "density": 0.1},
        {"weight": 1, "density": 0.5},
        {"weight": 1, "density": 0.1},
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0.5", -0.5),
        ("1e-5", 1e-5),  # text in YAML 1.1
        ("2E3", 2000.0),
        ("1.5e3", 1500.0),
        (".5e-3", 0.0005),
        ("yes", True),
        ("off", False),
        ("[1, 0.5]", (1, 0.5)),
        ("[true, false]", (True, False)),
        ("{filter: mlp, value: 1}", Conditions(("mlp",), (1,))),
        ("[{filter: '*', value: 1}]", Conditions(("*",), (1,))),
        ("[{filter: null, value: 1}]", Conditions((None,), (1,))),
    ],
)
def test_values(text, value):
    found = parsed_weight(text)
    assert found == value
    assert type(found) is type(value)


# ---- what cannot be


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + "model:\n- model: a\n",
            (
                "merge.yml, line 3, model: unknown key 'model' (did you mean 'models'?): expected one of merge_method, "
                "base_model, models, slices, modules, parameters, dtype, out_dtype, tokenizer_source, tokenizer, "
                "chat_template, name"
            ),
        ),
        (
            MODELS + "  paramters: {}\n",
            "line 5, models[0].paramters: unknown key 'paramters' (did you mean 'parameters'?)",
        ),
        (
            MODELS + "chat_template: chatlm\n",
            (
                "line 5, chat_template: expected auto, alpaca, chatml, exaone, llama3, mistral, or a template in "
                "Jinja, which holds {{ or {%; got the text 'chatlm' (did you mean 'chatml'?)"
            ),
        ),
        (
            MODELS + "chat_template: 5\n",
            "line 5, chat_template: expected auto, alpaca, chatml, exaone, llama3, mistral",
        ),
        (MODELS + "chat_template: [auto]\n", "or a template in Jinja, which holds {{ or {%; got a list"),
        (MODELS + "chat_template: {a: 1}\n", "or a template in Jinja, which holds {{ or {%; got a mapping"),
        (MODELS + 'chat_template: ""\n', "which holds {{ or {%; got the text ''"),
        (
            MODELS + f"chat_template: '{{{{ x }}}}{'x' * (1 << 20)}'\n",
            "line 5, chat_template: expected a template of at most 1048576 bytes, got 1048583",
        ),
        (MODELS + "parameters: {chat_template: auto}\n", "the key 'chat_template' stands beside parameters"),
        (HEAD + "modules: {}\n", "line 3, modules: expected at least one part, got a mapping"),
        (MODELS + "experts: []\n", "the key 'experts' is not supported: mixtures of experts are not made here"),
        (
            MODELS + "tokenizer_source: unions\n",
            "line 5, tokenizer_source: expected base, union or a model, got the text 'unions' (did you mean 'union'?)",
        ),
        (MODELS + "tokenizer_source: 3\n", "line 5, tokenizer_source: expected text, got 3"),
        (MODELS + "tokens: {}\n", "line 5, tokens: the key 'tokens' is not supported: it stands in tokenizer:"),
        (MODELS + "tokenizer: {tokens: []}\n", "tokenizer.tokens: expected a mapping of tokens, got a list"),
        (MODELS + "tokenizer: {tokens: {a: b}}\n", "tokenizer.tokens.a: expected a mapping with source and force"),
        (MODELS + "tokenizer: {tokens: {a: {src: b}}}\n", "tokenizer.tokens.a: unknown key the text 'src'"),
        (MODELS + "tokenizer: {tokens: {a: {force: true}}}\n", "a.force: force needs a source"),
        (MODELS + "tokenizer: {tokens: {a: {source: b, force: 2}}}\n", "a.force: expected true or false, got 2"),
        (MODELS + "tokenizer: {tokens: {a: {source: {kind: mean}}}}\n", "a.source.kind: expected model_token or zero"),
        (
            MODELS + "tokenizer: {tokens: {a: {source: {kind: model_token, model: b}}}}\n",
            "a.source: expected either token or token_id",
        ),
        (
            MODELS + "tokenizer: {tokens: {a: {source: {kind: model_token, model: b, token_id: -1}}}}\n",
            "a.source.token_id: expected the number of a row, got -1",
        ),
        (MODELS + "tokenizer: {pad_to_multiple_of: 0}\n", "pad_to_multiple_of: expected a whole number from 1"),
        (
            MODELS + "tokenizer: {source: base}\ntokenizer_source: base\n",
            "expected tokenizer or tokenizer_source, got both",
        ),
        (
            MODELS + "- model: {model: {path: b}, lora: c}\n",
            "models[1].model.lora: expected a mapping with path and revision, got the text 'c'",
        ),
        (
            MODELS + "- model: {path: b}\n",
            "models[1].model: expected {model: {path: ...}}, got a mapping with path alone",
        ),
        (MODELS + "- model: 12\n", "line 5, models[1].model: expected text, got 12; put it into quotes"),
        (MODELS + "- model:\n", "models[1].model: expected text, got nothing"),
        (MODELS + "- model: ''\n", "models[1].model: expected text, got the text ''"),
        (MODELS + "- lab/b\n", "models[1]: expected a mapping (lines of key: value), got the text 'lab/b'"),
        (MODELS + "- parameters: {}\n", "line 5, models[1]: the key 'model' is missing: add model: ..."),
        (HEAD + "models: {lab/a: 1}\n", "line 3, models: expected a list (lines that begin with -), got a mapping"),
        ("models: [{model: a}]\n", "merge.yml: the key 'merge_method' is missing: add merge_method: ..."),
        (
            MODELS + "dtype: bf16\n",
            "dtype: expected one of float32, float16, bfloat16, float64, got the text 'bf16' (did you mean",
        ),
        (MODELS + "out_dtype: 16\n", "line 5, out_dtype: expected one of float32, float16, bfloat16, float64, got 16"),
        (HEAD, "merge.yml: expected models (or slices) with at least one model, got none"),
        (HEAD + "models: []\n", "merge.yml: expected models (or slices) with at least one model, got none"),
        (
            MODELS + "slices:\n- sources: [{model: a, layer_range: [0, 1]}]\n",
            "line 5, slices: expected models or slices, got both",
        ),
        (
            MODELS + "- model: b\n- model: lab/a\n",
            "line 6, models[2].model: 'lab/a' stands 2 times: name each model once",
        ),
        (
            MODELS + "  layer_range: [0, 3]\n",
            "models[0].layer_range: the key 'layer_range' is not supported: models are merged",
        ),
        (MODELS + "  parameters: 3\n", "line 5, models[0].parameters: expected a mapping (lines of key: value), got 3"),
    ],
)
def test_keys_that_cannot_be(text, expected):
    assert expected in message(text)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("[{model: a}]", "line 4, slices[0].sources[0]: the key 'layer_range' is missing"),
        ("[]", "line 4, slices[0].sources: expected at least one model, got none"),
        ("[{model: a, layer_range: [2, 2]}]", "layer_range: expected [a, b) with 0 <= a < b, got [2, 2]"),
        ("[{model: a, layer_range: [-1, 2]}]", "layer_range: expected [a, b) with 0 <= a < b, got [-1, 2]"),
        (
            "[{model: a, layer_range: [0, 99999999999]}]",
            "layer_range: expected [a, b) with 0 <= a < b, got [0, 99999999999]",
        ),
        (
            "[{model: a, layer_range: [0, 1.5]}]",
            "layer_range: expected two whole numbers [first layer, layer behind the last], got [0, 1.5]",
        ),
        ("[{model: a, layer_range: 8}]", "expected two whole numbers [first layer, layer behind the last], got 8"),
        (
            "[{model: a, layer_range: [0, 2]}, {model: a, layer_range: [2, 4]}]",
            "slices[0].sources[1].model: 'a' stands 2 times",
        ),
        (
            "[{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]",
            "slices[0].sources[1].layer_range: expected 2 layers as in the slice's first source, got 3",
        ),
    ],
)
def test_slices_that_cannot_be(sources, expected):
    assert expected in message(HEAD + f"slices:\n- sources: {sources}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("half", "got the text 'half'"),
        ("", "got nothing"),
        (".nan", "weight: expected a finite number, got nan"),
        ("[1, -.inf]", "weight[1]: expected a finite number, got -inf"),
        ("0x" + "f" * 5000, "weight: expected a finite number, got a huge number"),
        ("[]", "weight: expected values, got an empty list: leave the key out"),
        ("[1, [2]]", "weight[1]: expected a number, true or false, a list of them, or filters, got a list"),
        ("[1, true]", "weight: expected numbers or flags, got both in one list"),
        ("[{filter: mlp, value: 1}, 2]", "weight[1]: expected {filter: ..., value: ...} as its neighbours are, got 2"),
        ("[{pattern: mlp, value: 1}]", "weight[0].pattern: unknown key 'pattern': expected filter and value"),
        ("[{filter: mlp}]", "weight[0]: a filter without a value: add value: ..."),
        ("[{filter: 3, value: 1}]", "weight[0].filter: expected text, a part of parameters' names, got 3"),
        (
            "[{filter: mlp, value: [{value: 1}]}]",
            "weight[0].value[0]: expected a number, true or false, a list of them, or filters, got a mapping",
        ),
        ("{filter: mlp, value: x}", "weight.value: expected a number"),
    ],
)
def test_values_that_cannot_be(text, expected):
    assert expected in message(weight(text))


@pytest.mark.parametrize(("name", "wanted"), [("float32", "F32"), ("torch.bfloat16", "BF16"), ("F64", "F64")])
def test_element_types_have_the_names_of_recipes_and_of_checkpoints(name, wanted):
    assert dtype_named(name, "--dtype") is DTYPES[wanted]


@pytest.mark.parametrize("name", ["int8", "I8", "", "auto"])
def test_element_types_that_cannot_be(name):
    expected = f"--dtype: expected one of float32, float16, bfloat16, float64, got the text '{name}'"
    with pytest.raises(OptionError, match=expected):
        dtype_named(name, "--dtype")


def test_the_first_fault_of_the_file_is_reported():
    assert "line 3, foo: unknown key 'foo'" in message(HEAD + "foo: 1\nmodels: 3\nbar: 2\n")


# ---- what is no YAML, or none that is safe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "merge.yml is empty: expected a recipe with merge_method and models or slices"),
        ("# nothing\n", "merge.yml is empty"),
        ("- a\n- b\n", "merge.yml: expected a recipe with lines of key: value, got something else"),
        ("models:\n\t- model: a\n", "merge.yml, line 2: this is no YAML: "),
        ("models:\n\t- model: a\n", "tabs cannot indent YAML: use spaces"),
        ("a: [1, 2\n", "merge.yml, line 2: this is no YAML: "),
        (MODELS + "merge_method: linear\n", "line 5: the key 'merge_method' stands twice (first in line 1): keep one"),
        (weight("{filter: a, filter: b}"), "line 6: the key 'filter' stands twice (first in line 6): keep one"),
        (MODELS + "---\n" + MODELS, "merge.yml: expected one recipe, got 2 (---): leave one"),
        ("yes: 1\n", "line 1: expected a word as key, got True; put it into quotes"),
        ("[a]: 1\n", "line 1: expected a word as key, got a list; put it into quotes"),
        ("chat_template: {{ x }}\n", "line 1: expected a word as key, got a mapping; put it into quotes"),
        (
            "a: !!python/object/apply:os.system [x]\n",
            "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not",
        ),
        ("a: !thing {}\n", "line 1: the tag '!thing' is not supported: write plain values"),
        ("a: *b\n", "line 1: the alias *b has no anchor that ends before it"),
        ("a: &a [*a]\n", "line 1: the alias *a has no anchor that ends before it"),
        ("<<: 3\n", "line 1: expected a mapping (or a list of mappings) behind <<"),
        ("[" * 100, "line 1: lists and mappings are nested more than 32 deep"),
        ("{a: " * 100, "line 1: lists and mappings are nested more than 32 deep"),
        ("[" * 200_000, "merge.yml, line 1: "),  # PyYAML may have a limit of its own
        ("{a: " * 200_000, "merge.yml, line 1: "),
        (weight("9" * 5000), "line 6: '9999999999999999999999999999999999999...' is no number that can be read"),
        (weight("0b_"), "line 6: '0b_' is no number that can be read"),
        ("a: \x01\n", "merge.yml is no YAML:"),
        ("a: \ud800\n", "merge.yml: character 3 is half of a surrogate pair"),
        ("a: " + "x" * MAX_BYTES, "merge.yml: expected a recipe of at most 16 MB, got more"),
    ],
)
def test_text_that_is_refused(text, expected):
    assert expected in message(text, FormatError)


def test_an_alias_bomb_is_refused_before_it_unfolds():
    rows = ["a: &a [" + ", ".join("x" * 10) + "]"]
    rows += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]
    assert "its aliases unfold to more than 1,000,000 values, or 32 levels" in message("\n".join(rows), FormatError)


def test_merge_keys_cannot_multiply_either():
    wide = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(3000)) + "}\n"
    text = wide + "".join(f"b{n}: {{<<: *a}}\n" for n in range(1000))
    assert "expected at most 1,000,000 values in a recipe, got more" in message(text, FormatError)


def test_names_from_the_file_stay_on_one_line():
    text = message('merge_method: ties\n"\\e[31mx\\ny": 1\nmodels: [{model: a}]\n')
    assert "\x1b" not in text
    assert "\\x1b[31mx\\ny" in text


# ---- files


def test_a_file_is_read_with_its_name_in_messages(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xef\xbb\xbf" + MODELS.encode())
    (read,) = read_recipes(path)
    assert read.origin == str(path)
    path.write_text(MODELS + "dtype: x\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"mine\.yml, line 5, dtype: expected one of"):
        read_recipes(path)


@pytest.mark.parametrize(
    ("data", "error", "expected"),
    [
        (None, OptionError, "expected a recipe (a YAML file), got no such file"),
        ("folder", OptionError, "expected a recipe (a YAML file), got a folder"),
        (b"a: \xff\n", FormatError, "byte 3: expected text in UTF-8, got other bytes; save it as UTF-8"),
        (
            MODELS.encode("utf-16"),
            FormatError,
            "byte 0: expected text in UTF-8, got other bytes (it looks like UTF-16)",
        ),
        (b" " * (MAX_BYTES + 1), FormatError, "expected a recipe of at most 16 MB, got more"),
    ],
)
def test_files_that_are_refused(tmp_path, data, error, expected):
    path = tmp_path / "mine.yml"
    if data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_recipes(path)
    assert expected in str(caught.value)
    assert isinstance(caught.value, NetweightError)


def test_the_tokenizer_of_the_model_that_keeps_it():
    base = TokenizerChoice("base")
    assert parse_recipe(MODELS + "tokenizer_source: lab/base\n", "x").tokenizer == base
    assert parse_recipe(MODELS + "tokenizer: {source: lab/base}\n", "x").tokenizer == base
    linear = "merge_method: linear\nmodels: [{model: lab/a}, {model: lab/b}]\n"
    assert parse_recipe(linear + "tokenizer_source: lab/a\n", "x").tokenizer == base
    sliced = "merge_method: passthrough\nslices: [{sources: [{model: lab/a, layer_range: [0, 1]}]}]\n"
    assert parse_recipe(sliced + "tokenizer_source: model:lab/a\n", "x").tokenizer == base
    assert parse_recipe(linear + "tokenizer_source: lab/b\n", "x").tokenizer == TokenizerChoice("lab/b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MODELS + "parameters: {dtype: bfloat16}\n", "the key 'dtype' stands beside parameters, not under it"),
        (MODELS + "  densty: 0.5\n", "models[0].densty: unknown key 'densty': expected one of model, parameters; "),
        (MODELS + "densty: 0.5\n", "the method's settings stand under parameters"),
        ("merge_methd: ties\nmodels: [{model: a}]\n", "'merge_methd' (did you mean 'merge_method'?)"),
        ("base_model: a\ngate_mode: hidden\nexperts: []\n", "mixtures of experts are not made here"),
        (weight("NaN"), "got the text 'NaN'"),
    ],
)
def test_what_stands_in_the_wrong_place_is_said(text, expected):
    said = message(text)
    assert expected in said
    assert "remove the quotes" not in said
