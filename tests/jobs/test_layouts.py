"""A model is the same model whatever its names and layout: what is measured of it does not depend on them."""

from __future__ import annotations

import json
import math
import re

import pytest

import netweight

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_models import (  # noqa: E402 - torch and transformers may be missing
    KINDS,
    Folders,
    config_of,
    loaded,
    model_of,
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
from safetensors.torch import save_file  # noqa: E402 - likewise

ALL = ordered()
SOME = ordered(all_pairs=False)
LAYOUTS = [(kind, layout) for kind in KINDS for layout in KINDS[kind].layouts]
RENUMBERED = ["qwen2_vl", "gemma3", "llava", "mixtral", "qwen3_moe", "gpt_oss", "llama4", "phimoe", "granitemoe"]
RENUMBERED += ["qwen3_vl_moe", "phi3"]
pairs = pytest.mark.parametrize("pair", ALL, ids=map(named, ALL))
some_pairs = pytest.mark.parametrize("pair", SOME, ids=map(named, SOME))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def within():
    """Results of one layout alone, each made once."""
    return {}


def once(held, key, make):
    if key not in held:
        held[key] = make()
    return held[key]


def compare(a, b):
    return netweight.compare(a, b, workers=1)


def delta(base, *models):
    return netweight.delta(base, list(models), workers=1)


def close(found, expected, path=""):
    """Equal but for the rounding of sums in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            close(found[key], value, f"{path}/{key}")
    elif isinstance(expected, float) and math.isfinite(expected):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-13), path
    else:
        assert found == expected or (expected != expected and found != found), path  # noqa: PLR0124 - NaN


# The layouts themselves


@pytest.mark.parametrize(("kind", "layout"), [(k, n) for k, n in LAYOUTS if KINDS[k].layouts[n].saved is not None])
def test_transformers_writes_this_layout(tmp_path, kind, layout):
    model_of(kind).save_pretrained(tmp_path, save_original_format=KINDS[kind].layouts[layout].saved)
    same_tensors(read(tmp_path), stored(kind, layout))


@pytest.mark.parametrize(("kind", "layout"), [(k, n) for k, n in LAYOUTS if KINDS[k].layouts[n].reader])
def test_transformers_reads_this_layout(folders, kind, layout):
    model = loaded(folders(kind, layout), reader(kind, layout))
    own = KINDS[kind].layouts[layout].reader == "own"
    same_tensors(model.state_dict(), values(kind) if own else stored(kind, layout))


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_every_value_is_in_every_layout(folders, kind, layout):
    """No value is lost or repeated: the sorted values of every layout are those of the last."""
    last = list(KINDS[kind].layouts)[-1]
    found, expected = (
        torch.cat([t.float().flatten() for t in stored(kind, name, 1).values()]).sort().values
        for name in (layout, last)
    )
    assert torch.equal(found, expected)
    assert netweight.info(folders(kind, layout, 1)).to_dict()


# compare


@pairs
def test_the_same_values_are_identical(folders, pair):
    kind, first, second = pair
    result = compare(folders(kind, first), folders(kind, second))
    assert result["only_in_model1"] == [] == result["only_in_model2"]
    assert not [s for s in result.skipped if not s.reason.startswith("tied to ")]
    assert sorted(result["common_layers"]) == sorted(result.identical) == sorted(stored(kind, first))
    assert {m["identical_percentage"] for m in result["layer_comparisons"].values()} == {100}
    assert (result.totals["identical_percentage"], result.totals["l2_distance"]) == (100, 0)
    assert result.totals["elements"] == sum(t.numel() for t in stored(kind, first).values())
    assert tuple(result.coverage) == (1.0, 1.0)


@pairs
def test_other_values_differ_by_as_much_as_in_one_layout(folders, within, pair):
    kind, first, second = pair
    expected = once(within, ("compare", kind, first), lambda: compare(folders(kind, first), folders(kind, first, 1)))
    result = compare(folders(kind, first), folders(kind, second, 1))
    close(result.totals, expected.totals)
    close(result.groups, expected.groups)
    close(dict(result["layer_comparisons"]), dict(expected["layer_comparisons"]))
    assert result.totals["l2_distance"] > 0
    assert tuple(result.coverage) == tuple(expected.coverage) == (1.0, 1.0)


# delta


@some_pairs
def test_task_vectors_are_those_within_one_layout(folders, within, pair):
    kind, first, second = pair
    base, tuned = folders(kind, first), folders(kind, second, 1)
    expected = once(within, ("delta", kind, first), lambda: delta(base, folders(kind, first, 1)))
    result = delta(base, tuned)
    rows = {row[0]: row[1:] for row in result.per_parameter(0)}
    before, after = stored(kind, first), stored(kind, first, 1)
    assert list(rows) == [row[0] for row in expected.per_parameter(0)]
    assert rows.keys() == before.keys()
    for name, *other in expected.per_parameter(0):
        close(dict(enumerate(rows[name])), dict(enumerate(other)), name)
        shape, l2, l1 = rows[name][:3]
        difference = (after[name].float() - before[name].float()).double()
        assert shape == list(difference.shape)
        assert l2 == pytest.approx(float(difference.square().sum().sqrt()), rel=1e-12), name
        assert l1 == pytest.approx(float(difference.abs().sum()), rel=1e-12), name
    assert [s for s in result.models[0].skipped if not s.reason.startswith("tied to ")] == []
    assert [tuple(share) for share in result.coverage] == [(1.0, 1.0)]
    sums = "global_l2", "global_l1", "elements", "relative_l2", "groups"
    close({key: result.models[0].summary[key] for key in sums}, {key: expected.models[0].summary[key] for key in sums})


@pytest.mark.parametrize("kind", KINDS)
def test_two_layouts_of_one_model_have_one_task_vector(folders, kind):
    first, second = list(KINDS[kind].layouts)[:2]
    result = delta(folders(kind, first), folders(kind, first, 1), folders(kind, second, 1))
    assert result.cosines[0][1] == pytest.approx(1, abs=1e-12)
    assert [tuple(share) for share in result.coverage] == [(1.0, 1.0)] * 2
    norms = [model.summary["global_l2"] for model in result.models]
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


def test_a_model_in_many_files_and_another_type(tmp_path, folders):
    """The fine-tune has float32 and its experts' matrices are dealt to several files."""
    state = {name: t.float() for name, t in values("mixtral", 1).items()}
    paths = {
        layout: write(tmp_path / f"m{n}", "mixtral", layout, restated("mixtral", layout, state), shards=3)
        for n, layout in enumerate(("packed", "one by one"))
    }
    for first in paths:
        one, other = (delta(folders("mixtral", first), path).per_parameter(0) for path in paths.values())
        assert len(one) == len(stored("mixtral", first))
        close(dict(enumerate(one)), dict(enumerate(other)))


def bert(seed=0, scale=0.0):
    """The tensors of a BERT's body under their names of today; norms of the base are 1, as before training."""
    random = torch.Generator().manual_seed(7)
    made = {"embeddings.word_embeddings.weight": torch.randn(300, 64, generator=random)}
    for layer in range(2):
        head = f"encoder.layer.{layer}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            made[f"{head}{part}.weight"] = torch.randn(64, 64, generator=random)
            made[f"{head}{part}.bias"] = torch.randn(64, generator=random)
    for norm in ("embeddings", "encoder.layer.0.output", "encoder.layer.1.attention.output"):
        made[f"{norm}.LayerNorm.weight"] = torch.ones(64)
        made[f"{norm}.LayerNorm.bias"] = torch.zeros(64)
    tuning = torch.Generator().manual_seed(seed)
    return {name: t + scale * torch.randn(t.shape, generator=tuning) for name, t in made.items()}


def test_a_published_bert_and_a_fine_tune_with_the_names_of_today(tmp_path):
    """LayerNorm.gamma and beta below `bert.` against LayerNorm.weight and bias without a prefix."""
    old = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))

    def published(name):
        for new, before in old:
            name = name.replace(new, before)
        return f"bert.{name}"

    base, tuned = bert(), bert(1, 0.02)
    config = {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 2, "hidden_size": 64}
    states = {"published": {published(n): t for n, t in base.items()}, "today": base, "tuned": tuned}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    result, expected = (delta(tmp_path / name, tmp_path / "tuned") for name in ("published", "today"))
    assert result.models[0].skipped == ()
    assert [tuple(share) for share in result.coverage] == [(1.0, 1.0)]
    for found, other in zip(result.per_parameter(0), expected.per_parameter(0), strict=True):
        assert found[0] == published(other[0])
        close(dict(enumerate(found[1:])), dict(enumerate(other[1:])), found[0])
    assert result.models[0].summary["elements"] == sum(t.numel() for t in base.values())
    netweight.merge(
        None, tmp_path / "out", base=tmp_path / "published", models=[tmp_path / "tuned"], weights=(1.0,), workers=1
    )
    merged = read(tmp_path / "out")
    assert merged.keys() == states["published"].keys()
    for name, tensor in tuned.items():
        torch.testing.assert_close(merged[published(name)], tensor, rtol=0, atol=1e-6)


