"""Adapters as inputs of a merge, and merged to one adapter: as the dense models and sums of numpy say."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
from click.testing import CliRunner

import netweight
from netweight.checkpoint.tensors.quantised import floats_of
from netweight.cli.main import cli
from netweight.errors import InputError, NetweightError, OptionError
from netweight.jobs.merge.request import Weights
from netweight.params.opening import open_whole

torch = pytest.importorskip("torch")
from lora_models import factors_of, numbers, write_adapter, write_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

LAYER = "model.layers.0"
SHAPES = {
    "model.embed_tokens": (40, 16), f"{LAYER}.self_attn.q_proj": (16, 16), f"{LAYER}.self_attn.v_proj": (8, 16),
    f"{LAYER}.mlp.down_proj": (16, 24),
}  # fmt: skip
TARGETS = {name: shape for name, shape in SHAPES.items() if "proj" in name}
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40,
    "tie_word_embeddings": True,
}  # fmt: skip


def base_tensors(dtype=torch.float32):
    held = {f"{name}.weight": numbers(*shape, seed=1, scale=0.1).to(dtype) for name, shape in SHAPES.items()}
    return held | {f"{LAYER}.input_layernorm.weight": torch.ones(16, dtype=dtype)}


def model(folder, tensors):
    return write_model(folder, tensors, CONFIG)


def factors(seed, rank):
    return factors_of(TARGETS, seed, rank)


def adapter(folder, seed=2, rank=2, alpha=4, held=None):
    return write_adapter(folder, held or factors(seed, rank), alpha=alpha, base="../base")


def dense(base, seed=2, rank=2, alpha=4):
    made = dict(base)
    for name, (b, a) in factors(seed, rank).items():
        made[f"{name}.weight"] = (base[f"{name}.weight"].double() + alpha / rank * (b.double() @ a.double())).float()
    return made


@pytest.fixture
def models(tmp_path):
    """(base, two adapters, the two dense models that they are)"""
    base = base_tensors()
    return (
        model(tmp_path / "base", base),
        [adapter(tmp_path / "one"), adapter(tmp_path / "two", seed=4, rank=3, alpha=6)],
        [model(tmp_path / "dense1", dense(base)), model(tmp_path / "dense2", dense(base, 4, 3, 6))],
    )


ADAPTER = ["--as-adapter"]
METHODS = {
    "task_arithmetic": {}, "ties": {"density": 0.5}, "dare_ties": {"density": 0.5}, "linear": {},
    "della": {"density": 0.5, "epsilon": 0.1}, "breadcrumbs": {"density": 0.9},
    "sce": {"select_topk": 0.5}, "karcher": {}, "model_stock": {},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_adapters_are_models_to_every_method(tmp_path, models, method):
    """What the dense models give, to rounding, and nothing beside the inputs is written; verify computes it again."""
    base, adapters, whole = models
    before = sorted(path.name for path in tmp_path.iterdir())
    weights = None if method in {"karcher", "model_stock", "sce"} else [0.5, 0.5]
    settings = {"base": base, "method": method, "settings": METHODS[method], "weights": weights, "seed": 3}
    for inputs, name in ((adapters, "a"), (whole, "d")):
        netweight.merge(None, tmp_path / name, models=inputs, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "a", "d"])
    made, expected = (load_file(tmp_path / name / "model.safetensors") for name in "ad")
    assert made.keys() == expected.keys()
    for name, tensor in made.items():
        away = (tensor - expected[name]).abs() > 1e-5
        assert away.float().mean() < 0.02, name  # a value at a threshold may fall on either side
    verified = netweight.verify(tmp_path / "a")
    assert verified.good


def test_the_type_of_the_output_is_the_base_s(tmp_path):
    """Not the float32 in which a weight with an adapter is computed."""
    base = model(tmp_path / "base", base_tensors(torch.bfloat16))
    one = adapter(tmp_path / "one")
    netweight.merge(None, tmp_path / "o", base=base, models=[one], weights=[1.0])
    netweight.convert(f"{base}+{one}", tmp_path / "c")
    expected = dense(base_tensors(torch.bfloat16))
    for folder in ("o", "c"):
        for name, tensor in load_file(tmp_path / folder / "model.safetensors").items():
            assert tensor.dtype == torch.bfloat16
            assert torch.allclose(tensor.float(), expected[name].to(torch.bfloat16).float(), rtol=1e-2), name


RECIPES = [
    "{base}+{one}",
    "{{model: {{path: {base}}}, lora: {{path: {one}}}}}",
]


@pytest.mark.parametrize("form", RECIPES)
def test_recipes_name_adapters_as_mergekit_does(tmp_path, models, form):
    base, (one, two), _ = models
    named = form.format(base=base, one=one)
    (tmp_path / "r.yml").write_text(
        f"merge_method: linear\nmodels:\n- model: {named}\n  parameters: {{weight: 1}}\n"
        f"- model: {base}+{two}\n  parameters: {{weight: 1}}\n"
    )
    result = netweight.merge(tmp_path / "r.yml", tmp_path / "o")
    made = load_file(tmp_path / "o" / "model.safetensors")
    first, second = dense(base_tensors()), dense(base_tensors(), 4, 3, 6)
    for name, tensor in made.items():
        assert torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-6), name
    assert f"{base}+{one}" in result.recipe
    assert netweight.verify(tmp_path / "o").good
    for folder in (base, one, two):  # they are found from the output where all was moved together
        assert folder.exists()
    (tmp_path / "moved").mkdir()
    for name in ("base", "one", "two", "o"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert netweight.verify(tmp_path / "moved" / "o").good


def update_of(folder, name):
    """scale * B A of PEFT's files, in float64."""
    about = json.loads((folder / "adapter_config.json").read_text())
    held = load_file(folder / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    rank = about["rank_pattern"].get(name, about["r"])
    assert len(a) == rank
    return about["alpha_pattern"].get(name, about["lora_alpha"]) / rank * (b @ a).numpy()


def sums(weights):
    found = {}
    for name in TARGETS:
        found[name] = 0
        for (seed, rank, alpha), weight in zip(((2, 2, 4), (4, 3, 6)), weights, strict=True):
            b, a = factors(seed, rank)[name]
            found[name] = found[name] + weight * alpha / rank * (b.double() @ a.double()).numpy()
    return found


def as_adapter(models, folder, *more):
    """What is said of 0.3 of the first and 0.9 of the second, in folder/o."""
    base, adapters, _ = models
    words = ["merge", "--base", base, "--models", *adapters, "--weights", 0.3, 0.9, "--as-adapter", *more]
    said = CliRunner().invoke(cli, [*map(str, words), "--output", str(folder / "o"), "--format", "json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.output)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_sum_of_adapters_is_an_adapter(tmp_path, models, dtype):
    """Exact by stacking, and the error of rounding is what is said."""
    record = as_adapter(models, tmp_path, "--dtype", dtype)
    square = left = 0.0
    for name, expected in sums([0.3, 0.9]).items():
        made = update_of(tmp_path / "o", name)
        error = np.linalg.norm(made - expected) / np.linalg.norm(expected)
        assert error < {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}[dtype]
        row = record["modules"][f"{name}.weight"]
        assert row["relative_error"] == pytest.approx(error, rel=1e-3, abs=1e-9)
        assert row["rank"] == 5
        square += np.linalg.norm(expected) ** 2
        left += np.linalg.norm(made - expected) ** 2
    assert record["relative_error"] == pytest.approx(np.sqrt(left / square), rel=1e-3, abs=1e-9)
    assert netweight.verify(tmp_path / "o").good


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_of_a_rank_it_is_the_best(tmp_path, models, rank):
    """Eckart and Young: what is left are the singular values behind."""
    record = as_adapter(models, tmp_path, "--rank", rank)
    rows = record["modules"]
    for name, expected in sums([0.3, 0.9]).items():
        values = np.linalg.svd(expected, compute_uv=False)
        best = np.sqrt(np.square(values[rank:]).sum() / np.square(values).sum())
        made = update_of(tmp_path / "o", name)
        assert np.linalg.norm(made - expected) / np.linalg.norm(expected) == pytest.approx(best, rel=1e-5)
        assert rows[f"{name}.weight"]["relative_error"] == pytest.approx(best, rel=1e-5)
    assert netweight.verify(tmp_path / "o").good


def test_weights_follow_from_the_norms_of_the_updates(tmp_path, models):
    """Those of a merge of the models."""
    base, adapters, _ = models
    command = ["merge", "--base", base, "--models", *adapters, "--mode", "linear"]
    for more, name in ((["--as-adapter"], "a"), ([], "m")):
        said = CliRunner().invoke(cli, [*map(str, command), *more, "--output", str(tmp_path / name)])
        assert said.exit_code == 0, said.output
    of_adapter = json.loads((tmp_path / "a" / "netweight_adapter.json").read_text())["weights"]["models"]
    of_model = json.loads((tmp_path / "m" / "netweight_merge.json").read_text())["weights"]["models"]
    for one, other in zip(of_adapter, of_model, strict=True):
        assert one["weight"] == pytest.approx(other["weight"], rel=1e-6)
        assert one["l2"] == pytest.approx(other["l2"], rel=1e-6)


def test_norms_and_cosines_of_updates_are_those_of_dense_models(tmp_path, models):
    """From the factors, without a look at the weights: what the dense task vectors have in float64."""
    base, adapters, _ = models
    merged = netweight.merge(None, tmp_path / "o", base=base, models=adapters, weights=Weights(mode="linear"))
    updates = [
        {name: alpha / rank * (b.double() @ a.double()).numpy() for name, (b, a) in factors(seed, rank).items()}
        for seed, rank, alpha in ((2, 2, 4), (4, 3, 6))
    ]
    one, two = (np.concatenate([u[name].ravel() for name in TARGETS]) for u in updates)
    found = merged.weights
    assert [row["l2"] for row in found["models"]] == pytest.approx([np.linalg.norm(one), np.linalg.norm(two)], rel=1e-9)
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    assert found["cosines"][0][1] == pytest.approx(cosine, rel=1e-9)


def test_the_base_is_opened_once_for_all_its_adapters(tmp_path, models):
    base, adapters, _ = models
    with ExitStack() as stack:
        held = [stack.enter_context(open_whole(base))]
        held += [stack.enter_context(open_whole(ref, base=base, beside=held)) for ref in (adapters[0],)]
        held.append(stack.enter_context(open_whole(f"{base}+{adapters[1]}", beside=held)))
        assert {source for model in held[1:] for source in model.sources} > set(held[0].sources)
        name = next(iter(TARGETS)) + ".weight"
        values = [floats_of(model[name], 0, model[name].size) for model in (*held, *held[::-1])]
    expected = [
        load_file(path)[name].numpy()
        for path in (
            tmp_path / "base/model.safetensors",
            tmp_path / "dense1/model.safetensors",
            tmp_path / "dense2/model.safetensors",
        )
    ]
    for got, wanted in zip(values, (*expected, *expected[::-1]), strict=True):
        np.testing.assert_allclose(got, wanted.ravel(), rtol=1e-6, atol=1e-7)


def test_a_changed_adapter_is_found(tmp_path, models):
    base, adapters, _ = models
    command = ["merge", "--base", base, "--models", *adapters, "--as-adapter", "--output", tmp_path / "o"]
    assert CliRunner().invoke(cli, [*map(str, command)]).exit_code == 0
    held = load_file(tmp_path / "o" / "adapter_model.safetensors")
    held[next(iter(held))][0, 0] += 1
    save_file(held, tmp_path / "o" / "adapter_model.safetensors")
    found = netweight.verify(tmp_path / "o")
    assert not found.good
    assert sum(verdict.differing for verdict in found.verdicts if verdict.verdict == "differs") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--method", "ties", "--set", "density=0.5"],
            "a merge by ties is no sum of adapters; expected",
        ),
        (["--rank", "0"], "--rank 0: expected 1 or more"),
        (["--dtype", "int8"], "--dtype int8: expected one of float32, float16, bfloat16 for an adapter"),
        (["--dry-run"], "leave out --check, --dry-run and --resume"),
        (["--from", "x"], "--from: weights of --as-adapter follow from the adapters' own norms"),
    ],
)
def test_what_is_no_adapter_of_adapters(tmp_path, models, more, message):
    base, adapters, _ = models
    command = ["merge", "--base", base, "--models", *adapters, "--as-adapter", *more, "--output", tmp_path / "o"]
    said = CliRunner().invoke(cli, [*map(str, command)])
    assert isinstance(said.exception, NetweightError), said.output
    assert message in str(said.exception)
    assert not (tmp_path / "o").exists()


