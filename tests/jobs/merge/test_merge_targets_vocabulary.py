from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from merge_models import Bench, by_name, check_inputs, llama, llama_config, models, slices

from netweight.errors import InputError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ADVICE = (
    ": the vocabularies differ; give --vocab base for the base's rows, or --vocab union-rows for the rows of the"
    " largest (rows count by number: the models must have the same tokens in the rows they share)"
)


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.fixture
def three(bench):
    """Models of 10, 12 and 9 rows."""
    return [bench.llama(name, seed, rows=rows) for seed, (name, rows) in enumerate((("base", 10), ("a", 12), ("b", 9)))]


def test_sizes_that_differ_are_refused(bench, three):
    with pytest.raises(InputError) as caught:
        bench.plan(models("task_arithmetic", "a", "b", base="base"))
    assert str(caught.value) == f"'{HEAD}' has 10 rows in base and 12 in a (and 3 more){ADVICE}"


def test_the_bases_rows(bench, three):
    base, a, b = three
    plan = bench.plan(models("task_arithmetic", "a", "b", base="base"), vocab="base")
    for name in (EMBED, HEAD):
        target = by_name(plan)[name]
        assert target.shape == target.subject.shape == (10, 4)
        check_inputs(target, base[name], a[name][:10], np.concatenate([b[name], base[name][9:]]))
        assert [i.model for i in target.inputs] == [0, 1, 2]
    assert plan.config["vocab_size"] == 10
    assert plan.tokenizer_from == 0
    assert plan.notes == (
        f"a: '{HEAD}' and 1 more has 12 rows, the output 10: the last 2 are left out",
        f"b: '{HEAD}' and 1 more has 9 rows, the output 10: the other 1 from the base or the first model that has them",
    )


def test_the_rows_of_the_largest(bench, three):
    base, a, b = three
    plan = bench.plan(models("task_arithmetic", "a", "b", base="base"), vocab="union-rows")
    for name in (EMBED, HEAD):
        target = by_name(plan)[name]
        assert target.shape == (12, 4)
        check_inputs(
            target,
            np.concatenate([base[name], a[name][10:]]),
            a[name],
            np.concatenate([b[name], base[name][9:], a[name][10:]]),
        )
    assert plan.config["vocab_size"] == 12
    assert plan.tokenizer_from == 1
    assert "the tokenizer is that of a, the first with 12 rows of tokens; base has 10" in plan.notes


def test_rows_are_filled_from_the_first_model_that_has_them(bench):
    made = [bench.llama(n, seed, rows=r) for seed, (n, r) in enumerate((("base", 8), ("a", 9), ("b", 12), ("c", 12)))]
    base, a, b, c = (m[EMBED] for m in made)
    plan = bench.plan(models("task_arithmetic", "a", "b", "c", base="base"), vocab="union-rows")
    filled = np.concatenate([base, a[8:], b[9:]])
    check_inputs(by_name(plan)[EMBED], filled, np.concatenate([a, b[9:]]), b, c)
    assert [len(i.pieces) for i in by_name(plan)[EMBED].inputs] == [3, 2, 1, 1]
    assert plan.tokenizer_from == 2


@pytest.mark.parametrize("vocab", ["base", "union-rows"])
def test_equal_sizes_are_untouched(bench, vocab):
    bench.llama("base", 0)
    bench.llama("a", 1)
    text = models("task_arithmetic", "a", base="base")
    assert [t.shape for t in bench.plan(text, vocab=vocab).targets] == [t.shape for t in bench.plan(text).targets]
    assert bench.plan(text, vocab=vocab).notes == ()
    assert all(len(i.pieces) == 1 for t in bench.plan(text, vocab=vocab).targets for i in t.inputs)


def test_the_largest_is_the_base(bench):
    bench.llama("base", 0, rows=12)
    bench.llama("a", 1, rows=10)
    plan = bench.plan(models("task_arithmetic", "a", base="base"), vocab="union-rows")
    assert plan.tokenizer_from == 0
    assert plan.config["vocab_size"] == 12


