"""`netweight.merge` from end to end: the adaptive modes, exactness, the record, and refusals."""

from __future__ import annotations

import json
import shutil
from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest
from merge_families import BF16, CONFIG, family, merged, save, weights

import netweight
from netweight.errors import InputError, OptionError, OutputError
from netweight.jobs.merge.request import Weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("models"))


def norms_of(base, tuned):
    deltas = [{n: t[n].astype(np.float64) - base[n].astype(np.float64) for n in base} for t in tuned]
    return [sqrt(sum(float((d**2).sum()) for d in one.values())) for one in deltas]


def plain(base, tuned, lambdas):
    return {
        n: base[n].astype(np.float64)
        + sum(l * (t[n].astype(np.float64) - base[n].astype(np.float64)) for l, t in zip(lambdas, tuned, strict=True))
        for n in base
    }


def assert_close(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name].astype(np.float64), array, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("mode", ["linear", "power", "exp", "metagpt", "equal"])
def test_modes_against_numpy(models, tmp_path, mode) -> None:
    base, tuned, b, t = models
    result = netweight.merge(None, tmp_path / "out", base=base, models=tuned, weights=Weights(mode=mode))
    norms = np.array(norms_of(b, t))
    raw = {
        "linear": 1 / norms,
        "power": norms**-1.5,
        "exp": np.array([exp(-n / norms.mean()) for n in norms]),
        "metagpt": norms**2,
        "equal": np.ones(3),
    }[mode]
    lambdas = raw / raw.sum()
    found = [m["weight"] for m in result.weights["models"]]
    np.testing.assert_allclose(found, lambdas, rtol=1e-6)
    if mode != "equal":
        np.testing.assert_allclose([m["l2"] for m in result.weights["models"]], norms, rtol=1e-6)
        total = plain(b, t, lambdas)
        norm = sqrt(sum(float(((total[n] - b[n]) ** 2).sum()) for n in b))
        assert result.weights["merged_l2"] == pytest.approx(norm, rel=1e-5)
    assert_close(merged(tmp_path / "out"), plain(b, t, lambdas))


@pytest.mark.parametrize("granularity", ["layer", "parameter"])
def test_weights_by_layer_and_parameter(models, tmp_path, granularity) -> None:
    base, tuned, b, t = models
    netweight.merge(None, tmp_path / "out", base=base, models=tuned, weights=Weights(granularity=granularity))

    def layer(name):
        if granularity == "parameter":
            return name
        return (
            name.split(".")[2]
            if ".layers." in name
            else {"model.norm.weight": "o", "lm_head.weight": "h"}.get(name, "e")
        )

    expected = {}
    for name in b:
        members = [n for n in b if layer(n) == layer(name)]
        norms = np.array([sqrt(sum(float(((x[n].astype(np.float64) - b[n]) ** 2).sum()) for n in members)) for x in t])
        lambdas = np.exp(-norms / norms.mean())
        expected[name] = plain({name: b[name]}, [{name: x[name]} for x in t], lambdas / lambdas.sum())[name]
    assert_close(merged(tmp_path / "out"), expected)


def test_the_recipe_that_it_writes_gives_the_same_bytes(models, tmp_path) -> None:
    base, tuned, _, _ = models
    for granularity in ("global", "layer", "parameter"):
        first, second = tmp_path / f"{granularity}1", tmp_path / f"{granularity}2"
        netweight.merge(None, first, base=base, models=tuned, weights=Weights(granularity=granularity))
        netweight.merge(first / "merge_recipe.yml", second)
        assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_norms_given_or_from_delta(models, tmp_path) -> None:
    base, tuned, _, _ = models
    netweight.merge(None, tmp_path / "measured", base=base, models=tuned)
    result = netweight.delta(base, tuned, tmp_path / "stats")
    netweight.merge(None, tmp_path / "from", base=base, models=tuned[::-1], weights=Weights(delta=tmp_path / "stats"))
    norms = tuple(m.summary["global_l2"] for m in result.models)
    given = netweight.merge(None, tmp_path / "given", base=base, models=tuned, weights=Weights(norms=norms))
    assert_close(merged(tmp_path / "from"), merged(tmp_path / "measured"))
    assert_close(merged(tmp_path / "given"), merged(tmp_path / "measured"))
    assert [m["l2"] for m in given.weights["models"]] == list(norms)
    with pytest.raises(OptionError, match="its base is not"):
        netweight.merge(
            None, tmp_path / "x", base=tuned[0], models=tuned[1:], weights=Weights(delta=tmp_path / "stats")
        )
    with pytest.raises(OptionError, match="no result of delta can be read there"):
        netweight.merge(None, tmp_path / "x", base=base, models=tuned, weights=Weights(delta=tmp_path))


