from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from merge_models import Bench, by_name, check_inputs, llama, llama_config, models, slices

from netweight.checkpoint.tensor import Skipped
from netweight.errors import InputError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_all_tied(bench):
    base, a = bench.llama("base", 0, tied=True), bench.llama("a", 1, tied=True)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    assert HEAD not in by_name(plan)
    check_inputs(by_name(plan)[EMBED], base[EMBED], a[EMBED])
    assert (plan.notes, plan.dropped) == ((), ())
    assert plan.config["tie_word_embeddings"] is True


def test_a_head_that_the_base_ties_is_left_out(bench):
    bench.llama("base", 0, tied=True)
    bench.llama("a", 1)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    assert HEAD not in by_name(plan)
    assert plan.dropped == (Skipped(HEAD, f"base ties its head to '{EMBED}'; the head of a is left out"),)
    assert plan.notes == (
        f"a: has a head of its own, '{HEAD}', and base ties its head to the embedding: that head is left out",
    )


def test_a_tied_model_gives_its_embedding_for_the_head(bench):
    base, a = bench.llama("base", 0), bench.llama("a", 1, tied=True)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    check_inputs(by_name(plan)[HEAD], base[HEAD], a[EMBED])
    check_inputs(by_name(plan)[EMBED], base[EMBED], a[EMBED])
    assert plan.notes == (f"a: ties its head, base does not: '{EMBED}' stands for '{HEAD}' too",)
    assert plan.dropped == ()
    assert plan.config["tie_word_embeddings"] is False


def test_a_head_that_is_neither_stored_nor_tied(bench):
    bench.llama("base", 0)
    bench.write("a", llama(1, tied=True), llama_config(tied=False))
    with pytest.raises(InputError, match=r"^'lm_head\.weight' is missing in a; "):
        bench.plan(models("task_arithmetic", "a", base="base"))


def test_a_head_that_the_base_has_none_of(bench):
    bench.write("base", llama(0, tied=True), llama_config(tied=False))
    bench.llama("a", 1)
    text = models("task_arithmetic", "a", base="base")
    with pytest.raises(InputError, match=r"^'lm_head\.weight' of a is missing in the base base; "):
        bench.plan(text)
    plan = bench.plan(text, missing="base")
    assert plan.dropped == (Skipped(HEAD, "not in base (in a; --missing base)"),)


def test_stored_twice_stays_twice(bench):
    base, a = llama(0), llama(1)
    for tensors in (base, a):
        tensors[HEAD] = tensors[EMBED]
    bench.write("base", base, llama_config(tied=True))
    bench.write("a", a, llama_config(tied=True))
    bench.write("b", llama(2, tied=True), llama_config(tied=True))
    plan = bench.plan(models("task_arithmetic", "a", "b", base="base"))
    check_inputs(by_name(plan)[HEAD], base[EMBED], a[EMBED], llama(2)[EMBED])
    assert plan.config["tie_word_embeddings"] is True


def test_a_head_with_values_of_its_own_is_untied(bench):
    base = llama(0)
    base[HEAD] = base[EMBED]
    bench.write("base", base, llama_config(tied=True))
    bench.llama("a", 1)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    assert plan.config["tie_word_embeddings"] is False
    assert plan.notes == (
        "config.json of base: tie_word_embeddings becomes false: the merged head has values of its own",
    )


def test_config_follows_the_model_that_gives_the_parameters(bench):
    for name, tied in (("base", True), ("a", False), ("b", True)):
        bench.llama(name, 1, tied=tied)
    plan = bench.plan(models("linear", "a", "b", base="base"))
    assert HEAD in by_name(plan)
    assert plan.config["tie_word_embeddings"] is False
    bench.llama("untied", 3, tied=False)
    plan = bench.plan(models("linear", "b", base="untied"))
    assert HEAD not in by_name(plan)
    assert plan.config["tie_word_embeddings"] is True
    assert plan.notes == (
        "config.json of untied: tie_word_embeddings becomes true: the head is the embedding, as in b",
    )


def test_slices_of_tied_and_untied_models(bench):
    tensors = {name: bench.llama(name, seed, tied=name == "tied") for seed, name in enumerate(("a", "tied"))}
    plan = bench.plan(slices("passthrough", [("a", 0, 1)], [("tied", 1, 2)]))
    check_inputs(by_name(plan)[HEAD], tensors["tied"][EMBED])
    check_inputs(by_name(plan)[EMBED], tensors["a"][EMBED])
    plan = bench.plan(slices("passthrough", [("tied", 0, 1)], [("a", 1, 2)]))
    assert HEAD not in by_name(plan)
    assert Skipped(HEAD, f"tied ties its head to '{EMBED}'; the head of a is left out") in plan.dropped
    check_inputs(by_name(plan)[EMBED], tensors["tied"][EMBED])


def torch_model(bench, name, tensors, config, ties):
    torch = pytest.importorskip("torch")
    where = bench.folder / name
    where.mkdir()
    state = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
    for alias, kept in ties.items():
        state[alias] = state[kept]
    torch.save(state, where / "pytorch_model.bin")
    (where / "config.json").write_text(json.dumps(config))


def test_one_tensor_under_two_names_that_config_ties_is_written_once(bench):
    base, a = llama(0, tied=True), llama(1, tied=True)
    torch_model(bench, "base", base, llama_config(tied=True), {HEAD: EMBED})
    torch_model(bench, "a", a, llama_config(tied=True), {HEAD: EMBED})
    b = bench.llama("b", 2)
    bench.llama("c", 3, tied=True)
    plan = bench.plan(models("task_arithmetic", "a", "b", "c", base="base"))
    assert HEAD not in by_name(plan)
    assert len(plan.targets) == len(base)
    check_inputs(by_name(plan)[EMBED], base[EMBED], a[EMBED], b[EMBED], llama(3)[EMBED])
    assert plan.dropped == (
        Skipped(HEAD, f"tied to '{EMBED}' in base: written once"),
        Skipped(HEAD, f"tied to '{EMBED}' in a: written once"),
        Skipped(HEAD, f"base ties its head to '{EMBED}'; the head of b is left out"),
    )
    assert plan.config["tie_word_embeddings"] is True


def test_the_embedding_is_kept_where_the_head_comes_first(bench):
    tensors = llama(0)
    head_first = {HEAD: tensors[HEAD]} | {k: v for k, v in tensors.items() if k not in {HEAD, EMBED}}
    torch_model(bench, "base", head_first, llama_config(tied=True), {EMBED: HEAD})
    plan = bench.plan(models("linear", "base"))
    assert HEAD not in by_name(plan)
    check_inputs(by_name(plan)[EMBED], tensors[HEAD])


def test_one_tensor_under_two_names_that_config_does_not_tie(bench):
    base = llama(0, tied=True)
    torch_model(bench, "base", base, llama_config(tied=False), {HEAD: EMBED})
    a = bench.llama("a", 1)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    check_inputs(by_name(plan)[HEAD], base[EMBED], a[HEAD])
    assert plan.notes == (f"base: '{EMBED}', '{HEAD}' are one tensor, which config does not say: each is written",)


def test_a_model_that_stores_one_of_two_names(bench):
    norms = {"model.norm.weight": np.ones(4, np.float32)}
    base = llama(0) | norms
    torch_model(bench, "base", base, llama_config(), {"model.final.weight": "model.norm.weight"})
    a = bench.llama("a", 1)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    check_inputs(by_name(plan)["model.final.weight"], np.ones(4), a["model.norm.weight"])
