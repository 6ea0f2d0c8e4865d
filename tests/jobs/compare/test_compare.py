"""`netweight.compare` on checkpoints: what is paired, what is said of it, and that nothing depends on how it ran."""

from __future__ import annotations

import csv
import itertools
import json
import math
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from task_vectors import difference, normal, save, strict_json, tuned

import netweight
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.errors import InputError, ModelNotFoundError, OptionError, OutputError
from netweight.jobs.compare.scans import compare_results
from netweight.run import plan


def llama(layers=3, dtype="bfloat16", hidden=8):
    """A small model in safetensors' order of names."""
    found = {"model.embed_tokens.weight": normal((50, hidden), dtype, seed=99)}
    for i in range(layers):
        found[f"model.layers.{i}.self_attn.q_proj.weight"] = normal((hidden, hidden), dtype, seed=i)
        found[f"model.layers.{i}.mlp.up_proj.weight"] = normal((20, hidden), dtype, seed=i + 50)
        found[f"model.layers.{i}.input_layernorm.weight"] = normal(hidden, dtype, seed=i + 80) + normal(1, dtype, 1)
    return found | {"lm_head.weight": normal((50, hidden), dtype, seed=98)}


def norms(a, b):
    """l2 distance, cosine and norm ratio of two models' tensors, in numpy."""
    d = np.concatenate([difference(x, y).ravel() for x, y in zip(a, b, strict=True)])
    a, b = (np.concatenate([v.astype(np.float64).ravel() for v in side]) for side in (a, b))
    length = np.linalg.norm(a), np.linalg.norm(b)
    return np.linalg.norm(d), a @ b / length[0] / length[1], length[1] / length[0]


@pytest.fixture
def pair(tmp_path):
    base = llama()
    other = tuned(base, 1, 0.01)
    return save(tmp_path / "a", base), save(tmp_path / "b", other), base, other


def test_every_parameter(pair):
    ref_a, ref_b, a, b = pair
    found = netweight.compare(ref_a, ref_b)
    assert list(found) == ["common_layers", "only_in_model1", "only_in_model2", "layer_comparisons"]
    assert found["common_layers"] == list(found["layer_comparisons"]) == list(a)
    assert found["only_in_model1"] == found["only_in_model2"] == []
    for name, metrics in found["layer_comparisons"].items():
        distance, cosine, ratio = norms([a[name]], [b[name]])
        assert metrics["l2_distance"] == pytest.approx(distance, rel=1e-12)
        assert metrics["cosine_similarity"] == pytest.approx(cosine, rel=1e-12)
        assert metrics["l2_norm_ratio"] == pytest.approx(ratio, rel=1e-12)
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        assert metrics["identical_percentage"] == 100 * (x == y).mean()
        share = 100 * (np.abs(difference(a[name], b[name])) / (np.abs(x) + 1e-10) > 0.01).mean()
        assert metrics["significant_change_percentage"] == share
    distance, cosine, ratio = norms(a.values(), b.values())
    assert found.totals["l2_distance"] == pytest.approx(distance, rel=1e-12)
    assert found.totals["cosine_similarity"] == pytest.approx(cosine, rel=1e-12)
    assert found.totals["l2_norm_ratio"] == pytest.approx(ratio, rel=1e-12)
    assert found.totals["elements"] == sum(x.size for x in a.values())
    names = [n for n in a if ".1." in n]
    assert found.groups["layer_1"]["l2_distance"] == pytest.approx(
        norms([a[n] for n in names], [b[n] for n in names])[0], rel=1e-12
    )
    assert list(found.groups) == ["embed", "layer_0", "layer_1", "layer_2", "lm_head"]


def test_every_pair_of_types(tmp_path):
    kinds = ["bfloat16", "float16", "float32", "float64"]
    a = {f"{x} {y}": normal((5, 7), x, 1) for x in kinds for y in kinds}
    b = {f"{x} {y}": normal((5, 7), y, 2) for x in kinds for y in kinds}
    found = netweight.compare(save(tmp_path / "a", a), save(tmp_path / "b", b))
    for name, metrics in found["layer_comparisons"].items():
        assert metrics["l2_distance"] == pytest.approx(norms([a[name]], [b[name]])[0], rel=1e-12), name