def test_dense_models_are_no_adapters(tmp_path, models):
    base, adapters, whole = models
    from netweight.jobs.merge.as_adapter import AdapterRequest, merge_as_adapter
    from netweight.jobs.merge.request import Options, Weights, make_request

    def run(*inputs):
        request = make_request(
            None, base=str(base), models=[*map(str, inputs)], method=None, weights=Weights(explicit=(0.5, 0.5)),
            settings={}, dtype=None,
        )  # fmt: skip
        return merge_as_adapter(request, tmp_path / "o", AdapterRequest(), Options())

    with pytest.raises(InputError, match="is changed by more than factors"):
        run(adapters[0], whole[1])
    held = {name: (b.clone(), a) for name, (b, a) in factors(8, 2).items()}
    held[f"{LAYER}.mlp.down_proj"][0][0, 0] = float("nan")
    with pytest.raises(InputError, match="an adapter holds NaN or infinities there"):
        run(adapters[0], adapter(tmp_path / "nan", held=held))


def test_rank_is_of_adapters_alone(tmp_path, models):
    base, adapters, _ = models
    command = ["merge", "--base", base, "--models", *adapters, "--rank", "4", "--output", tmp_path / "o"]
    said = CliRunner().invoke(cli, [*map(str, command)])
    assert isinstance(said.exception, OptionError)
    assert "--rank: is of an adapter" in str(said.exception)