def test_without_a_base_the_first_model_counts(bench, three):
    _, a, b = three
    plan = bench.plan(models("linear", "b", "a"), vocab="base")
    check_inputs(by_name(plan)[EMBED], b[EMBED], a[EMBED][:9])
    assert (plan.config["vocab_size"], plan.tokenizer_from) == (9, 0)
    plan = bench.plan(models("linear", "b", "a", base="base"), vocab="union-rows")
    check_inputs(by_name(plan)[EMBED], np.concatenate([b[EMBED], a[EMBED][9:]]), a[EMBED])
    assert (plan.config["vocab_size"], plan.tokenizer_from) == (12, 2)
    plan = bench.plan(models("linear", "b", base="base"))
    assert (plan.config["vocab_size"], plan.tokenizer_from) == (9, 1)


def test_a_tied_model_with_more_rows(bench):
    base, a = bench.llama("base", 0), bench.llama("a", 1, rows=11, tied=True)
    plan = bench.plan(models("task_arithmetic", "a", base="base"), vocab="union-rows")
    check_inputs(by_name(plan)[HEAD], np.concatenate([base[HEAD], a[EMBED][10:]]), a[EMBED])


def test_a_heads_bias(bench):
    made = []
    for seed, (name, rows) in enumerate((("base", 5), ("a", 7))):
        made.append(llama(seed, rows=rows) | {"lm_head.bias": np.arange(rows, dtype=np.float32) + 100 * seed})
        bench.write(name, made[-1], llama_config(rows=rows))
    plan = bench.plan(models("task_arithmetic", "a", base="base"), vocab="union-rows")
    assert by_name(plan)["lm_head.bias"].shape == (7,)
    check_inputs(by_name(plan)["lm_head.bias"], np.array([0, 1, 2, 3, 4, 105, 106]), made[1]["lm_head.bias"])


def test_pieces_of_several_element_types(bench):
    base, a = bench.llama("base", 0, dtype=np.float16), bench.llama("a", 1, rows=12, dtype=np.float64)
    target = by_name(bench.plan(models("task_arithmetic", "a", base="base"), vocab="union-rows"))[EMBED]
    assert target.subject.bits == 64
    assert target.dtype.name == "F16"
    assert target.inputs[0].nbytes == 10 * 4 * 2 + 2 * 4 * 8
    check_inputs(target, np.concatenate([base[EMBED].astype(np.float64), a[EMBED][10:]]), a[EMBED])


def test_slices_agree_on_the_vocabulary(bench, three):
    base, a, _ = three
    text = slices("passthrough", [("base", 0, 1)], [("b", 0, 1)], [("a", 1, 2)])
    with pytest.raises(InputError) as caught:
        bench.plan(text)
    assert str(caught.value) == f"'{HEAD}' has 10 rows in base and 12 in a{ADVICE}"
    plan = bench.plan(text, vocab="base")
    check_inputs(by_name(plan)[EMBED], base[EMBED])
    check_inputs(by_name(plan)[HEAD], a[HEAD][:10])
    plan = bench.plan(text, vocab="union-rows")
    check_inputs(by_name(plan)[EMBED], np.concatenate([base[EMBED], a[EMBED][10:]]))
    check_inputs(by_name(plan)[HEAD], a[HEAD])
    assert plan.config["vocab_size"] == 12


def test_another_width_is_no_matter_of_the_vocabulary(bench):
    bench.llama("base", 0)
    bench.llama("a", 1, rows=12, width=8)
    with pytest.raises(InputError) as caught:
        bench.plan(models("task_arithmetic", "a", base="base"), vocab="union-rows")
    assert str(caught.value).startswith(f"'{HEAD}' has shape [12, 8] in a, expected [10, 4] as in base (and ")