def test_models_of_a_delta_are_known_by_their_paths(models, tmp_path) -> None:
    """Fine-tunes of one base have equal sizes and headers: the norms must not be another one's."""
    base, tuned, b, t = models
    netweight.delta(base, tuned, tmp_path / "stats")
    lengths = [np.sqrt(sum(float(((m[n] - b[n]).astype(np.float64) ** 2).sum()) for n in b)) for m in t]
    shares = [(1 / length) / sum(1 / other for other in lengths) for length in lengths]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
        given = [tuned[i] for i in order]
        request = Weights(mode="power", alpha=1.0, delta=tmp_path / "stats")
        found = netweight.merge(None, tmp_path / "-".join(map(str, order)), base=base, models=given, weights=request)
        assert [m["l2"] for m in found.weights["models"]] == pytest.approx([lengths[i] for i in order], rel=1e-12)
        expected = [shares[i] / sum(shares[j] for j in order) for i in order]
        assert [m["weight"] for m in found.weights["models"]] == pytest.approx(expected, rel=1e-12)
    shutil.copytree(tuned[1], tmp_path / "copy")
    shutil.copytree(base, tmp_path / "base")
    request = Weights(delta=tmp_path / "stats")
    with pytest.raises(OptionError, match=r"copy was not measured; give the folder of `netweight delta` with"):
        netweight.merge(None, tmp_path / "x", base=base, models=[tuned[0], tmp_path / "copy"], weights=request)
    with pytest.raises(OptionError, match=r"its base is not .*base; give the folder"):
        netweight.merge(None, tmp_path / "x", base=tmp_path / "base", models=tuned, weights=request)


def test_published_example(tmp_path) -> None:
    """Five norms of a published merge, and its weights to six digits."""
    base = save(tmp_path / "base", weights(0))
    tuned = [save(tmp_path / f"m{i}", weights(i)) for i in range(5)]
    norms = (182.63449804, 31.87331430, 0.0, 0.52867741, 9.26351817)
    result = netweight.merge(None, tmp_path / "out", base=base, models=tuned, weights=Weights(norms=norms))
    found = [f"{m['weight']:.6f}" for m in result.weights["models"]]
    assert found == ["0.005153", "0.148450", "0.302100", "0.298560", "0.245736"]


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16], ids=["f32", "bf16", "f16"])
def test_exact_merges(tmp_path, dtype) -> None:
    base, tuned, _, _ = family(tmp_path, dtype=dtype)

    def bytes_of(model):
        return (Path(model) / "model.safetensors").read_bytes()

    netweight.merge(None, tmp_path / "zero", base=base, models=tuned, settings={"lambda": 0.0})
    assert bytes_of(tmp_path / "zero") == bytes_of(base)
    netweight.merge(None, tmp_path / "one", base=base, models=tuned[:1], weights=Weights(explicit=(1.0,)))
    assert bytes_of(tmp_path / "one") == bytes_of(tuned[0])


