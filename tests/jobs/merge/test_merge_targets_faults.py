from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from merge_models import Bench, by_name, check_inputs, llama, llama_config, models

from netweight.checkpoint.tensor import Skipped
from netweight.errors import InputError

NORM = "model.norm.weight"
TEXT = models("task_arithmetic", "a", "b", base="base")


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def refusal(bench, text=TEXT, **options) -> str:
    with pytest.raises(InputError) as caught:
        bench.plan(text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_parameter_that_a_model_lacks(bench):
    base, b = bench.llama("base", 0), bench.llama("b", 2)
    a = without(llama(1), NORM, "model.layers.0.mlp.up_proj.weight")
    bench.write("a", a, llama_config())
    assert refusal(bench) == (
        "'model.layers.0.mlp.up_proj.weight' (and 1 more) is missing in a; expected all parameters of base in every"
        " model: leave the model out, or give --missing base, which takes the base's values for what a model lacks"
    )
    plan = bench.plan(TEXT, missing="base")
    target = by_name(plan)[NORM]
    check_inputs(target, base[NORM], base[NORM], b[NORM])
    assert [i.model for i in target.inputs] == [0, 0, 2]
    assert plan.notes == (
        "a: lacks 'model.layers.0.mlp.up_proj.weight' and 1 more; the values of base stand in (--missing base)",
    )


def test_a_parameter_that_the_base_lacks(bench):
    bench.llama("base", 0)
    bench.llama("a", 1)
    more = {f"model.layers.0.extra{n}.weight": np.ones(2, np.float32) for n in range(3)}
    bench.write("b", llama(2) | more | {"count": np.arange(3)}, llama_config())
    assert refusal(bench) == (
        "'model.layers.0.extra0.weight' (and 2 more) of b is missing in the base base; expected the base's parameters"
        " alone: merge models of one architecture, or give --missing base, which leaves out what the base lacks"
    )
    plan = bench.plan(TEXT, missing="base")
    assert not set(more) & set(by_name(plan))
    assert plan.dropped == (
        Skipped("count", "not in base; integer dtype I64: not a weight (in b)"),
        *(Skipped(name, "not in base (in b; --missing base)") for name in more),
    )


def test_another_shape(bench):
    bench.llama("base", 0)
    bench.llama("a", 1)
    bench.write("b", llama(2) | {NORM: np.ones(5, np.float32)}, llama_config())
    assert refusal(bench) == (
        "'model.norm.weight' has shape [5] in b, expected [4] as in base; merge models of one architecture and size"
    )
    assert refusal(bench, vocab="base", missing="base") == refusal(bench)


def test_more_layers(bench):
    bench.llama("base", 0)
    bench.llama("a", 1, layers=3)
    assert refusal(bench, models("task_arithmetic", "a", base="base")).startswith(
        "'model.layers.2.input_layernorm.weight' (and 6 more) of a is missing in the base base; "
    )
    assert refusal(bench, models("task_arithmetic", "base", base="a")).startswith(
        "'model.layers.2.input_layernorm.weight' (and 6 more) is missing in base; "
    )


def test_nothing_shared(bench):
    bench.llama("base", 0)
    bench.write("a", {"x.y": np.ones(2, np.float32)})
    assert refusal(bench, models("task_arithmetic", "a", base="base")) == (
        "a and base share no parameter: 'x.y' against 'lm_head.weight', 'model.embed_tokens.weight'; expected models"
        " of one architecture"
    )


def test_no_tensors(bench):
    bench.write("a", {})
    assert refusal(bench, models("linear", "a")) == "a: holds no tensors, so there is nothing to merge"


@pytest.mark.parametrize(
    ("name", "tensor", "config"),
    [
        ("model.layers.0.mlp.up_proj.weight_scale_inv", np.ones((1, 1), np.float32), {}),
        ("model.layers.0.mlp.up_proj.qweight", np.ones((1, 1), np.int32), {"quantization_config": {"bits": 4}}),
    ],
)
@pytest.mark.parametrize("at", ["base", "a"])
def test_quantised_models(bench, name, tensor, config, at):
    for seed, model in enumerate(("base", "a")):
        bench.write(model, llama(seed) | ({name: tensor} if model == at else {}), llama_config(**config))
    dtype = "F32" if tensor.dtype == np.float32 else "I32"
    assert refusal(bench, models("task_arithmetic", "a", base="base")) == (
        f"{at}: '{name}' ({dtype}) belongs to a quantised weight; quantised models cannot be merged: dequantise it"
        " first, or take the model that it was quantised from"
    )


def test_a_base_that_gives_no_weights_may_be_quantised(bench):
    bench.write("base", llama(0) | {"x.qweight": np.ones(2, np.int32)}, llama_config(quantization_config={"bits": 4}))
    bench.llama("a", 1)
    plan = bench.plan(models("linear", "a", base="base"))
    assert "quantization_config" not in plan.config
    assert plan.notes == ("config.json has a quantization_config, and no weight is quantised: the entry is left out",)


def test_integers_in_the_place_of_weights(bench):
    bench.llama("base", 0)
    bench.write("a", llama(1) | {NORM: np.ones(4, np.int8)})
    assert refusal(bench, models("task_arithmetic", "a", base="base")) == (
        "'model.norm.weight' is I8 in a and F32 in base; expected float weights: dequantise that model, or leave it out"
    )


def test_types_and_names_that_safetensors_cannot_hold(bench):
    torch = pytest.importorskip("torch")
    for name, tensors in (("a", {"w": torch.ones(2, dtype=torch.complex128)}), ("b", {"__metadata__": torch.ones(2)})):
        (bench.folder / name).mkdir()
        torch.save(tensors, bench.folder / name / "pytorch_model.bin")
    assert refusal(bench, models("linear", "a")) == (
        "a: 'w' is C128, which safetensors files cannot hold; convert it to C64 first"
    )
    assert refusal(bench, models("linear", "b")) == (
        "b: a tensor is named '__metadata__', which safetensors files keep for themselves; give it another name"
    )
