from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from merge_models import LINEAR, Bench, by_name, check_inputs, llama, llama_config, models, slices

from netweight.checkpoint.tensor import Skipped
from netweight.errors import InputError, OptionError
from netweight.jobs.merge.targets import PlanOptions, plan_with
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.settings import resolve

UP = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.fixture
def three(bench):
    """Llamas of four layers."""
    return {name: bench.llama(name, seed, layers=4) for seed, name in enumerate("abc")}


def test_layers_behind_one_another(bench, three):
    plan = bench.plan(slices("passthrough", [("a", 0, 3)], [("b", 1, 4)], [("c", 1, 2)]))
    found = by_name(plan)
    came = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("c", 1)]
    assert len(found) == 3 + 7 * len(came)
    for layer, (model, number) in enumerate(came):
        for tail in ("mlp.up_proj.weight", "self_attn.q_proj.weight", "input_layernorm.weight"):
            target = found[f"model.layers.{layer}.{tail}"]
            check_inputs(target, three[model][f"model.layers.{number}.{tail}"])
            assert target.layer == layer
            assert [i.model for i in target.inputs] == ["abc".index(model)]
    # embeddings from the first slice, what stands behind the blocks from the last: as mergekit 0.1.5 does
    check_inputs(found["model.embed_tokens.weight"], three["a"]["model.embed_tokens.weight"])
    check_inputs(found["model.norm.weight"], three["c"]["model.norm.weight"])
    check_inputs(found["lm_head.weight"], three["c"]["lm_head.weight"])
    assert plan.config["num_hidden_layers"] == 7
    assert plan.notes == ()


def test_the_order_of_the_output(bench, three):
    plan = bench.plan(slices("passthrough", [("a", 2, 4)], [("a", 0, 2)]))
    names = [t.name for t in plan.targets]
    outside = [n for n in plan.checkpoints[0] if ".layers." not in n]
    assert [n for n in names if ".layers." not in n] == outside
    layers = [int(n.split(".")[2]) for n in names if ".layers." in n]
    assert layers == sorted(layers)
    first = [n.replace(".2.", ".0.") for n in plan.checkpoints[0] if ".layers.2." in n]
    assert [n for n in names if ".layers.0." in n] == first


def test_what_no_slice_takes_is_listed(bench, three):
    plan = bench.plan(slices("passthrough", [("a", 0, 3)], [("b", 0, 1)], [("c", 0, 4)]))
    dropped = {}
    for entry in plan.dropped:
        dropped.setdefault(entry.reason, []).append(entry.name)
    outside = ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    assert dropped.pop("layer 3 of a is in no slice") == [n for n in plan.checkpoints[0] if ".layers.3." in n]
    for n in (1, 2, 3):
        assert len(dropped.pop(f"layer {n} of b is in no slice")) == 7
    assert dropped.pop("outside of the blocks, and a gives only blocks there") == [outside[0], outside[2]]
    assert dropped.pop("outside of the blocks, and b gives only blocks there") == outside
    assert dropped.pop("outside of the blocks, and c gives only blocks there") == [outside[1]]
    assert not dropped
    used = {(i.model, i.pieces[0].tensor.name) for t in plan.targets for i in t.inputs}
    assert len(used) + len(plan.dropped) == sum(map(len, plan.checkpoints))


def test_slerp_of_slices(bench, three):
    parts = ([("b", 0, 2), ("a", 0, 2)], [("a", 1, 3), ("c", 2, 4)])
    plan = bench.plan(slices("slerp", *parts, base="a", parameters={"t": [0.25, 0.75]}))
    found = by_name(plan)
    for layer, (a, other, number) in enumerate([(0, "b", 0), (1, "b", 1), (1, "c", 2), (2, "c", 3)]):
        target = found[UP.format(layer)]
        check_inputs(target, three["a"][UP.format(a)], three[other][UP.format(number)])
        assert target.subject.settings == {"t": 0.25 + 0.5 * (layer % 2)}
        assert target.subject.base
        assert target.subject.models == 1
    embed, norm = "model.embed_tokens.weight", "model.norm.weight"
    check_inputs(found[embed], three["a"][embed], three["b"][embed])
    check_inputs(found[norm], three["a"][norm], three["c"][norm])
    assert found[embed].subject.settings == found[norm].subject.settings == {"t": 0.25}


