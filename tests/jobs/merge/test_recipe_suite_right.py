"""Where the recipe suite's results differ from mergekit's: the right value of each, by numpy or from the models."""

from __future__ import annotations

import re

import numpy as np
import pytest
import right_merges as right
from suite_facts import CHATS, digest, rendered, stacked, strings
from suite_models import BUFFERS, ROWS, tokenizer_of, weights_of
from suite_recipes import CASES, DEPARTURES, RECORDED, REFUSED, TOLERANCE
from suite_tokenizers import KINDS

EXACT, BF16, F16 = 0.0, 2.0**-8 * 1.001, 2.0**-11 * 1.001
"""Half a step of the output's type, relative; beside it 1e-6 of the tensor's scale are allowed."""


def of(model, key):
    return weights_of(model)[key].astype(np.float64)


def by_token(model, key, owner, lacked=()):
    """The tensor with a row for each token of `owner`'s tokenizer: the model's own, else the mean of those of `lacked`
    that have one. Rows of no token are the model's own where it has the same tokens, else the base's.
    """
    if not key.endswith(ROWS):
        return of(model, key)
    tokens = tokenizer_of(owner).tokens
    alike = next(m for m in (model, f"{model.partition('/')[0]}/base", owner) if tokenizer_of(m).tokens == tokens)
    made = of(alike, key).copy()
    for token, number in tokens.items():
        having = [m for m in (model, *lacked) if token in tokenizer_of(m).tokens]
        used = having[:1] if having[0] == model else having
        made[number] = np.mean([of(m, key)[tokenizer_of(m).tokens[token]] for m in used], axis=0)
    return made


def merging(merge, *models, owner=None, lacked=()):
    """A function of a tensor's name: `merge` of the models' tensors, with the tokenizer of `owner`."""
    if owner is None:
        return lambda key: merge(*(of(model, key) for model in models))
    return lambda key: merge(*(by_token(model, key, owner, lacked) for model in models))


def two_levels(key):
    """dare-ties-two-levels: the first model's weight is a gradient, 0 outside of blocks."""
    layer = re.search(r"layers\.(\d+)\.", key)
    weight = np.interp(int(layer[1]) / 5 if layer else 0.0, [0, 1 / 3, 2 / 3, 1], [0, 0.2, 0.6, 0.9])
    base, *xs = (by_token(f"llama/{model}", key, "llama/base") for model in ("base", "math", "chat"))
    return right.ties(base, xs, (weight, 0.25), 1)


def token_beyond_base(key):
    """linear-token-beyond-base: rows of the base's tokens, and one more, of the only model that has it."""
    made = merging(lambda *xs: right.linear(xs, (1, 1)), "llama/base", "llama/code", owner="llama/base", lacked=BASE)(
        key
    )
    if not key.endswith(ROWS):
        return made
    return np.vstack([made, of("llama/code", key)[tokenizer_of("llama/code").tokens["<|fim|>"]]])


def ties(weight, density, **more):
    return lambda base, *xs: right.ties(base, xs, (weight,) * len(xs), density, **more)


