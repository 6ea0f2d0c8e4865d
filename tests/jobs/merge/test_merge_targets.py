from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import xxhash
from merge_models import BF16, LINEAR, TASK, Bench, by_name, check_inputs, llama, llama_config, method, models
from slowness import slowness

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.errors import InputError, OptionError
from netweight.jobs.merge.targets import PlanOptions, plan_merge, plan_with
from netweight.merging.method import Base
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.settings import resolve


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def gpt2(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"wte.weight": (9, 4), "wpe.weight": (5, 4), "ln_f.weight": (4,), "ln_f.bias": (4,)}
    for n in range(3):
        shapes |= {f"h.{n}.attn.c_attn.weight": (4, 12), f"h.{n}.attn.c_attn.bias": (12,), f"h.{n}.ln_1.weight": (4,)}
        shapes |= {f"h.{n}.mlp.c_fc.weight": (4, 16), f"h.{n}.attn.bias": (1, 1, 5, 5)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def mixtral(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = llama(seed)
    for n in range(2):
        for e in range(4):
            for w, shape in (("w1", (6, 4)), ("w2", (4, 6)), ("w3", (6, 4))):
                name = f"model.layers.{n}.block_sparse_moe.experts.{e}.{w}.weight"
                made[name] = rng.standard_normal(shape).astype(np.float32)
        made[f"model.layers.{n}.block_sparse_moe.gate.weight"] = rng.standard_normal((4, 4)).astype(np.float32)
    return made


@pytest.mark.parametrize("make", [gpt2, llama, mixtral])
def test_every_tensor_of_the_base_is_in_the_output_in_its_order(bench, make):
    tensors = {name: make(seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, held in tensors.items():
        bench.write(name, held)
    plan = bench.plan(models("task_arithmetic", "a", "base", "b", base="base"))
    assert plan.references == ("base", "a", "b")
    assert [t.name for t in plan.targets] == list(plan.checkpoints[0])
    assert {t.name for t in plan.targets} == set(tensors["base"])
    for target in plan.targets:
        each = [held[target.name] for held in tensors.values()]
        if target.name.endswith(".attn.bias"):  # GPT-2's causal mask
            assert (target.method, target.subject) == (None, None)
            each = each[:1]
        else:
            assert target.method == "task_arithmetic"
            assert target.subject.base
            assert target.subject.models == 2
            assert target.subject.model_settings == ({"weight": 1.0}, {"weight": 1.0})
            assert target.subject.shape == target.shape
            assert target.subject.name == target.name
            assert target.subject.bits == 32
        assert [i.model for i in target.inputs] == list(range(len(each)))
        assert target.dtype == DTYPES["F32"]
        check_inputs(target, *each)
    assert plan.dropped == ()
    where = bench.folder / "base"
    copied = [target.name for target in plan.targets if target.subject is None]
    assert len(plan.notes) == 1 + bool(copied)
    assert all(f"'{copied[0]}'" in note and "copied, not merged" in note for note in plan.notes[:-1])
    assert plan.notes[-1] == f"{where}: has no config.json; the output gets none, and does not load by itself"
    assert plan.config is None


def test_layers_and_depth(bench):
    for seed, name in enumerate("ab"):
        bench.llama(name, seed, layers=5)
    seen = {}

    def remembering(method_, recipe, *, name, depth, **rest):
        seen[name] = depth
        return resolve(method_, recipe, name=name, depth=depth, **rest)

    text = models("linear", "a", "b", parameters={"weight": [0, 1]})
    plan = bench.plan(text)
    recipe = parse_recipe(text, "merge.yml")
    again = plan_with(LINEAR, remembering, recipe, plan.checkpoints, PlanOptions())
    assert again == plan
    for target in plan.targets:
        layer = int(target.name.split(".")[2]) if ".layers." in target.name else None
        assert target.layer == layer
        depth = 0 if layer is None else layer / 4
        assert seen[target.name] == depth
        assert target.subject.model_settings == ({"weight": depth}, {"weight": depth})
        assert not target.subject.base


def test_one_layer_is_the_end_of_a_gradient(bench):
    bench.llama("a", 0, layers=1)
    plan = bench.plan(models("linear", "a", parameters={"weight": [0.25, 1]}))
    weights = {t.name: t.subject.model_settings[0]["weight"] for t in plan.targets}
    assert weights["model.layers.0.mlp.up_proj.weight"] == 1
    assert weights["model.embed_tokens.weight"] == weights["model.norm.weight"] == weights["lm_head.weight"] == 0.25


def test_keys(bench):
    for seed, name in enumerate(("base", "a", "b")):
        bench.llama(name, seed)
    text = models("task_arithmetic", "a", "b", base="base")
    target = by_name(bench.plan(text, seed=7))["model.norm.weight"]
    expected = [int.from_bytes(xxhash.xxh3_64(f"7\0{i}\0model.norm.weight".encode()).digest(), "big") for i in range(2)]
    assert list(target.subject.keys) == expected
    plain = [key for t in bench.plan(text).targets for key in t.subject.keys]
    assert len(set(plain)) == 2 * len(bench.plan(text).targets)


@pytest.mark.parametrize(
    ("said", "dtypes", "bits"),
    [
        ({}, ("BF16", "F32"), 32),
        ({"dtype": "float16"}, ("F16", "F16"), 32),
        ({"dtype": "float16", "out_dtype": "float32"}, ("F32", "F32"), 32),
        ({"out_dtype": "float64"}, ("F64", "F64"), 64),
    ],
)
def test_element_types(bench, said, dtypes, bits):
    base = llama(0, dtype=BF16)
    base["model.norm.weight"] = base["model.norm.weight"].astype(np.float32)
    base["position_ids"] = np.arange(4)
    base["steps"] = np.array([True, False])
    bench.write("base", base)
    bench.write("a", llama(1, dtype=np.float16) | {"position_ids": np.arange(4), "steps": np.array([1.0])})
    plan = bench.plan(models("task_arithmetic", "a", base="base", **said))
    found = by_name(plan)
    assert found["lm_head.weight"].dtype.name == dtypes[0]
    assert found["model.norm.weight"].dtype.name == dtypes[1]
    assert found["lm_head.weight"].subject.bits == bits
    for name, dtype in (("position_ids", "I64"), ("steps", "BOOL")):
        assert found[name].dtype.name == dtype
        assert found[name].method is None
        assert [i.model for i in found[name].inputs] == [0]
    assert "'steps': not merged but copied from the base, and another shape or type in a model" in plan.notes


def test_a_float64_input_makes_wide_arithmetic_for_its_parameter_alone(bench):
    bench.llama("base", 0)
    other = llama(1)
    other["model.norm.weight"] = other["model.norm.weight"].astype(np.float64)
    bench.write("a", other)
    found = by_name(bench.plan(models("task_arithmetic", "a", base="base")))
    assert found["model.norm.weight"].subject.bits == 64
    assert found["model.norm.weight"].dtype.name == "F32"
    assert found["lm_head.weight"].subject.bits == 32


def test_buffers_are_the_bases(bench):
    freq = "model.layers.0.self_attn.rotary_emb.inv_freq"
    base = llama(0) | {freq: np.ones(2, np.float32)}
    bench.write("base", base)
    bench.write("a", llama(1) | {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)})
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    target = by_name(plan)[freq]
    assert (target.method, target.subject, len(target.inputs)) == (None, None, 1)
    check_inputs(target, base[freq])
    assert plan.dropped == (
        Skipped(
            "model.layers.1.self_attn.rotary_emb.inv_freq",
            "not in base; computed by the model's code, not trained (in a)",
        ),
    )


def test_names_without_a_wrappers_prefix(bench):
    base, other = bench.llama("base", 0), llama(1, names="module.model.")
    bench.write("a", other)
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    for name, target in by_name(plan).items():
        check_inputs(target, base[name], other.get(f"module.{name}", other.get(name)))
    assert plan.notes == ("a: names matched with no prefix in base and the prefix 'module.' passed over in the model",)


def test_what_the_base_is_to_methods(bench):
    tensors = {name: bench.llama(name, seed) for seed, name in enumerate(("base", "a", "b"))}
    norm = "model.norm.weight"

    def found(plan):
        return [i.model for i in by_name(plan)[norm].inputs], by_name(plan)[norm].subject.base

    assert found(bench.plan(models("linear", "a", "b", base="base"))) == ([1, 2], False)
    assert found(bench.plan(models("linear", "a", "base", base="base"))) == ([1, 0], False)
    assert found(bench.plan(models("nuslerp", "a", "b"))) == ([0, 1], False)
    assert found(bench.plan(models("nuslerp", "a", "b", base="base"))) == ([0, 1, 2], True)
    assert found(bench.plan(models("slerp", "b", "base", base="base"))) == ([0, 1], True)
    plan = bench.plan(models("linear", "b", "a", base="base"))
    check_inputs(by_name(plan)[norm], tensors["b"][norm], tensors["a"][norm])
    assert (plan.config_from, plan.tokenizer_from) == (0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            models("task_arithmetic", "a"),
            (
                "merge.yml: method task_arithmetic needs a base model, got none: name the model that the others were"
                " fine-tuned from as base_model"
            ),
        ),
        (
            models("slerp", "a", "b", base="base"),
            "merge.yml, line 1, models: method slerp takes 1 model besides the base model, got 2 (a, b)",
        ),
        (
            models("nuslerp", "a", "base", base="base"),
            "merge.yml, line 1, models: method nuslerp takes 2 models besides the base model, got 1 (a)",
        ),
        (
            models("passthrough", "a", "b"),
            "merge.yml, line 1, models: method passthrough takes 1 model, got 2 (a, b)",
        ),
        (
            models("task_arithmetic", "base", base="base"),
            "merge.yml, line 1, models: method task_arithmetic takes at least 1 model besides the base model, got 0",
        ),
    ],
)
def test_models_that_a_method_cannot_take(bench, text, message):
    for seed, name in enumerate(("base", "a", "b")):
        bench.llama(name, seed)
    with pytest.raises(OptionError) as caught:
        bench.plan(text)
    assert str(caught.value) == message


def test_a_range_of_models(bench):
    for seed, name in enumerate("abcdef"):
        bench.llama(name, seed)
    with pytest.raises(OptionError, match=r"takes 2 to 3 models, got 6 \(a, b, c, d, \.\.\.\)$"):
        bench.plan(models("few", *"abcdef"), method("few", Base.UNUSED, (2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab": "bass"}, "--vocab: expected base or union-rows, got 'bass' (did you mean 'base'?)"),
        ({"missing": "skip"}, "--missing: expected error or base, got 'skip'"),
    ],
)
def test_options_that_cannot_be(bench, options, message):
    bench.llama("a", 0)
    with pytest.raises(OptionError) as caught:
        bench.plan(models("linear", "a"), **options)
    assert str(caught.value) == message


def test_hostile_names(bench):
    evil = "model.\x1b[31mred\n.weight"
    bench.write("base", llama(0) | {evil: np.ones(2, np.float32)})
    bench.llama("a", 1)
    with pytest.raises(InputError, match=r"^'model\.\\x1b\[31mred\\n\.weight' is missing in a; "):
        bench.plan(models("task_arithmetic", "a", base="base"))
    assert evil in by_name(bench.plan(models("task_arithmetic", "a", base="base"), missing="base"))


class NoBytes:
    name = "nowhere"
    size = 0


def test_ten_thousand_tensors_of_eight_models():
    shapes = {"model.embed_tokens.weight": (100, 8), "lm_head.weight": (100, 8), "model.norm.weight": (8,)}
    for n in range(100):
        for e in range(100):
            shapes[f"model.layers.{n}.mlp.experts.{e}.up_proj.weight"] = (16, 8)
    source = NoBytes()
    checkpoints = [
        Checkpoint(
            name,
            {n: StoredTensor(n, shape, DTYPES["BF16"], source, 0) for n, shape in shapes.items()},
            format="safetensors",
            files=(),
            config=llama_config(layers=100, rows=100),
        )
        for name in "abcdefgh"
    ]
    recipe = parse_recipe(models("task_arithmetic", *"bcdefgh", base="a"), "merge.yml")
    start = time.thread_time()
    plan = plan_with(TASK, resolve, recipe, checkpoints, PlanOptions())
    assert time.thread_time() - start < 20 * slowness()  # about 2 s usually
    assert len(plan.targets) == len(shapes)


def test_the_plan_by_the_registry(bench):
    bench.llama("base", 0)
    bench.llama("a", 1)
    text = json.dumps(
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [{"model": "a", "parameters": {"weight": 1, "density": 0.5}}],
        }
    )
    plan = bench.plan(models("task_arithmetic", "a", base="base"))
    made = plan_merge(parse_recipe(text, "merge.yml"), plan.checkpoints, PlanOptions())
    assert {t.method for t in made.targets} == {"ties"}
    assert made.targets[0].subject.model_settings[0]["density"] == 0.5
    with pytest.raises(OptionError, match="unknown setting 'densty'"):
        plan_merge(parse_recipe(text.replace("density", "densty"), "merge.yml"), plan.checkpoints, PlanOptions())


@pytest.mark.parametrize(
    "pair",
    [
        ("JunSuzukiJapan__tl__model_2digit@6bcd94.safetensors", "JunSuzukiJapan__tl__model_2digit@f0cd61.safetensors"),
        ("BlinkDL__RWKV-LM__RWKV-v8_251105_reverse_L2.pth", "BlinkDL__RWKV-LM__RWKV-v8_260123_reverse_L2.pth"),
        ("greydanus__baby-a3c__pong-v4_model.40.tar", "greydanus__baby-a3c__pong-v4_model.80.tar"),
    ],
)
def test_real_checkpoints(realweights, pair):
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(open_checkpoint(realweights / name)) for name in pair]
        recipe = parse_recipe(models("task_arithmetic", "tuned", base="base"), "merge.yml")
        plan = plan_with(TASK, resolve, recipe, checkpoints, PlanOptions())
        assert [t.name for t in plan.targets] == list(checkpoints[0])
        for target in plan.targets:
            tensors = [c[target.name] for c in checkpoints][: len(target.inputs)]
            assert [i.pieces[0].tensor for i in target.inputs] == tensors
            assert target.shape == tensors[0].shape
        assert plan.config is None