def test_identical_models(pair):
    ref_a, _, a, _ = pair
    found = netweight.compare(ref_a, ref_a)
    assert found.identical == found.frozen == tuple(a)
    assert found.adapted == ()
    assert (found.totals["l2_distance"], found.totals["cosine_similarity"]) == (0, 1)
    assert all(score == 0 for _, score, _ in netweight.find_most_changed_layers(found, 100))


def test_the_most_changed(tmp_path):
    a = llama()
    b = dict(a)
    b["model.layers.1.mlp.up_proj.weight"] = (a["model.layers.1.mlp.up_proj.weight"].astype("f4") * 2).astype("f4")
    b["lm_head.weight"] = (a["lm_head.weight"].astype("f4") * 1.05).astype("f4")
    found = netweight.compare(save(tmp_path / "a", a), save(tmp_path / "b", b))
    top = netweight.find_most_changed_layers(found, top_k=3)
    assert [name for name, _, _ in top[:2]] == ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"]
    assert top[0][1] == top[0][2]["change_score"] > 1
    assert top[2][1] == 0
    assert found.adapted == ("model.layers.1.mlp.up_proj.weight",)
    assert "lm_head.weight" not in found.frozen
    assert len(found.identical) == len(a) - 2
    found.write(tmp_path / "c.json")
    again = netweight.find_most_changed_layers(json.loads((tmp_path / "c.json").read_text()), 3)
    assert [(name, score) for name, score, _ in again] == [(name, score) for name, score, _ in top]
    assert netweight.find_most_changed_layers(found, 0) == []
    with pytest.raises(ValueError, match="top_k -1: expected 0 or more"):
        netweight.find_most_changed_layers(found, -1)


def test_parameters_that_only_one_side_has_or_that_are_unlike(tmp_path):
    a = llama()
    b = tuned(a, 1)
    del b["model.layers.2.mlp.up_proj.weight"]
    b |= {"extra.weight": normal((3, 3)), "model.layers.0.mlp.up_proj.weight": normal((21, 8)), "n": np.arange(3)}
    a |= {"n": np.arange(3)}
    found = netweight.compare(save(tmp_path / "a", a), save(tmp_path / "b", b))
    assert found["only_in_model1"] == ["model.layers.2.mlp.up_proj.weight"]
    assert found["only_in_model2"] == ["extra.weight"]
    unlike = found["layer_comparisons"]["model.layers.0.mlp.up_proj.weight"]
    assert (unlike["comparable"], unlike["comparable_reason"]) == (False, "shape [20, 8] in A, [21, 8] in B")
    assert math.isnan(unlike["l2_norm_ratio"])
    assert math.isnan(unlike["difference_stats"]["mean"])
    assert found["layer_comparisons"]["n"]["comparable_reason"] == "integer dtype I64: not a weight (in A)"
    assert {s.name for s in found.skipped} == {"model.layers.0.mlp.up_proj.weight", "n"}
    assert found.totals["parameters"] == len(a) - 3
    names = [name for name, _, _ in netweight.find_most_changed_layers(found, 100)]
    assert "n" not in names
    assert len(names) == len(a) - 3


def test_models_of_different_depth(tmp_path):
    found = netweight.compare(save(tmp_path / "a", llama(3)), save(tmp_path / "b", llama(5)))
    assert found.notes == ("A has 3 layers, B has 5: aligned by name, layer by layer from the first",)
    assert len(found["only_in_model2"]) == 6
    assert found["only_in_model1"] == []
    assert found.identical == tuple(llama(3))


def test_a_prefix_is_passed_over(tmp_path):
    a = llama()
    b = {name.removeprefix("model."): x for name, x in tuned(a, 1).items()}
    found = netweight.compare(save(tmp_path / "a", a), save(tmp_path / "b", b))
    assert found["common_layers"] == list(a)
    assert [p.name_b for p in found.parameters] == list(b)
    assert found.notes == ("names matched with the prefix 'model.' passed over in A and no prefix in B",)