TRIMMED = "base_model: A\nmodels: [{model: B, parameters: {weight: 0.7, density: 0.5}}]"
SPHERICAL = "models: [{model: A, parameters: {weight: 0.3}}, {model: B, parameters: {weight: 0.7}}]"
DELLA = "base_model: A\nmodels: [{model: B, parameters: {weight: 0.7, density: 0.5, epsilon: 0.1}}]"
SELF = {
    **dict.fromkeys(("ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties"), TRIMMED),
    **dict.fromkeys(("nuslerp", "multislerp"), SPHERICAL),
    **dict.fromkeys(("della", "della_linear"), DELLA),
    **dict.fromkeys(("model_stock", "ram", "ramplus_tl"), "base_model: A\nmodels: [{model: B}, {model: C}]"),
    "linear": "models: [{model: A, parameters: {weight: 0.3}}, {model: B, parameters: {weight: 0.9}}]",
    "task_arithmetic": "base_model: A\nmodels: [{model: B, parameters: {weight: 0.7}}]",
    "slerp": "base_model: A\nmodels: [{model: A}, {model: B}]\nparameters: {t: 0.3}",
    "karcher": "models: [{model: A}, {model: B}, {model: C}]",
    "sce": "base_model: A\nmodels: [{model: B}, {model: C}]\nparameters: {select_topk: 0.5}",
    "nearswap": "base_model: A\nmodels: [{model: B}]\nparameters: {t: 0.001}",
    "arcee_fusion": "base_model: A\nmodels: [{model: B}]",
    "passthrough": "models: [{model: A}]",
}


@pytest.mark.parametrize("method", sorted(SELF))
def test_a_model_merged_with_itself_is_itself(tmp_path, method) -> None:
    arrays = weights(1)
    for name in "ABC":
        save(tmp_path / name, arrays)
    text = f"merge_method: {method}\n{SELF[method]}\n"
    for name in "ABC":
        text = text.replace(f"model: {name}", f"model: {tmp_path / name}")
    text = text.replace("base_model: A", f"base_model: {tmp_path / 'A'}")
    (tmp_path / "recipe.yml").write_text(text)
    netweight.merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "A" / "model.safetensors").read_bytes()


def test_order_of_models_does_not_matter(models, tmp_path) -> None:
    base, tuned, b, _ = models
    for method in ("task_arithmetic", "ties"):
        netweight.merge(None, tmp_path / f"{method}1", base=base, models=tuned, method=method)
        netweight.merge(None, tmp_path / f"{method}2", base=base, models=tuned[::-1], method=method)
        first, second = merged(tmp_path / f"{method}1"), merged(tmp_path / f"{method}2")
        for name in b:
            ulp = np.spacing(np.abs(b[name]).max())
            np.testing.assert_allclose(first[name], second[name], rtol=0, atol=2 * ulp)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "sce", "arcee_fusion", "ramplus_tl", "slerp"])
def test_the_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch, method) -> None:
    # small stretches and blocks, so that small tensors are cut as large ones are
    monkeypatch.setattr("netweight.passes.merge_blocks.STRETCH", 4096)
    monkeypatch.setattr("netweight.passes.merge_blocks.BLOCK", 4096)
    rng = np.random.default_rng(5)
    shapes = {"model.layers.0.mlp.up_proj.weight": (300, 200), "model.layers.0.mlp.down_proj.weight": (64, 1000)}
    arrays = [
        {n: (0.02 * rng.standard_normal(s)).astype(np.float32).astype(BF16) for n, s in shapes.items()}
        for _ in range(3)
    ]
    places = [save(tmp_path / f"m{i}", a, None) for i, a in enumerate(arrays)]
    count = 1 if method in ("arcee_fusion", "slerp") else 2
    settings = {"slerp": {"t": 0.4}, "sce": {"select_topk": 0.3}, "arcee_fusion": {}, "ramplus_tl": {"epsilon": 0.02}}
    settings = settings.get(method, {"density": 0.4})
    if method == "della":
        settings["epsilon"] = 0.1
    found = []
    for workers in (1, 2, 5):
        out = tmp_path / f"out{workers}"
        netweight.merge(
            None, out, base=places[0], models=places[1 : 1 + count], method=method, settings=settings, workers=workers
        )
        found.append((out / "model.safetensors").read_bytes())
        assert netweight.verify(out, workers=workers).good
    assert found[0] == found[1] == found[2]
    assert found[0] != (Path(places[0]) / "model.safetensors").read_bytes()


