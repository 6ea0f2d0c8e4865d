"""A merge writes the base's names and layout, whatever those of its models are, and the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

import netweight
from netweight.jobs.merge.request import Weights
from netweight.merging.recipe.recipe import parse_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_models import (  # noqa: E402 - torch and transformers may be missing
    KINDS,
    Folders,
    loaded,
    named,
    ordered,
    read,
    reader,
    restated,
    same_tensors,
    stored,
    values,
    write,
)

SOME = ordered(all_pairs=False)
READ = [pair for pair in SOME if KINDS[pair[0]].layouts[pair[1]].reader]
SLICED = ordered(kinds=["mixtral", "qwen3_moe"])
REPACKED = ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "llama4", "deepseek_v3", "phimoe", "jamba", "qwen3_vl_moe"]
REPACKED += ["phi3"]
TIES = {"method": "ties", "settings": {"density": 0.4}}
WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def within(tmp_path_factory):
    """{what was merged within one layout: its folder}."""
    root = tmp_path_factory.mktemp("within")
    made = {}

    def folder(key, merge):
        if key not in made:
            made[key] = root / str(len(made))
            merge(made[key])
        return made[key]

    return folder


def merge(out, base, models, method="task_arithmetic", **more):
    weights = Weights(explicit=WEIGHTS[: len(models)])
    return netweight.merge(
        None,
        out,
        base=base,
        models=models,
        method=method,
        weights=weights,
        sync=False,
        workers=1,
        allow_mismatch=True,
        **more,
    )


def models(folders, kind, layout):
    return [folders(kind, layout, number) for number in (1, 2)]


def same_files(found, expected):
    """The same files but for what the record says of the inputs."""
    same_tensors(read(found), read(expected))
    weights = sorted(path.name for path in Path(expected).iterdir() if path.suffix == ".safetensors")
    assert weights == sorted(path.name for path in Path(found).iterdir() if path.suffix == ".safetensors")
    assert [(found / name).read_bytes() == (expected / name).read_bytes() for name in weights] == [True] * len(weights)


def summed(kind):
    """The state dict of base + the weighted differences, in float64, rounded once."""
    made = {}
    for name, first in values(kind).items():
        total = first.double()
        for number, weight in enumerate(WEIGHTS, 1):
            total = total + weight * (values(kind, number)[name].double() - first.double())
        made[name] = total.to(first.dtype)
    return made


@pytest.mark.parametrize("pair", SOME, ids=map(named, SOME))
def test_a_merge_writes_the_bytes_of_one_within_a_layout(tmp_path, folders, within, pair):
    """TIES trims by the size of all differences of a parameter: it shows where the base's parameters begin and end."""
    kind, first, second = pair
    base, method = folders(kind, first), TIES if kind in REPACKED else {}
    expected = within((kind, first), lambda out: merge(out, base, models(folders, kind, first), **method))
    merge(tmp_path / "out", base, models(folders, kind, second), **method)
    same_files(tmp_path / "out", expected)
    names = stored(kind, first)
    found = read(tmp_path / "out")
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {n: (t.shape, t.dtype) for n, t in names.items()}
    assert not any(torch.equal(found[name], tensor) for name, tensor in names.items() if tensor.numel() > 4)
    verified = netweight.verify(tmp_path / "out", workers=1)
    assert verified.good
    assert len(verified.verdicts) == len(names)


@pytest.mark.parametrize("pair", READ, ids=map(named, READ))
def test_transformers_reads_the_merged_model(tmp_path, folders, pair):
    """One model has the base's layout, the other another."""
    kind, first, second = pair
    merge(tmp_path / "out", folders(kind, first), [folders(kind, first, 1), folders(kind, second, 2)])
    found = loaded(tmp_path / "out", reader(kind, first)).state_dict()
    expected = summed(kind)
    if KINDS[kind].layouts[first].reader != "own":
        expected = restated(kind, first, expected)
    assert found.keys() == expected.keys()
    tolerance = 2**-7 if KINDS[kind].dtype == torch.bfloat16 else 1e-6
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance / 8, msg=name)