def test_tied_weights_count_once(tmp_path):
    torch = pytest.importorskip("torch")
    sides = []
    for scale in (1.0, 2.0):
        embedding = torch.ones(6, 4) * scale
        (tmp_path / f"{scale}").mkdir()
        tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "norm.weight": torch.ones(4)}
        torch.save(tensors, tmp_path / f"{scale}" / "pytorch_model.bin")
        sides.append(tmp_path / f"{scale}")
    found = netweight.compare(*sides)
    assert found["common_layers"] == ["model.embed_tokens.weight", "norm.weight"]
    assert [(s.name, s.reason) for s in found.skipped] == [
        ("lm_head.weight", "tied to model.embed_tokens.weight: counted once")
    ]
    assert found["only_in_model1"] == found["only_in_model2"] == []
    twice = netweight.compare(*sides, count_tied_twice=True)
    assert len(twice["common_layers"]) == 3
    untied = {"model.embed_tokens.weight": normal((6, 4)), "lm_head.weight": normal((6, 4)), "norm.weight": normal(4)}
    mixed = netweight.compare(sides[0], save(tmp_path / "untied", untied))
    assert len(mixed["common_layers"]) == 3


def test_sharded_against_one_file(pair, tmp_path):
    ref_a, ref_b, _, b = pair
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = list(b)
    shards = {"model-00001-of-00002.safetensors": names[:4], "model-00002-of-00002.safetensors": names[4:]}
    for file, held in shards.items():
        save(folder / file, {n: b[n] for n in held})
    index = {"weight_map": {n: file for file, held in shards.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert netweight.compare(ref_a, folder) == netweight.compare(ref_a, ref_b)


def test_include_and_exclude(pair):
    ref_a, ref_b, _, _ = pair
    found = netweight.compare(ref_a, ref_b, include=("*layers*",), exclude=("*norm*",))
    assert len(found["common_layers"]) == 6
    assert {s.reason for s in found.skipped} == {"not matched by --include", "excluded by --exclude *norm*"}
    with pytest.raises(OptionError, match=r"no parameter of .* is left by --include nothing"):
        netweight.compare(ref_a, ref_b, include=("nothing",))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More than one stretch, and tensors of every width."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    bits = rng.integers(0x3A00, 0x3E00, 300_007, dtype=np.uint16)
    kind = normal(1, "bfloat16").dtype
    moved = bits + rng.integers(0, 3, bits.size, dtype=np.uint16)
    a = {"big": bits.view(kind), "half": normal((300, 200), "float16"), "double": normal(9000, "float64", 2)}
    b = {"big": moved.view(kind), **tuned({n: a[n] for n in ("half", "double")}, 3)}
    return save(folder / "a", a), save(folder / "b", b), a, b


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv"])
def test_any_number_of_workers_gives_the_same_bytes(large, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(plan, "STRETCH", 1 << 14)
    ref_a, ref_b, a, b = large
    written = []
    for workers in (1, 2, 7):
        path = tmp_path / f"{workers}{suffix}"
        found = netweight.compare(ref_a, ref_b, output=path, workers=workers)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]
    for name, metrics in found["layer_comparisons"].items():
        assert metrics["l2_distance"] == pytest.approx(norms([a[name]], [b[name]])[0], rel=1e-12)


@pytest.mark.parametrize("workers", [1, 3])
def test_one_unreadable_tensor_does_not_stop_the_others(large, monkeypatch, workers):
    monkeypatch.setattr(plan, "STRETCH", 1 << 14)
    ref_a, ref_b, _, _ = large
    read = StoredTensor.read_into

    def failing(self, start, out):
        if self.name == "big" and start >= 1 << 15:
            raise OSError(5, "Input/output error")
        read(self, start, out)

    monkeypatch.setattr(StoredTensor, "read_into", failing)
    found = netweight.compare(ref_a, ref_b, workers=workers)
    assert [s.name for s in found.failed] == ["big"]
    assert "tensor 'big' could not be read at element" in found.failed[0].reason
    assert "Input/output error; check the file and the disk" in found.failed[0].reason
    entry = found["layer_comparisons"]["big"]
    assert (entry["comparable"], entry["comparable_reason"]) == (False, found.failed[0].reason)
    assert found["layer_comparisons"]["half"]["comparable"]
    assert found.totals["parameters"] == 2
    assert {"name": "big", "reason": found.failed[0].reason} in found.to_dict()["skipped"]


def test_the_files(pair, tmp_path):
    ref_a, ref_b, a, b = pair
    b = {**b, "lm_head.weight": normal((3, 3)), "model.embed_tokens.weight": b["model.embed_tokens.weight"] * np.nan}
    save(ref_b, b)
    found = netweight.compare(ref_a, ref_b, output=tmp_path / "new" / "c.json")
    held = strict_json((tmp_path / "new" / "c.json").read_text())
    assert list(held)[:4] == list(found)
    assert held["layer_comparisons"]["lm_head.weight"]["l2_distance"] is None
    assert held["layer_comparisons"]["model.embed_tokens.weight"]["flag"] == "nothing finite"
    assert held["frozen_layers"] == list(found.frozen)
    assert [i["ref"] for i in held["inputs"]] == [str(ref_a), str(ref_b)]
    for suffix in ("csv", "parquet"):
        found.write(tmp_path / f"c.{suffix}")
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "c.parquet")
    assert [r["param"] for r in rows] == table["param"].to_pylist() == list(a)
    name = "model.layers.0.mlp.up_proj.weight"
    metrics = found["layer_comparisons"][name]
    row = rows[list(a).index(name)]
    assert float(row["l2_distance"]) == metrics["l2_distance"]
    assert float(row["difference_stats.std"]) == metrics["difference_stats"]["std"]
    assert (row["comparable"], row["layer"], row["role"], row["shape"]) == ("true", "0", "up_proj", "[20, 8]")
    assert table["cosine_similarity"].to_pylist()[list(a).index(name)] == metrics["cosine_similarity"]
    assert json.loads(table.schema.metadata[b"netweight.only_in_model1"]) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c.csv", "c.parquet", "new"]


def test_the_result_as_an_object(pair):
    ref_a, ref_b, a, _ = pair
    found = netweight.compare(ref_a, ref_b)
    assert json.loads(json.dumps(found)) == found == pickle.loads(pickle.dumps(dict(found)))
    assert repr(found) == f"<comparison of '{ref_a}' with '{ref_b}': {len(a)} common parameters>"
    assert "<table>" in found._repr_html_()
    assert found.to_arrow().num_rows == len(a)
    assert found.to_pandas()["param"].tolist() == found.to_polars()["param"].to_list() == list(a)
    assert found.__arrow_c_stream__() is not None


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda a, b: netweight.compare(a, a.parent / "none"), ModelNotFoundError, "there is no such file or folder"),
        (
            lambda a, b: netweight.compare(a, b, methods=["spectra"]),
            OptionError,
            "--methods: no method 'spectra' (did you mean 'spectral'?); there are basic_stats, spectral,",
        ),
        (lambda a, b: netweight.compare(a, b, methods=[]), OptionError, "--methods: expected one or more of"),
        (lambda a, b: netweight.compare(a, b, output="x.txt"), OptionError, "expected a name that ends in .json, .csv"),
        (lambda a, b: netweight.compare(a, b, output=b / "c.json"), OutputError, "lies in the model"),
        (lambda a, b: netweight.compare(a, b, memory=1 << 20), OptionError, "this job needs at least"),
        (lambda a, b: netweight.compare(a, b, workers=0), OptionError, "--workers 0: expected 1 or more"),
    ],
)
def test_bad_input(pair, monkeypatch, make, error, said):
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))
    with pytest.raises(error) as raised:
        make(*pair[:2])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_models_that_share_nothing(tmp_path):
    a, b = save(tmp_path / "a", {"x.weight": normal(3)}), save(tmp_path / "b", {"other": normal(3)})
    with pytest.raises(InputError) as raised:
        netweight.compare(a, b)
    assert str(raised.value) == (
        f"{a} and {b} share no parameter: 'x.weight' against 'other'; give two models of one family"
    )


