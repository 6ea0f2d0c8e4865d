"""Rows of tokens are merged by token, whatever number each tokenizer gives it; where no key says so, models that number
tokens differently are refused.

Expected rows are made by numpy, from the vocabularies as the library of tokenizers reads them.
"""

import json
import random
import shutil

import ml_dtypes
import numpy as np
import pytest
import yaml
from token_models import EMBED, HEAD, MERGES, NORM, ORDER, numbers, read, rows_for, token_model

import netweight
from netweight.errors import InputError, OptionError

MIXED = random.Random(3).sample(ORDER, len(ORDER))
KINDS = {
    "base": {},
    "mixed": {"order": MIXED},
    "chatml": {"added": ("<s>", "</s>", "<|im_start|>", "<|im_end|>"), "eos": "<|im_end|>"},
    "other": {
        "order": [*ORDER, "xy"],
        "merges": [*MERGES, ["x", "y"]],
        "added": ("</s>", "<s>", "<|tool|>", "<|im_end|>"),
    },
}
WEIGHTS = {"base": 0.3, "mixed": 0.6, "chatml": 0.5, "other": 0.4}


@pytest.fixture
def folder(tmp_path):
    for seed, (name, kind) in enumerate(KINDS.items()):
        token_model(tmp_path / name, seed, **kind)
    return tmp_path


def linear(folder, *names, base="base", **keys):
    """A recipe of a weighted mean."""
    models = [{"model": str(folder / n), "parameters": {"weight": WEIGHTS[n]}} for n in names]
    recipe = {"merge_method": "linear", "dtype": "float32", "models": models}
    if base is not None:
        recipe["base_model"] = str(folder / base)
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe | keys))
    return path


def merged(recipe, **options):
    out = recipe.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    return netweight.merge(recipe, out, **options), out


def check(folder, out, names, base="base"):
    """Every token that the output's tokenizer has: its row is the weighted mean of the models' rows for it."""
    ids, result = numbers(out), read(out)
    tokens = sorted(ids, key=ids.get)
    total = sum(WEIGHTS[n] for n in names)
    for name in (EMBED, HEAD):
        models = {n: (numbers(folder / n), read(folder / n)[name]) for n in names}
        expected = sum(WEIGHTS[n] / total * rows_for(tokens, n, models, base) for n in names)
        np.testing.assert_allclose(result[name][[ids[t] for t in tokens]], expected, rtol=0, atol=1e-6)
    expected = sum(WEIGHTS[n] / total * read(folder / n)[NORM] for n in names)
    np.testing.assert_allclose(result[NORM], expected, atol=1e-6)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(result[EMBED]) == len(result[HEAD])
    return ids, result


SETS = [("base", "mixed"), ("base", "chatml"), ("base", "chatml", "other"), ("base", "mixed", "chatml", "other")]


@pytest.mark.parametrize("names", SETS)
def test_by_the_bases_tokenizer(folder, names):
    result, out = merged(linear(folder, *names, tokenizer_source="base"))
    ids, _ = check(folder, out, names)
    assert ids == numbers(folder / "base")
    assert (out / "tokenizer.json").read_bytes() == (folder / "base" / "tokenizer.json").read_bytes()
    left = [note for note in result.notes if "are not the output's" in note]
    assert len(left) == len({"chatml", "other"} & {*names})
    assert netweight.verify(out).good


@pytest.mark.parametrize("names", SETS)
@pytest.mark.parametrize("base", ["base", None])
def test_by_the_union(folder, names, base):
    result, out = merged(linear(folder, *names, base=base, tokenizer_source="union"))
    ids, _ = check(folder, out, names, base)
    own = [numbers(folder / n) for n in names]
    assert set(ids) == {token for one in own for token in one}
    assert {token: ids[token] for token in own[0]} == own[0]
    assert sorted(ids.values()) == list(range(len(ids)))
    assert any("tokens of other models were added" in note for note in result.notes) == (len(ids) > len(own[0]))
    assert netweight.verify(out).good