BASE = ("llama/base",)
QWEN = ("qwen2/base", "qwen2/instruct", "qwen2/coder")
MISTRAL = ("mistral/base", "mistral/instruct", "mistral/zephyr")
RIGHT = {
    "arcee-fusion-bfloat16": (merging(right.arcee_fusion, "qwen2/base", "qwen2/instruct"), BF16),
    "arcee-fusion-two": (merging(right.arcee_fusion, "gpt_neox/base", "gpt_neox/tuned"), EXACT),
    "dare-ties-two-levels": (two_levels, EXACT),
    "karcher-union-chatml": (
        merging(
            lambda *xs: right.karcher(xs),
            *("llama/chat", "llama/chat2", "llama/math"),
            owner="llama/chat",
            lacked=("llama/chat", "llama/chat2"),
        ),
        EXACT,
    ),
    "linear-float16": (merging(lambda *xs: right.linear(xs, (0.5, 0.5)), "gemma2/it", "gemma2/roleplay"), F16),
    "linear-token-beyond-base": (token_beyond_base, EXACT),
    "multislerp-weights": (
        merging(
            lambda *xs: right.multislerp(xs, (0.2, 0.4, 0.4)),
            *(f"llama/{model}" for model in ("base", "math", "story")),
        ),
        EXACT,
    ),
    "sce-weight-ignored": (merging(lambda base, *xs: right.sce(base, xs), *QWEN, owner="qwen2/base"), EXACT),
    "slerp-dot-slash": (merging(lambda *xs: right.slerp(0.25, *xs), "gpt2/poems", "gpt2/news"), EXACT),
    "slerp-neox-newer": (merging(lambda *xs: right.slerp(0.4, *xs), "gpt_neox/newer", "gpt_neox/base"), EXACT),
    "slerp-stray-keys": (merging(lambda *xs: right.slerp(0.5, *xs), "mixtral/base", "mixtral/instruct"), EXACT),
    "ties-bfloat16": (
        merging(ties(0.5, 0.5, normalize=False), "phi3/base", "phi3/instruct", "phi3/tuned"),
        BF16,
    ),
    "ties-everything-outside": (merging(ties(0.5, 0.7), *QWEN, owner="qwen2/instruct"), EXACT),
    "ties-model-tokenizer": (
        merging(ties(1, 1), *MISTRAL, owner="mistral/zephyr", lacked=("mistral/zephyr",)),
        EXACT,
    ),
}
"""By recipe: a function of a tensor's name that gives its right values, and the rounding of the output."""


def with_part(part, topic=None):
    return [name for name, parts in DEPARTURES.items() if part in parts and topic in {None, parts[part]}]


def test_every_value_that_differs_is_here():
    assert RIGHT.keys() == {*with_part("values"), *REFUSED}


@pytest.mark.parametrize("name", RIGHT)
def test_values(suite, name):
    wanted, step = RIGHT[name]
    found = suite.of(name).tensors
    family = re.search(r"model: (?:\./)?(\w+)/", (suite.recipe(name)).read_text(encoding="utf-8"))[1]
    keys = [key for key in weights_of(f"{family}/base") if not key.endswith(BUFFERS)]
    expected = stacked({key: wanted(key) for key in keys})
    assert {key for key in found if not key.endswith(BUFFERS)} == expected.keys()
    for key, values in expected.items():
        allowed = step * np.abs(values) + TOLERANCE * np.abs(values).max()
        assert found[key].shape == values.shape
        assert (np.abs(found[key] - values) <= allowed).all(), key


@pytest.mark.parametrize("name", with_part("drawn"))
def test_della_keeps_the_expected_task_vector(suite, name):
    density = {"della-random": 0.6, "della-linear-random": 0.5}[name]
    slope = {"della-random": 1 / 0.7, "della-linear-random": 1}[name]  # della divides by the sum of the weights
    found, theirs = suite.of(name).facts["drawn"], CASES[name]["drawn"]
    assert found["same"] == pytest.approx(1 - density, abs=0.02)
    assert theirs["same"] == pytest.approx(1 - density, abs=0.02)
    assert found["slope"] == pytest.approx(slope, rel=0.04)
    assert theirs["slope"] > found["slope"] + 0.02 * slope


@pytest.mark.parametrize("name", with_part("tensors", "masks"))
def test_masks_stay_what_they_are(suite, name):
    result = suite.of(name)
    forms = {key: dtype for key, dtype, _ in result.facts["tensors"]}
    theirs = {key: dtype for key, dtype, _ in RECORDED["layouts"][CASES[name]["tensors"]]}
    masks = [key for key in forms if key.endswith("attention.bias")]
    assert len(masks) == 3
    assert {forms[key] for key in masks} == {"bool"}
    assert {theirs[key] for key in masks} == {"float32"}
    assert {key: dtype for key, dtype in forms.items() if key not in masks} == {
        key: dtype for key, dtype in theirs.items() if key not in masks
    }
    for key in (key for key in forms if key.endswith(BUFFERS)):
        assert np.array_equal(result.tensors[key], of("gpt_neox/base", key)), key


def test_arcee_fusion_gives_the_type_that_the_recipe_says(suite):
    name = "arcee-fusion-bfloat16"
    assert {dtype for _, dtype, _ in suite.of(name).facts["tensors"]} == {"bfloat16"}
    assert {dtype for _, dtype, _ in RECORDED["layouts"][CASES[name]["tensors"]]} == {"float32"}