# structure


def reductions(entry):
    return {key: entry[key] for key in ("total_params", "layer_params", "embedding_params", "lm_head_params")}


@pairs
def test_nothing_is_reduced(folders, pair):
    kind, first, second = pair
    found = netweight.structure(folders(kind, second), folders(kind, first))
    entry = found.comparison
    assert {key: part["reduced"] for key, part in reductions(entry).items()} == dict.fromkeys(reductions(entry), 0)
    assert entry["removed_layers"] == entry["added_layers"] == entry["unknown_layers"] == []
    assert len(entry["layers"]) == found.structure["layer_summary"]["num_layers"] > 0
    for layer in entry["layers"]:
        assert layer["pruned_layer_idx"] == layer["layer_idx"]
        for part in (layer["total"], layer["attention"]["total"], layer["mlp"]["total"], layer["norm"]):
            assert part["reduced"] == 0


def first_layer_gone(kind, layout):
    """(the tensors without the text model's first layer, the second one renumbered; the elements that are gone)."""
    made, gone = {}, 0
    for name, tensor in stored(kind, layout).items():
        layer = None if re.search("vision|visual", name) else re.search(r"\blayers\.(\d+)\.", name)
        if layer is None:
            made[name] = tensor
        elif layer[1] == "0":
            gone += tensor.numel()
        else:
            made[name.replace("layers.1.", "layers.0.")] = tensor
    return made, gone


RENUMBERED_PAIRS = ordered(all_pairs=False, kinds=RENUMBERED)


@pytest.mark.parametrize("pair", RENUMBERED_PAIRS, ids=map(named, RENUMBERED_PAIRS))
def test_a_layer_that_is_gone_is_told_by_the_contents_of_the_others(tmp_path, folders, pair):
    kind, first, second = pair
    state, gone = first_layer_gone(kind, second)
    config = config_of(kind, second)
    config.get("text_config", config)["num_hidden_layers"] = 1
    path = write(tmp_path / "m", kind, second, state)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    entry = netweight.structure(path, folders(kind, first)).comparison
    assert entry["removed_layers"] == [0]
    assert [row["base_layer"] for row in entry["layer_map"]] == [1]
    assert {row["matched_by"] for row in entry["layer_map"]} <= {"content", "similar"}
    assert entry["total_params"]["reduced"] == entry["layer_params"]["reduced"] == gone > 0
    assert [layer["total"]["reduced"] for layer in entry["layers"]] == [gone, 0]
