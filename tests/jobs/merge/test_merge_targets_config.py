from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from merge_models import Bench, llama, llama_config, models, slices

from netweight.dtypes import DTYPES
from netweight.errors import InputError
from netweight.jobs.merge.config import config_dtype, merged_config


@pytest.fixture
def bench(tmp_path: Path):
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def config_of(bench, text, config, **how):
    bench.write("a", llama(0, **how), config)
    bench.write("b", llama(1, **how), config)
    return bench.plan(text)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_element_type_under_the_key_that_is_used(bench, key):
    config = {"model_type": "llama", key: "float32", "num_hidden_layers": 2, "extra": {"kept": [1]}}
    plan = config_of(bench, models("linear", "a", "b", dtype="bfloat16"), config)
    assert plan.config == config | {key: "bfloat16"}
    assert plan.checkpoints[0].config[key] == "float32"


def test_the_element_type_of_most_elements(bench):
    tensors = llama(0, dtype=np.float16) | {"big": np.ones(1000, np.float32), "ids": np.ones(9999, np.int64)}
    bench.write("a", tensors, {"model_type": "llama"})
    assert bench.plan(models("linear", "a")).config == {"model_type": "llama", "torch_dtype": "float32"}


@pytest.mark.parametrize(
    "name", [n for n, d in DTYPES.items() if n[0] in "FB" and n not in {"BOOL", "F4"} and d.numpy_name]
)
def test_names_of_element_types_are_torchs(name):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, config_dtype(DTYPES[name]))
    assert dtype.itemsize * 8 == DTYPES[name].bits
    assert dtype.is_floating_point


def test_nested_text_config():
    config = {"dtype": "float32", "text_config": {"dtype": "float32", "vocab_size": 5}, "vision_config": {"dtype": "x"}}
    made, notes = merged_config(config, dtype=DTYPES["BF16"], rows=7)
    assert made == {
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "vocab_size": 7},
        "vision_config": {"dtype": "x"},
    }
    assert notes == []
    assert config["text_config"] == {"dtype": "float32", "vocab_size": 5}


def test_a_padded_vocabulary_is_left_alone(bench):
    plan = config_of(bench, models("linear", "a", "b"), llama_config(rows=7))
    assert plan.config["vocab_size"] == 7


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers", "n_layers"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_number_of_layers(bench, key, nested):
    inner = {"model_type": "llama", key: 4}
    config = {"model_type": "outer", "text_config": inner} if nested else inner
    plan = config_of(bench, slices("passthrough", [("a", 0, 3)], [("b", 2, 4)]), config, layers=4)
    assert (plan.config["text_config"] if nested else plan.config)[key] == 5
    assert plan.notes == ()


def test_lists_of_layers(bench):
    def config(word, **more):
        return (
            llama_config(
                layers=4,
                layer_types=[f"{word}{n}" for n in range(4)],
                no_rope_layers=[1, 1, 1, 0],
                mlp_only_layers=[0, 3],
                eos_token_id=[1, 2, 3, 4],
                architectures=["LlamaForCausalLM"],
                sizes=[1, 2, 3],
            )
            | more
        )

    bench.write("a", llama(0, layers=4), config("a", first_k_dense_replace=1))
    bench.write("b", llama(1, layers=4), config("b", mlp_only_layers=[2]))
    plan = bench.plan(slices("passthrough", [("a", 0, 2)], [("b", 1, 3)], [("a", 3, 4)]))
    assert plan.config["layer_types"] == ["a0", "a1", "b1", "b2", "a3"]
    assert plan.config["no_rope_layers"] == [1, 1, 1, 1, 0]
    assert plan.config["mlp_only_layers"] == [0, 3, 4]
    assert plan.config["eos_token_id"] == [1, 2, 3, 4]
    assert plan.config["sizes"] == [1, 2, 3]
    assert plan.config["first_k_dense_replace"] == 1
    assert plan.notes == ()
    json.dumps(plan.config)


def test_layers_in_their_old_order_leave_config_as_it_was(bench):
    config = llama_config(layers=4, first_k_dense_replace=1, layer_types=list("wxyz"))
    plan = config_of(bench, slices("linear", [("a", 0, 2), ("b", 0, 2)], [("b", 2, 4), ("a", 2, 4)]), config, layers=4)
    assert plan.config == config
    assert plan.notes == ()


def test_lists_that_do_not_reach(bench):
    bench.write("a", llama(0, layers=2), llama_config(layers=2, layer_types=["x", "y"]))
    bench.write("b", llama(1, layers=4), llama_config(layers=4))
    with pytest.raises(
        InputError, match=r"layer_types = \['x', 'y'\] cannot say .* that they are \[x, y, \?, \?\], so"
    ):
        bench.plan(slices("passthrough", [("a", 0, 2)], [("b", 2, 4)]))
    bench.write("c", llama(0, layers=2), llama_config(layers=2, window=[7, 8]))
    plan = bench.plan(slices("passthrough", [("c", 0, 2)], [("b", 2, 4)]))
    assert "window" not in plan.config
    assert plan.config["num_hidden_layers"] == 4
    assert plan.notes == ("config.json: window lacks entries for some layers and is left out: check it",)


def test_a_config_that_says_nothing(bench):
    plan = config_of(bench, slices("passthrough", [("a", 0, 1)]), {}, layers=2)
    assert plan.config == {"torch_dtype": "float32"}
    assert plan.notes == ("config.json does not say how many layers there are; the merged model has 1",)


def test_a_malformed_config_is_no_obstacle(bench):
    config = {
        "text_config": [1],
        "num_hidden_layers": "many",
        "vocab_size": None,
        "layer_types": "x",
        "mlp_only_layers": 3,
    }
    plan = config_of(bench, slices("passthrough", [("a", 0, 1)]), config, layers=2)
    assert plan.config == config | {"torch_dtype": "float32"}