def test_the_drift_example(pair):
    """The published example: frozen and heavily adapted layers by their norm ratios."""
    ref_a, ref_b, a, _ = pair
    b = {n: (x.astype("f4") * (1.5 if "mlp" in n else 1)).astype(x.dtype) for n, x in a.items()}
    save(ref_b, b)
    comparison = netweight.Scope(ref_a).compare_with(ref_b)
    frozen_layers = []
    adapted_layers = []
    for layer, metrics in comparison["layer_comparisons"].items():
        l2_ratio = metrics["l2_norm_ratio"]
        if 0.99 < l2_ratio < 1.01:
            frozen_layers.append(layer)
        elif l2_ratio > 1.1 or l2_ratio < 0.9:
            adapted_layers.append(layer)
    assert tuple(frozen_layers) == comparison.frozen
    assert tuple(adapted_layers) == comparison.adapted == tuple(n for n in a if "mlp" in n)


def scanned(arrays):
    """basic_stats as a scan's JSON file holds them."""
    return {
        name: {"basic_stats": {"mean": float(x.mean()), "std": float(x.std())}, "spectral": {"stable_rank": 2.0}}
        for name, x in ((n, x.astype(np.float64)) for n, x in arrays.items())
    }


def test_two_scans_read_back(pair):
    ref_a, ref_b, a, b = pair
    one, other = scanned(a), scanned(b)
    del one["lm_head.weight"]
    other["model.embed_tokens.weight"] = {"skipped": "a reason"}
    found = compare_results(one, other, ["basic_stats", "spectral"])
    weights = netweight.compare(ref_a, ref_b)["layer_comparisons"]
    assert len(found["common_layers"]) == len(a) - 2
    for name, metrics in found["layer_comparisons"].items():
        for field in ("mean_diff", "std_diff", "l2_norm_ratio"):
            assert metrics[field] == pytest.approx(weights[name][field], rel=1e-9, abs=1e-15)
        assert math.isnan(metrics["l2_distance"])
        assert metrics["stable_rank_diff"] == 0
        assert metrics["comparable_reason"] == "from the numbers of two scans: distances need the weights"
    assert found["only_in_model2"] == ["lm_head.weight"]
    assert [s.name for s in found.skipped] == ["model.embed_tokens.weight"]
    assert netweight.find_most_changed_layers(found, 2)[0][1] > 0
    assert strict_json(json.dumps(found.to_dict(), allow_nan=False))
    assert found.to_arrow().num_rows == len(found["common_layers"])
    with pytest.raises(InputError, match=r"A and B share no parameter: 'x' against 'y'"):
        compare_results({"x": {}}, {"y": {}})