@pytest.mark.parametrize("name", with_part("tensors", "rows without a token"))
def test_rows_without_a_token_stay(suite, name):
    result = suite.of(name)
    assert result.facts["config"]["vocab_size"] == len(result.tensors["model.embed_tokens.weight"]) == 320
    assert CASES[name]["config"]["vocab_size"] == result.facts["tokenizer"]["tokens"] == 309


@pytest.mark.parametrize("name", ["ties-everything-outside", "ties-model-tokenizer"])
def test_special_tokens_are_those_of_the_tokenizer(suite, name):
    owner = {"ties-everything-outside": "qwen-chat", "ties-model-tokenizer": "mistral-chat"}[name]
    number = KINDS[owner].tokens[KINDS[owner].special()["eos_token"]]
    found = suite.of(name).facts
    assert (
        found["tokenizer"]["special"]["eos_token"] == CASES[name]["tokenizer"]["special"]["eos_token"] == "<|im_end|>"
    )
    assert found["config"]["eos_token_id"] == found["config"]["generation"][1] == number
    assert CASES[name]["config"]["eos_token_id"] != number


@pytest.mark.parametrize(
    ("name", "first"), [("linear-union-other-vocabularies", "llama/chat"), ("ties-union", "llama/base")]
)
def test_a_union_reads_text_as_its_first_tokenizer_does(suite, name, first):
    from transformers import AutoTokenizer

    one, union = (
        AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (suite.models / first, suite.folder(name))
    )
    texts = [text for text in strings() if "<|fim|>" not in text and "<|im_" not in text]
    assert len(texts) > 50
    assert [union(text)["input_ids"] for text in texts] == [one(text)["input_ids"] for text in texts]
    assert union.convert_ids_to_tokens(union("a<|fim|>b<|im_start|>")["input_ids"]) == [
        "a",
        "<|fim|>",
        "b",
        "<|im_start|>",
    ]
    others = {token for kind in ("llama-code", "llama-chat") for token in KINDS[kind].tokens}
    assert others <= union.get_vocab().keys()
    split = {token for token, _ in CASES[name]["tokenizer"]["added"]}
    assert {"al", "se", "le"} <= split - {token for token, _ in suite.of(name).facts["tokenizer"]["added"]}


SAID = {
    "linear-alpaca": "<|endoftext|>Be brief.\n\n### Instruction:\nHello\n\n### Response:\n",
    "linear-exaone-template": "[|system|]Be brief.[|endofturn|]\n[|user|]Hello\n[|assistant|]",
    "linear-llama3-template": (
        "<|begin|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}
"""A system turn and a question, as the formats' makers write them."""


@pytest.mark.parametrize("name", with_part("chats"))
def test_chat_templates_by_name(suite, name):
    assert CHATS[1][0]["role"] == "system"
    assert suite.of(name).facts["tokenizer"]["chats"][1] == SAID[name]
    assert CASES[name]["tokenizer"]["chats"][1] != SAID[name]


@pytest.mark.parametrize(
    ("name", "first"), [("linear-bfloat16", "phi3/instruct"), ("linear-quoted-numbers", "mistral/base")]
)
def test_without_a_base_the_tokenizer_is_the_first_model_s(suite, name, first):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(suite.models / first, local_files_only=True)
    found = suite.of(name).facts["tokenizer"]
    assert found["numbers"] == digest(sorted(own.get_vocab().items()))
    assert found["chats"] == ([rendered(own, chat) for chat in CHATS] if own.chat_template else None)
    runs = [CASES[name], *CASES[name]["also"]]
    assert len({str(run["tokenizer"]["chats"]) for run in runs}) > 1, "mergekit's choice changes from run to run"


def test_of_the_most_common_templates_auto_takes_the_first(suite):
    name = "dare-linear-density-one-union"
    found = suite.of(name).facts["tokenizer"]["chats"]
    assert found[0] == "<s>[INST] Hello [/INST]"
    runs = [CASES[name], *CASES[name]["also"]]
    assert len({run["tokenizer"]["chats"][0] for run in runs}) == 2