def test_the_tokenizer_of_a_union_is_one(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder / "base" / "vocab.json").write_text("{}")
    result, out = merged(linear(folder, "base", "chatml", "other", tokenizer_source="union"))
    assert not (out / "vocab.json").exists()
    assert "not written, since they lack the tokens that were added: vocab.json" in result.notes
    before, after = (AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (folder / "base", out))
    ids = numbers(out)
    assert {token: after.convert_tokens_to_ids(token) for token in ids} == ids
    rng = random.Random(5)
    for _ in range(200):
        text = "".join(rng.choice(["abc", "the", "de", "x", "!", "<s>", "Q"]) for _ in range(rng.randint(1, 12)))
        assert after(text)["input_ids"] == before(text)["input_ids"]
        assert after.decode(after(text)["input_ids"]) == text
    text = "<|im_start|>the<|tool|>abc<|im_end|>"
    tokens = ["<|im_start|>", "the", "<|tool|>", "abc", "<|im_end|>"]
    assert after.convert_ids_to_tokens(after(text)["input_ids"]) == tokens
    assert {"<|im_start|>", "<|tool|>"} <= {t.content for t in after.added_tokens_decoder.values() if t.special}
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    made = model.generate(**after(text, return_tensors="pt", return_token_type_ids=False), max_new_tokens=3)
    assert made.shape[1] > len(tokens)


def test_by_the_tokenizer_of_a_model(folder):
    names = ("base", "mixed", "chatml")
    result, out = merged(linear(folder, *names, tokenizer_source=str(folder / "chatml")))
    ids, _ = check(folder, out, names)
    assert ids == numbers(folder / "chatml")
    for name in ("config.json", "generation_config.json"):
        made = json.loads((out / name).read_text())
        assert (made["bos_token_id"], made["eos_token_id"]) == (ids["<s>"], ids["<|im_end|>"])
    assert any(note.startswith("generation_config.json: special tokens are those of") for note in result.notes)
    lacks = [note for note in result.notes if "lacks 2 of the output's" in note]
    assert len(lacks) == 2
    assert "'<|im_start|>' first" in lacks[0]


def test_task_vectors_by_token(folder):
    recipe = linear(folder, "chatml", "mixed", tokenizer_source="union", merge_method="task_arithmetic")
    _, out = merged(recipe)
    ids, result = numbers(out), read(out)
    tokens = list(ids)
    names = ("base", "chatml", "mixed")
    models = {n: (numbers(folder / n), read(folder / n)[EMBED]) for n in names}
    rows = {n: rows_for(tokens, n, models, "base") for n in names}
    expected = rows["base"] + sum(WEIGHTS[n] * (rows[n] - rows["base"]) for n in names[1:])
    np.testing.assert_allclose(result[EMBED][[ids[t] for t in tokens]], expected, atol=1e-6)


def test_bfloat16_stays(tmp_path):
    for seed, name in enumerate(("base", "chatml", "other")):
        token_model(tmp_path / name, seed, dtype=ml_dtypes.bfloat16, **KINDS[name])
    recipe = linear(tmp_path, "chatml", "other", base=None, tokenizer_source="union", dtype=None)
    for workers in (1, 2):
        _, out = merged(recipe, workers=workers)
        kept = (out / "model.safetensors").read_bytes()
    assert read(out)[EMBED].dtype == ml_dtypes.bfloat16
    assert (out / "model.safetensors").read_bytes() == kept


RULES = {
    "<|im_end|>": {"source": "chatml", "force": True},
    "<|tool|>": {"source": {"kind": "zero"}},
    "a": {"source": {"kind": "zero"}, "force": True},
    "<|new|>": {"source": {"kind": "model_token", "model": "other", "token": "xy"}},
    "<|row|>": {"source": {"kind": "model_token", "model": "mixed", "token_id": 7}},
}