def test_real_checkpoints(realweights):
    files = sorted(realweights.glob("JunSuzukiJapan__tl__model_2digit*.safetensors"))
    from safetensors.numpy import load_file

    compared = 0
    for first, second in itertools.pairwise(files):
        a, b = load_file(first), load_file(second)
        for name, metrics in netweight.compare(first, second)["layer_comparisons"].items():
            if not metrics["comparable"]:
                assert a[name].shape != b[name].shape or a[name].dtype.kind != "f"
                continue
            good = np.isfinite(a[name]) & np.isfinite(b[name])
            assert metrics["n_nonfinite"] == (~good).sum()
            if not good.any():
                assert (metrics["flag"], math.isnan(metrics["l2_distance"])) == ("nothing finite", True)
                continue
            distance, cosine, ratio = norms([a[name][good]], [b[name][good]])
            assert metrics["l2_distance"] == pytest.approx(distance, rel=1e-11)
            assert metrics["cosine_similarity"] == pytest.approx(cosine, rel=1e-11)
            assert metrics["l2_norm_ratio"] == pytest.approx(ratio, rel=1e-11)
            assert metrics["cosine_similarity"] <= 1
            compared += 1
    assert compared


def test_the_scan_measures_of_both_sides(pair):
    """Differences and ratios of singular values against numpy's own."""
    ref_a, ref_b, a, b = pair
    found = netweight.compare(ref_a, ref_b, methods=["spectral", "tail", "quantization", "sparsity"])
    assert found.methods == ("basic_stats", "spectral", "quantization", "sparsity", "tail")
    for name, metrics in found["layer_comparisons"].items():
        if a[name].ndim < 2:
            continue
        s, t = (np.linalg.svd(x[name].astype(np.float64), compute_uv=False) for x in (a, b))
        assert metrics["condition_number_ratio"] == pytest.approx((t[0] / t[-1]) / (s[0] / s[-1]), rel=1e-6)
        assert metrics["max_singular_value_ratio"] == pytest.approx(t[0] / s[0], rel=1e-9)
        stable = [(v**2).sum() / v[0] ** 2 for v in (s, t)]
        assert metrics["stable_rank_diff"] == pytest.approx(stable[1] - stable[0], abs=1e-8)
        assert metrics["effective_rank_diff"] == (t > 0.01 * t[0]).sum() - (s > 0.01 * s[0]).sum()
        assert (
            metrics["sparsity_diff"]
            == (np.abs(b[name].astype("f8")) <= 1e-8).mean() - (np.abs(a[name].astype("f8")) <= 1e-8).mean()
        )
    scans = [netweight.scan(ref, methods=["quantization", "tail"]) for ref in (ref_a, ref_b)]
    for name in a:
        for measure, field in (("quantization", "sqnr_db"), ("quantization", "extreme_outlier_percentage")):
            one, other = (scan[name][measure][field] for scan in scans)
            assert found["layer_comparisons"][name][f"{field}_diff"] == pytest.approx(other - one, nan_ok=True)
    columns = found.frame.columns
    assert {"condition_number_ratio", "alpha_diff", "tail_diff_reason"} <= {c.name for c in columns}
    assert netweight.compare(ref_a, ref_b, methods="all", workers=1) is not None


