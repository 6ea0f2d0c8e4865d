from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.params.tied import Ties, find_ties

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BOTH = {EMBED: (8, 4), HEAD: (8, 4)}
Make = Callable[..., Checkpoint]


def test_shared_storage(make: Make) -> None:
    assert find_ties(make("m", BOTH, shared={HEAD: EMBED})).aliases == {HEAD: EMBED}
    assert find_ties(make("m", {EMBED: (8, 4)}, shared={HEAD: EMBED})).aliases == {}


@pytest.mark.parametrize(
    ("config", "absent"),
    [
        ({"model_type": "llama", "tie_word_embeddings": True}, True),
        ({"model_type": "llama", "tie_word_embeddings": False}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "gemma2"}, True),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        # the whole model's own word comes first, as in transformers
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, True),
        ({"tie_word_embeddings": None, "text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "gemma2", "text_config": {"model_type": "llama"}}, True),
        ({"model_type": "llama", "text_config": {"model_type": "gemma2"}}, False),
        ({"model_type": "gemma2", "text_config": {"tie_word_embeddings": False}}, False),
        ({"tie_word_embeddings": "yes"}, False),
        ({"model_type": ["gpt2"], "text_config": 3}, False),
        ({"model_type": "never_heard_of"}, False),
        (None, False),
        ([1], False),
    ],
)
def test_a_head_that_is_not_stored(make: Make, config: Any, absent: bool) -> None:
    assert find_ties(make("m", {EMBED: (8, 4)}, config=config)) == Ties({}, EMBED if absent else None)


def test_a_task_head_is_no_absent_head(make: Make) -> None:
    config = {"model_type": "gpt2"}
    assert find_ties(make("m", {"wte.weight": (8, 4), "score.weight": (2, 4)}, config=config)).absent is None


def test_what_comes_before_berts_head_is_no_task_head(make: Make) -> None:
    before = {"cls.predictions.transform.dense.weight": (4, 4), "cls.predictions.bias": (8,)}
    word = "bert.embeddings.word_embeddings.weight"
    assert find_ties(make("m", {word: (8, 4), **before}, config={"model_type": "bert"})).absent == word


@pytest.mark.parametrize(("model_type", "absent"), [("gpt_neox", None), ("gpt_neox_japanese", EMBED)])
def test_a_model_type_that_differs_from_its_family(make: Make, model_type: str, absent: str | None) -> None:
    assert find_ties(make("m", {EMBED: (8, 4)}, config={"model_type": model_type})).absent == absent


def test_position_embeddings_are_not_tied(make: Make) -> None:
    config = {"model_type": "gpt2"}
    assert find_ties(make("m", {"wpe.weight": (99, 4), "wte.weight": (8, 4)}, config=config)).absent == "wte.weight"


@pytest.mark.parametrize(
    ("architectures", "absent"),
    [
        (["BertModel"], None),
        (["BertForMaskedLM"], EMBED),
        (["GPT2LMHeadModel"], EMBED),
        ([], EMBED),
        ("BertModel", EMBED),
    ],
)
def test_a_model_without_any_head_has_none_that_is_tied(make: Make, architectures: Any, absent: str | None) -> None:
    config = {"model_type": "bert", "architectures": architectures}
    assert find_ties(make("m", {EMBED: (8, 4)}, config=config)).absent == absent


def test_gemmas_table_with_a_part_for_every_layer_is_not_the_one_that_is_tied(make: Make) -> None:
    shapes = {EMBED: (8, 4), "model.embed_tokens_per_layer.weight": (8, 64)}
    assert find_ties(make("m", shapes, config={"model_type": "gemma3n"})) == Ties({}, EMBED)


def test_headers_alone_do_not_call_two_stored_tensors_one(make: Make) -> None:
    config = {"tie_word_embeddings": True}
    assert find_ties(make("m", BOTH, config=config)) == Ties({}, stored_twice=((HEAD, EMBED),))
    other = make("m", {EMBED: (8, 4), HEAD: (9, 4)}, config=config)
    assert find_ties(other) == find_ties(other, compare=True) == Ties({}, apart=((HEAD, EMBED),))
    dense = {EMBED: (8, 4), "lm_head.dense.weight": (4, 4), "lm_head.bias": (8,)}  # RoBERTa
    assert find_ties(make("m", dense, config=config)) == Ties({}, absent=EMBED)
    narrow = make("m", {EMBED: (8, 4), HEAD: ("F16", (8, 4))}, config=config)
    assert find_ties(narrow) == Ties({}, apart=((HEAD, EMBED),))


@pytest.mark.parametrize("at", [None, 0, 1_500_000, 2_099_999])
def test_comparing_reads_the_data(tmp_path: Path, at: int | None) -> None:
    embed = np.arange(2_100_000, dtype=np.float32).reshape(-1, 3)
    head = embed.copy()
    if at is not None:
        head.reshape(-1)[at] += 1
    save_file({EMBED: embed, HEAD: head}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    with open_checkpoint(tmp_path) as checkpoint:
        assert find_ties(checkpoint).aliases == {}
        assert find_ties(checkpoint, compare=True).aliases == ({HEAD: EMBED} if at is None else {})