def test_rules_for_single_tokens(folder):
    rules = json.loads(json.dumps(RULES))
    for rule in rules.values():
        if isinstance(rule["source"], str):
            rule["source"] = str(folder / rule["source"])
        elif "model" in rule["source"]:
            rule["source"]["model"] = str(folder / rule["source"]["model"])
    names = ("base", "chatml", "other", "mixed")
    _, out = merged(linear(folder, *names, tokenizer={"source": "union", "tokens": rules}))
    ids, values = numbers(out), read(out)[EMBED]
    own = {n: (numbers(folder / n), read(folder / n)[EMBED]) for n in names}

    def row(model, token):
        return own[model][1][own[model][0][token]]

    share = {n: WEIGHTS[n] / sum(WEIGHTS[n] for n in names) for n in names}
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(values[ids["<|im_end|>"]], row("chatml", "<|im_end|>"), **close)
    np.testing.assert_allclose(values[ids["<|tool|>"]], share["other"] * row("other", "<|tool|>"), **close)
    np.testing.assert_array_equal(values[ids["a"]], 0)
    np.testing.assert_allclose(values[ids["<|new|>"]], row("other", "xy"), **close)
    np.testing.assert_allclose(values[ids["<|row|>"]], own["mixed"][1][7], **close)
    expected = sum(share[n] * row(n, "b") for n in names)
    np.testing.assert_allclose(values[ids["b"]], expected, **close)


def test_rows_without_tokens(tmp_path):
    base = token_model(tmp_path / "base", 0, rows=120)
    more = token_model(tmp_path / "chatml", 1, **KINDS["chatml"])
    _, out = merged(linear(tmp_path, "base", "chatml", tokenizer_source="base"))
    made = read(out)[EMBED]
    assert len(made) == 120
    np.testing.assert_allclose(made[101:], base[EMBED][101:], atol=1e-6)
    _, out = merged(linear(tmp_path, "base", "chatml", tokenizer={"source": "union", "pad_to_multiple_of": 64}))
    made = read(out)[EMBED]
    assert len(made) == 128
    assert numbers(out)["<|im_start|>"] == 101
    expected = more[EMBED][101:103]  # the base has rows for these numbers, and no tokens
    np.testing.assert_allclose(made[101:103], expected, atol=1e-6)
    np.testing.assert_allclose(made[103:120], base[EMBED][103:], atol=1e-6)
    np.testing.assert_array_equal(made[120:], 0)