@pytest.mark.parametrize("kind", ["qwen2_vl", "mixtral", "gpt_oss", "llama4", "qwen3_vl_moe", "bert", "phi3"])
def test_weights_that_follow_from_norms(tmp_path, folders, kind):
    """Norms and cosines of the task vectors are those within one layout, and so are the weights."""
    first, second = list(KINDS[kind].layouts)[:2]
    made = [
        netweight.merge(
            None, tmp_path / layout, base=folders(kind, first), models=models(folders, kind, layout), sync=False,
            workers=1, allow_mismatch=True,
        ).weights
        for layout in (first, second)
    ]  # fmt: skip
    for one, other in zip(*(weights["models"] for weights in made), strict=True):
        assert one["l2"] == pytest.approx(other["l2"], rel=1e-12)
        assert one["weight"] == pytest.approx(other["weight"], rel=1e-12)
    assert made[0]["merged_l2"] == pytest.approx(made[1]["merged_l2"], rel=1e-12)


@pytest.mark.parametrize("pair", SLICED, ids=map(named, SLICED))
def test_files_of_any_size_on_both_sides(tmp_path, folders, within, pair):
    """The model is dealt to several files, the output too."""
    kind, first, second = pair
    many = [write(tmp_path / f"m{number}", kind, second, stored(kind, second, number), shards=3) for number in (1, 2)]
    base = folders(kind, first)
    expected = within(
        ("small", kind, first),
        lambda out: merge(out, base, models(folders, kind, first), max_shard_size=20_000),
    )
    merge(tmp_path / "out", base, many, max_shard_size=20_000)
    assert len(list(expected.glob("*.safetensors"))) > 2
    same_files(tmp_path / "out", expected)
    assert netweight.verify(tmp_path / "out", workers=1).good


PASSTHROUGH = """
merge_method: passthrough
slices:
- sources: [{{model: "{base}", layer_range: [0, 2]}}]
- sources: [{{model: "{first}", layer_range: [1, 2]}}]
- sources: [{{model: "{second}", layer_range: [0, 2]}}]
"""
LINEAR = """
merge_method: linear
slices:
- sources:
  - {{model: "{base}", layer_range: [0, 2], parameters: {{weight: 1}}}}
  - {{model: "{first}", layer_range: [0, 2], parameters: {{weight: 0.5}}}}
- sources:
  - {{model: "{second}", layer_range: [1, 2], parameters: {{weight: 0.25}}}}
  - {{model: "{base}", layer_range: [0, 1], parameters: {{weight: 1}}}}
"""


@pytest.mark.parametrize(("recipe", "layers"), [(PASSTHROUGH, 5), (LINEAR, 3)], ids=["passthrough", "linear"])
@pytest.mark.parametrize("pair", SLICED, ids=map(named, SLICED))
def test_slices_of_two_layouts(tmp_path, folders, pair, recipe, layers):
    kind, first, second = pair
    for out, layout in (("within", first), ("across", second)):
        paths = models(folders, kind, layout)
        text = recipe.format(base=folders(kind, first), first=paths[0], second=paths[1])
        netweight.merge(parse_recipe(text, "recipe"), tmp_path / out, sync=False, workers=1)
    same_files(tmp_path / "across", tmp_path / "within")
    assert netweight.verify(tmp_path / "across", workers=1).good
    model = loaded(tmp_path / "across", reader(kind, first))
    assert model.config.num_hidden_layers == len(model.model.layers) == layers
    if recipe is PASSTHROUGH:
        taken = [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
        for at, (number, layer) in enumerate(taken):
            for part, tensor in model.model.layers[at].state_dict().items():
                assert torch.equal(tensor, values(kind, number)[f"model.layers.{layer}.{part}"]), part