def test_settings_of_slices_and_names_of_sources(bench, three):
    text = slices(
        "linear",
        [("a", 0, 1), ("b", 3, 4)],
        [("c", 1, 3)],
        parameters={"weight": [{"filter": "layers.3.", "value": [2, 4]}, {"value": [0.5, 1.0]}]},
    )
    found = by_name(bench.plan(text))
    weights = [[e["weight"] for e in found[UP.format(n)].subject.model_settings] for n in range(3)]
    assert weights == [[1.0, 4.0], [0.5], [1.0]]
    assert [e["weight"] for e in found["model.norm.weight"].subject.model_settings] == [0.5]

    seen = []
    recipe = parse_recipe(text, "merge.yml")

    def remembering(method, given, **rest):
        seen.append((rest["slice_number"], rest["name"], rest["names"]))
        return resolve(method, given, **rest)

    plan = bench.plan(text)
    plan_with(LINEAR, remembering, recipe, plan.checkpoints, PlanOptions())
    assert (0, UP.format(0), [UP.format(0), UP.format(3)]) in seen
    assert (1, UP.format(2), [UP.format(2)]) in seen


def test_models_with_a_wrappers_prefix_and_other_lengths(bench, three):
    long = llama(9, layers=8, names="module.model.")
    bench.write("long", long, llama_config(layers=8))
    plan = bench.plan(slices("passthrough", [("a", 0, 2)], [("long", 6, 8)]))
    for n in (2, 3):
        check_inputs(by_name(plan)[UP.format(n)], long["module." + UP.format(n + 4)])
    check_inputs(by_name(plan)["model.norm.weight"], long["module.model.norm.weight"])
    assert "module." not in " ".join(by_name(plan))


def test_names_of_gpt2(bench):
    def gpt2(seed):
        rng = np.random.default_rng(seed)
        made = {"wte.weight": (9, 4), "ln_f.weight": (4,)}
        made |= {f"h.{n}.attn.c_attn.weight": (4, 12) for n in range(12)} | {
            f"h.{n}.ln_1.weight": (4,) for n in range(12)
        }
        return {k: rng.standard_normal(s).astype(np.float32) for k, s in made.items()}

    a, b = gpt2(0), gpt2(1)
    bench.write("a", a, {"model_type": "gpt2", "n_layer": 12})
    bench.write("b", b, {"model_type": "gpt2", "n_layer": 12})
    plan = bench.plan(slices("passthrough", [("a", 0, 11)], [("b", 10, 12)]))
    check_inputs(by_name(plan)["h.11.ln_1.weight"], b["h.10.ln_1.weight"])
    check_inputs(by_name(plan)["h.12.ln_1.weight"], b["h.11.ln_1.weight"])
    check_inputs(by_name(plan)["ln_f.weight"], b["ln_f.weight"])
    assert plan.config["n_layer"] == 13
    assert [t.layer for t in plan.targets if t.layer is not None] == sorted(n for n in range(13) for _ in range(2))


def test_numbers_elsewhere_in_a_name_stay(bench):
    tail = "mlp.experts.1.layers.1.up_proj.weight"
    a = {f"model.layers.{n}.{tail}": np.full((2, 2), n, np.float32) for n in range(3)}
    bench.write("a", a, llama_config(layers=3))
    plan = bench.plan(slices("passthrough", [("a", 1, 2)], [("a", 2, 3)]))
    assert [t.name for t in plan.targets] == [f"model.layers.{n}.{tail}" for n in range(2)]
    check_inputs(plan.targets[0], a[f"model.layers.1.{tail}"])
    check_inputs(plan.targets[1], a[f"model.layers.2.{tail}"])


def test_buffers_of_layers_come_along(bench):
    tail = "self_attn.rotary_emb.inv_freq"
    a = llama(0) | {f"model.layers.{n}.{tail}": np.full(2, n, np.float32) for n in range(2)}
    bench.write("a", a, llama_config())
    b = bench.llama("b", 1)
    plan = bench.plan(slices("linear", [("a", 1, 2), ("b", 0, 1)]))
    target = by_name(plan)[f"model.layers.0.{tail}"]
    assert (target.method, len(target.inputs)) == (None, 1)
    check_inputs(target, np.ones(2))
    check_inputs(by_name(plan)[UP.format(0)], a[UP.format(1)], b[UP.format(0)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            slices("passthrough", [("a", 0, 2)], [("b", 2, 5)]),
            (
                "merge.yml, line 1, slices[1].sources[0].layer_range: expected layers of b within [0, 4], as many as it"
                " has, got [2, 5]"
            ),
        ),
        (
            slices("task_arithmetic", [("a", 0, 2)], base="b"),
            (
                "merge.yml, line 1, slices[0].sources: method task_arithmetic needs layers of the base model b too, and"
                " the slice does not list it: add it with its layer_range"
            ),
        ),
        (
            slices("slerp", [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)], base="b"),
            "merge.yml, line 1, slices[0].sources: method slerp takes 1 model besides the base model, got 2 (a, c)",
        ),
    ],
)
def test_slices_that_cannot_be(bench, three, text, message):
    with pytest.raises(OptionError) as caught:
        bench.plan(text)
    assert str(caught.value) == message