def refusal(recipe, error=InputError, **options):
    out = recipe.parent / "out"
    with pytest.raises(error) as caught:
        netweight.merge(recipe, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def test_other_numbers_without_a_key_are_refused(folder):
    first = next(n for n, (a, b) in enumerate(zip(ORDER, MIXED, strict=True)) if a != b)
    message = refusal(linear(folder, "base", "mixed"))
    assert message.startswith(f"{folder / 'mixed'}: its tokenizer numbers tokens differently: number {first} is ")
    assert f"'{MIXED[first]}' in {folder / 'mixed'} and '{ORDER[first]}' in {folder / 'base'}" in message
    assert "tokenizer_source: base" in message
    result, out = merged(linear(folder, "base", "mixed"), allow_mismatch=True)
    assert any("merged by number (--allow-mismatch)" in note for note in result.notes)
    own = [read(folder / n)[EMBED] for n in ("base", "mixed")]
    np.testing.assert_allclose(read(out)[EMBED], (0.3 * own[0] + 0.6 * own[1]) / 0.9, atol=1e-6)


def test_models_without_a_part_in_rows_of_tokens_may_number_them_as_they_like(folder):
    weight = [{"filter": "embed_tokens", "value": 0}, {"filter": "lm_head", "value": 0}, {"value": 1}]
    models = [
        {"model": str(folder / "base"), "parameters": {"weight": 1}},
        {"model": str(folder / "mixed"), "parameters": {"weight": weight}},
    ]
    _, out = merged(linear(folder, models=models))
    np.testing.assert_array_equal(read(out)[EMBED], read(folder / "base")[EMBED])


def test_the_embedding_of_one_and_the_head_of_another(folder):
    slices = [{"sources": [{"model": str(folder / n), "layer_range": [0, 1]}]} for n in ("base", "mixed")]
    recipe = folder / "recipe.yml"
    recipe.write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": slices}))
    assert "numbers tokens differently" in refusal(recipe)
    recipe.write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": slices, "tokenizer_source": "base"}))
    _, out = merged(recipe)
    ids, result = numbers(folder / "mixed"), read(out)
    np.testing.assert_array_equal(result[EMBED], read(folder / "base")[EMBED])
    order = sorted(numbers(out), key=numbers(out).get)
    np.testing.assert_array_equal(result[HEAD], read(folder / "mixed")[HEAD][[ids[t] for t in order]])


def test_a_renamed_token_is_a_note(tmp_path):
    token_model(tmp_path / "base", 0, added=("<s>", "</s>", "<|reserved_0|>"))
    token_model(tmp_path / "chatml", 1, added=("<s>", "</s>", "<|im_end|>"))
    result, _ = merged(linear(tmp_path, "base", "chatml"))
    (note,) = [note for note in result.notes if "are merged by number" in note]
    assert "token 101 is '<|im_end|>', in " in note
    assert "'<|reserved_0|>': added tokens of other names are merged by number" in note


def test_tokenizers_that_are_not_there(folder):
    (folder / "chatml" / "tokenizer.json").unlink()
    names = ("base", "chatml")
    shutil.copy(folder / "base" / "model.safetensors", folder / "chatml" / "model.safetensors")
    result, _ = merged(linear(folder, *names, tokenizer_source="base"))
    assert any("has no tokenizer that can be read: its rows are taken to be those of" in n for n in result.notes)
    result, _ = merged(linear(folder, *names))
    assert any("its tokens are taken to be numbered as in" in note for note in result.notes)
    (folder / "base" / "tokenizer.json").unlink()
    shutil.rmtree(folder / "out")
    assert "has no tokenizer that can be read" in refusal(
        linear(folder, *names, tokenizer={"tokens": {"a": {"source": {"kind": "zero"}}}})
    )
    for source in ("base", "union"):
        result, _ = merged(linear(folder, *names, tokenizer_source=source))
        assert "no model has a tokenizer that can be read: rows of tokens are merged by number" in result.notes


def test_a_tokenizer_that_cannot_be_read(folder):
    shutil.copy(folder / "base" / "model.safetensors", folder / "chatml" / "model.safetensors")
    (folder / "chatml" / "tokenizer.json").write_text('{"model": {"vocab": {"a": -1}}}')
    result, _ = merged(linear(folder, "base", "chatml"))
    assert any("whether it numbers tokens like the others is not known" in note for note in result.notes)
    shutil.rmtree(folder / "out")
    message = refusal(linear(folder, "base", "chatml", tokenizer_source="base"))
    assert "expected a token and its number, got 'a': -1" in message


@pytest.mark.parametrize(
    ("tokenizer", "error", "message"),
    [
        ({"tokens": {"<|new|>": None}}, InputError, "no model of this merge has a row for the token '<|new|>'"),
        ({"tokens": {"a": {"source": "nowhere"}}}, OptionError, "nowhere is no model of this merge"),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "base", "token": "nix"}}}},
            OptionError,
            "has no token 'nix'",
        ),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "base", "token": ""}}}},
            OptionError,
            "has no token ''",
        ),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "base", "token_id": 5000}}}},
            OptionError,
            "has 101 rows, and no row 5000",
        ),
    ],
)
def test_rules_that_cannot_be(folder, tokenizer, error, message, monkeypatch):
    monkeypatch.chdir(folder)
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("base", "chatml")]
    recipe = linear(folder, tokenizer=tokenizer, models=models)
    recipe.write_text(recipe.read_text().replace(f"base_model: {folder}/", "base_model: "))
    assert message in refusal(recipe, error)