def test_experts_in_one_tensor_are_told_apart(tmp_path):
    experts = {
        "model.layers.0.mlp.experts.down_proj": normal((3, 8, 6), seed=1),
        "model.layers.0.mlp.gate.weight": normal((3, 8)),
    }
    other = tuned(experts, 2, 0.1)
    found = netweight.compare(save(tmp_path / "a", experts), save(tmp_path / "b", other), methods=["spectral"])
    metrics = found["layer_comparisons"]["model.layers.0.mlp.experts.down_proj"]
    assert math.isnan(metrics["condition_number_ratio"])
    assert metrics["spectral_diff_reason"] == "a stack of 3 matrices: see `matrices`"
    assert list(metrics["matrices"]) == ["0", "1", "2"]
    for i, parts in enumerate(metrics["matrices"].values()):
        s, t = (np.linalg.norm(x["model.layers.0.mlp.experts.down_proj"][i].astype("f8"), 2) for x in (experts, other))
        assert parts["max_singular_value_ratio"] == pytest.approx(t / s, rel=1e-9)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_one_unreadable_side_of_a_spectrum(pair, monkeypatch):
    """The weights were compared, then the second reading fails: what is known is kept, and the rest says why."""
    ref_a, ref_b, a, _ = pair
    name = "model.layers.0.mlp.up_proj.weight"
    read, seen = StoredTensor.read_into, []

    def failing(self, start, out):
        if self.name == name and self.source.name.startswith(str(ref_b)):
            seen.append(start)
            if len(seen) > 1:
                raise OSError(5, "Input/output error")
        read(self, start, out)

    monkeypatch.setattr(StoredTensor, "read_into", failing)
    found = netweight.compare(ref_a, ref_b, methods=["spectral"], workers=1)
    metrics = found["layer_comparisons"][name]
    assert metrics["comparable"]
    assert metrics["l2_distance"] > 0
    assert math.isnan(metrics["condition_number_ratio"])
    assert metrics["spectral_diff_reason"] == "b: not measured"
    assert [s.name for s in found.failed] == [name]
    assert sum(m["spectral_diff_reason"] == "" for m in found["layer_comparisons"].values()) >= len(a) // 2