def test_a_model_without_a_stack_of_layers(bench):
    bench.write("a", {"x.weight": np.ones(2, np.float32)})
    with pytest.raises(InputError) as caught:
        bench.plan(slices("passthrough", [("a", 0, 1)]))
    assert (
        str(caught.value)
        == "a: has no single stack of layers, so that no slices can be cut from it; use models instead"
    )


def test_a_gap_in_the_layers(bench):
    tensors = {n: t for n, t in llama(0, layers=3).items() if ".layers.1." not in n}
    bench.write("a", tensors, llama_config(layers=3))
    with pytest.raises(InputError) as caught:
        bench.plan(slices("passthrough", [("a", 0, 3)]))
    assert str(caught.value) == "a: has no layer 1, though it has later ones; expected every layer of a slice"


def test_a_layer_under_two_numbers(bench):
    bench.write("a", llama(0) | {"model.layers.01.mlp.up_proj.weight": np.ones((6, 4), np.float32)}, llama_config())
    with pytest.raises(InputError, match=r"are both of layer 1; expected one name for each parameter of a layer$"):
        bench.plan(slices("passthrough", [("a", 0, 2)]))


def test_blocks_that_do_not_fit_each_other(bench, three):
    tail = "self_attn.q_norm.weight"
    more = llama(5, layers=4) | {f"model.layers.{n}.{tail}": np.full(4, n, np.float32) for n in range(4)}
    bench.write("more", more, llama_config(layers=4))
    text = slices("passthrough", [("a", 0, 2)], [("more", 2, 4)])
    with pytest.raises(InputError) as caught:
        bench.plan(text)
    assert str(caught.value).startswith(f"'model.layers.2.{tail}' (and 1 more) of more is missing in the base a; ")
    plan = bench.plan(text, missing="base")
    assert Skipped(f"model.layers.2.{tail}", "not in a (in more; --missing base)") in plan.dropped

    text = slices("passthrough", [("more", 0, 2)], [("a", 2, 4)])
    with pytest.raises(InputError) as caught:
        bench.plan(text)
    assert str(caught.value).startswith(f"'model.layers.2.{tail}' (and 1 more) is missing in a; ")
    plan = bench.plan(text, missing="base")
    check_inputs(by_name(plan)[f"model.layers.3.{tail}"], np.full(4, 3))

    bench.write("short", {n: t for n, t in more.items() if ".layers.3." not in n}, llama_config(layers=3))
    with pytest.raises(InputError) as caught:
        bench.plan(slices("passthrough", [("short", 0, 2)], [("a", 2, 4)]), missing="base")
    assert str(caught.value) == (
        f"'model.layers.3.{tail}' is missing in the layer of a that it would come from, and short has no layer of that"
        " number to stand in; take other layers"
    )


def test_blocks_of_another_width(bench, three):
    bench.llama("wide", 7, layers=4, width=8)
    with pytest.raises(InputError) as caught:
        bench.plan(slices("passthrough", [("a", 0, 2)], [("wide", 2, 3)], [("a", 3, 4)]))
    assert str(caught.value) == (
        "'model.layers.2.input_layernorm.weight' has shape [8] in wide, expected [4] as in a (and 6 more); merge"
        " models of one architecture and size"
    )


def test_layers_that_config_does_not_count_stand_behind_the_last_slice(bench):
    extra = {f"model.layers.2.{t}": v for t, v in (("eh_proj.weight", np.ones((4, 8), np.float32)),)}
    bench.write("a", llama(0) | extra, llama_config(num_nextn_predict_layers=1))
    plan = bench.plan(slices("passthrough", [("a", 0, 2)], [("a", 1, 2)]))
    assert plan.dropped == plan.notes == ()
    assert by_name(plan)["model.layers.3.eh_proj.weight"].layer == 3
    assert (plan.config["num_hidden_layers"], plan.config["num_nextn_predict_layers"]) == (3, 1)
    bench.write("b", llama(1, layers=3), llama_config(layers=3))
    for first, last, blocks in (("a", "b", 0), ("b", "a", 0)):
        both = bench.plan(slices("passthrough", [(first, 0, 2)], [(last, 0, 2)]))
        assert both.config["num_hidden_layers"] == 4
        further = {t.name: t.inputs[0].pieces[0].tensor.name for t in both.targets if t.layer == 4}
        assert len(further) == blocks
        assert both.config.get("num_nextn_predict_layers", 0) == blocks
    whole = bench.plan(models("linear", "a"))
    assert by_name(whole)["model.layers.2.eh_proj.weight"].layer == 2