def test_a_union_needs_a_tokenizer_json_to_add_to(folder):
    ids = numbers(folder / "base")
    (folder / "base" / "tokenizer.json").unlink()
    (folder / "base" / "vocab.json").write_text(json.dumps(ids))
    message = refusal(linear(folder, "base", "chatml", tokenizer_source="union"))
    assert "gets 2 tokens of other models, and has no tokenizer.json to add them to" in message
    _, out = merged(linear(folder, "base", "mixed", tokenizer_source="union"))
    assert len(read(out)[EMBED]) == 101


def test_the_largest_vocabulary_brings_the_tokenizer_with_the_most_tokens(tmp_path):
    token_model(tmp_path / "base", 0)
    token_model(tmp_path / "mixed", 1, rows=110)  # padding, and no more tokens
    token_model(tmp_path / "chatml", 2, added=("<s>", "</s>", "<|im_start|>", "<|im_end|>"), rows=110)
    result, out = merged(linear(tmp_path, "base", "mixed", "chatml"), vocab="union-rows")
    assert numbers(out) == numbers(tmp_path / "chatml")
    assert any("which has tokens for 103 of the output's 110 rows, the most" in note for note in result.notes)


def unigram(folder, added):
    """The tokenizer of `folder` becomes one of listed pieces, with added tokens of these numbers."""
    path = folder / "tokenizer.json"
    made = json.loads(path.read_text())
    made["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[token, -float(n)] for n, token in enumerate(ORDER)]}
    made["added_tokens"] = [entry | {"id": added[entry["content"]]} for entry in made["added_tokens"]]
    path.write_text(json.dumps(made))


def test_a_union_of_listed_pieces(tmp_path):
    last = len(ORDER)
    token_model(tmp_path / "base", 0, rows=last + 9)
    token_model(tmp_path / "chatml", 1, **KINDS["chatml"])
    unigram(tmp_path / "base", {"<s>": last, "</s>": last + 1})
    recipe = linear(tmp_path, "base", "chatml", tokenizer_source="union")
    merged(recipe)
    ids = numbers(tmp_path / "out")
    assert (ids["<s>"], ids["</s>"], ids["<|im_start|>"], ids["<|im_end|>"]) == tuple(range(last, last + 4))
    unigram(tmp_path / "base", {"<s>": last, "</s>": last + 5})
    shutil.rmtree(tmp_path / "out")
    message = refusal(recipe)
    assert f"not every number below {last + 8} has a token" in message


def test_the_tokenizer_of_a_model_that_is_not_merged(folder):
    recipe = linear(folder, "base", "other", tokenizer_source=str(folder / "mixed"))
    _, out = merged(recipe)
    ids, _ = check(folder, out, ("base", "other"))
    assert ids == numbers(folder / "mixed")
    assert netweight.verify(out).good
    shutil.rmtree(out)
    message = refusal(linear(folder, "base", "mixed", tokenizer_source=str(folder / "chatml")))
    assert "no model of this merge has a row for the token '<|im_start|>'" in message


@pytest.mark.parametrize(("number", "far"), [(105, False), (4_000_000, True)])
def test_tokens_beyond_the_embedding(folder, number, far):
    path = folder / "chatml" / "tokenizer.json"
    made = json.loads(path.read_text())
    made["added_tokens"][-1]["id"] = number
    path.write_text(json.dumps(made))
    recipe = linear(folder, "base", "chatml", "other", tokenizer_source=str(folder / "chatml"))
    if far:
        message = refusal(recipe)
        assert f"gives '<|im_end|>' the number {number}, its embedding has 103 rows" in message
        return
    result, out = merged(recipe)
    assert any(
        "its embedding has 103 rows, and none for 1 of its tokens, such as '<|im_end|>'" in n for n in result.notes
    )
    values = read(out)[EMBED]
    assert len(values) == number + 1
    other = read(folder / "other")[EMBED][numbers(folder / "other")["<|im_end|>"]]
    np.testing.assert_allclose(values[number], other, rtol=0, atol=1e-6)