def test_the_record(models, tmp_path) -> None:
    base, tuned, b, _ = models
    result = netweight.merge(None, tmp_path / "out", base=base, models=tuned, max_shard_size=10_000)
    record = json.loads((tmp_path / "out" / "netweight_merge.json").read_text())
    assert record == result.to_dict()
    assert [i["ref"] for i in record["inputs"]] == [base, *tuned]
    assert record["parameters"].keys() == b.keys()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: p["file"] for name, p in record["parameters"].items()}
    assert len(set(index["weight_map"].values())) > 3
    frame = result.to_pandas()
    assert sorted(frame["param"]) == sorted(b)
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\n")


def test_existing_output(models, tmp_path) -> None:
    base, tuned, _, _ = models
    out = tmp_path / "out"
    netweight.merge(None, out, base=base, models=tuned)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        netweight.merge(None, out, base=base, models=tuned[:2])
    assert (out / "model.safetensors").read_bytes() == before
    netweight.merge(None, out, base=base, models=tuned[:2], overwrite=True)
    assert (out / "model.safetensors").read_bytes() != before
    assert netweight.verify(out).good
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError):
        netweight.merge(None, foreign, base=base, models=tuned, overwrite=True)
    assert (foreign / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("place", ["", "sub", "sub/deeper"])
def test_output_inside_an_input_is_refused(tmp_path, place) -> None:
    base, tuned, _, _ = family(tmp_path)
    before = sorted(p.name for p in Path(base).iterdir())
    with pytest.raises(OutputError):
        netweight.merge(None, Path(base) / place, base=base, models=tuned, overwrite=True)
    assert sorted(p.name for p in Path(base).iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "a merge needs a recipe, or --base and --models"),
        ({"method": "tiez"}, "did you mean 'ties'"),
        ({"weights": Weights(mode="expo")}, "did you mean 'exp'"),
        ({"weights": Weights(explicit=(1.0,))}, "expected one for each of the 3 models, got 1"),
        ({"weights": Weights(norms=(1.0, 2.0))}, "expected one for each of the 3 models, got 2"),
        ({"weights": Weights(norms=(1.0, 2.0, 0.0), mode="linear")}, "norm 0"),
        ({"settings": {"densty": 0.5}, "method": "ties"}, "did you mean 'density'"),
        ({"settings": {"density": -0.5}, "method": "ties"}, "-0.5"),
        ({"method": "slerp", "settings": {"t": 0.5}}, "slerp"),
        ({"dtype": "float12"}, "float12"),
    ],
)
def test_what_cannot_be_is_one_line(models, tmp_path, arguments, message) -> None:
    base, tuned, _, _ = models
    with pytest.raises(InputError) as caught:
        netweight.merge(None, tmp_path / "out", **{"base": base, "models": tuned, **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_shapes_and_missing_parameters_are_found_first(models, tmp_path) -> None:
    base, tuned, b, t = models
    narrow = {n: (w[:, :8] if n.endswith("q_proj.weight") else w) for n, w in t[0].items()}
    save(tmp_path / "narrow", {n: np.ascontiguousarray(w) for n, w in narrow.items()})
    with pytest.raises(InputError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight"):
        netweight.merge(None, tmp_path / "out", base=base, models=[tmp_path / "narrow", tuned[1]])
    fewer = {n: w for n, w in t[0].items() if n != "model.norm.weight"}
    save(tmp_path / "fewer", fewer)
    with pytest.raises(InputError, match=r"model\.norm\.weight.*--missing base"):
        netweight.merge(None, tmp_path / "out", base=base, models=[tmp_path / "fewer", tuned[1]])
    netweight.merge(
        None,
        tmp_path / "out",
        base=base,
        models=[tmp_path / "fewer", tuned[1]],
        missing="base",
        weights=Weights(explicit=(0.5, 0.5)),
    )
    expected = plain(b, [{**t[0], "model.norm.weight": b["model.norm.weight"]}, t[1]], [0.5, 0.5])
    assert_close(merged(tmp_path / "out"), expected)


def test_other_dtypes_in_and_out(tmp_path) -> None:
    base, tuned, b, t = family(tmp_path, dtype=BF16)
    wide = save(tmp_path / "wide", {n: w.astype(np.float64) for n, w in t[0].items()})
    netweight.merge(
        None,
        tmp_path / "out",
        base=base,
        models=[wide, tuned[1]],
        weights=Weights(explicit=(0.5, 0.25)),
        dtype="float32",
    )
    found = merged(tmp_path / "out")
    expected = plain(b, t[:2], [0.5, 0.25])
    assert all(found[n].dtype == np.float32 for n in found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array.astype(np.float32))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == CONFIG["vocab_size"]


def test_values_that_are_not_finite_are_reported(models, tmp_path) -> None:
    base, tuned, _, t = models
    bad = {n: w.copy() for n, w in t[0].items()}
    bad["model.norm.weight"][3] = np.nan
    save(tmp_path / "bad", bad)
    result = netweight.merge(
        None, tmp_path / "out", base=base, models=[tmp_path / "bad", tuned[1]], weights=Weights(explicit=(0.5, 0.5))
    )
    assert any("1 elements of 1 parameters are NaN or infinite" in note for note in result.notes)
    assert np.isnan(merged(tmp_path / "out")["model.norm.weight"][3])
    with pytest.raises(InputError, match="bad"):
        netweight.merge(None, tmp_path / "out2", base=base, models=[tmp_path / "bad", tuned[1]])


def test_integers_are_no_weights(models, tmp_path) -> None:
    base, tuned, b, _ = models
    rounded = {n: np.rint(w * 100).astype(np.int8) for n, w in b.items()}
    save(tmp_path / "int8", rounded)
    for words in ({"base": tmp_path / "int8", "models": tuned}, {"base": base, "models": [tmp_path / "int8"]}):
        with pytest.raises(InputError, match=r"is I8 in .*int8.*expected float weights .*dequantise that model"):
            netweight.merge(None, tmp_path / "out", **words)
    with pytest.raises(InputError, match=r"is I8 in .*int8; expected float weights"):
        netweight.merge(None, tmp_path / "out", models=[tmp_path / "int8"], method="passthrough")
    assert [p.name for p in tmp_path.iterdir()] == ["int8"]


def test_settings_that_do_not_go_together_are_found_at_planning(models, tmp_path, monkeypatch) -> None:
    base, tuned, _, _ = models
    monkeypatch.setattr("netweight.checkpoint.tensor.Tensor.read_into", lambda *_: pytest.fail("data was read"))
    both = {"base": base, "models": tuned[:2], "weights": Weights(explicit=(1.0, -1.0))}
    with pytest.raises(OptionError, match=r"^the command line: '.*': the weights sum to 0, by which normalize divides"):
        netweight.merge(None, tmp_path / "out", method="dare_linear", settings={"normalize": True}, **both)
    with pytest.raises(OptionError, match=r"epsilon"):
        netweight.merge(None, tmp_path / "out", base=base, models=tuned, method="della", settings={"density": 0.1})
    assert list(tmp_path.iterdir()) == []


def test_short_forms(models, tmp_path) -> None:
    """A single model, and numbers for weights."""
    base, tuned, b, t = models
    netweight.merge(None, tmp_path / "one", base=base, models=tuned[0], weights=[0.5])
    assert_close(merged(tmp_path / "one"), plain(b, t[:1], [0.5]))
    assert netweight.verify(tmp_path / "one", include="*norm*", exclude="*.layers.0.*").good


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"seed": True}, "seed: expected a whole number, got True"),
        ({"max_shard_size": 0}, "max_shard_size: expected bytes, a whole number of at least 1, got 0"),
        ({"max_shard_size": "5GB"}, "max_shard_size: expected bytes, a whole number of at least 1, got '5GB'"),
    ],
)
def test_options_that_no_run_can_have(models, tmp_path, wrong, message) -> None:
    base, tuned, _, _ = models
    with pytest.raises(OptionError) as caught:
        netweight.merge(None, tmp_path / "out", base=base, models=tuned, **wrong)
    assert str(caught.value) == message
