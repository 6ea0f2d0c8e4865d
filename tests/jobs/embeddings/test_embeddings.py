"""`netweight.embeddings`: planted clusters, F, determinism, tied and missing heads, rows that look untrained."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedding_models import NAME, planted, save_model, save_tokenizer
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score, silhouette_samples

import netweight
from netweight.errors import InputError, JobError, OptionError
from netweight.jobs.embeddings.search import choose
from netweight.jobs.embeddings.token_embedding import find_embedding

FILES = {
    ".netweight.json",
    "anova_curve.png",
    "cluster_representatives.json",
    "clustering_results.json",
    "embedding_analysis.csv",
    "embedding_clusters.png",
    "embedding_clusters_summary.csv",
    "embedding_tokens.parquet",
}


@pytest.mark.parametrize(("k", "apart"), [(3, 0.5), (7, 0.5), (20, 0.5)])
def test_planted_clusters_are_found(tmp_path, k, apart) -> None:
    x, labels = planted(3000, 64, k, seed=k, apart=apart * 2)
    found = netweight.embeddings(save_model(tmp_path, {NAME: x}), max_k=24)
    assert found.optimal_k == k, found.choice
    assert adjusted_rand_score(labels, found.labels) > 0.99
    assert [c.size for c in found.clusters] == sorted(np.bincount(labels).tolist(), reverse=True)


@pytest.mark.parametrize("k", [3, 7, 20])
def test_planted_clusters_of_the_stated_size(tmp_path, k) -> None:
    x, labels = planted(12_000, 128, k, seed=k, apart=1.0)
    found = netweight.embeddings(save_model(tmp_path, {NAME: x}), max_k=23, sample=3000)
    assert found.optimal_k == k, found.choice
    assert adjusted_rand_score(labels, found.labels) > 0.99
    assert found.f == pytest.approx(calinski_harabasz_score(x, found.labels), rel=1e-5)


def test_every_f_is_exact_over_all_rows(tmp_path) -> None:
    """The curve's partitions are made of the sample's centres: the same fits, made by hand, give the same F."""
    x, _ = planted(900, 12, 4, apart=2)
    found = netweight.embeddings(save_model(tmp_path, {NAME: x}), max_k=6, sample=100_000)
    assert found.f == pytest.approx(calinski_harabasz_score(x.astype(np.float64), found.labels), rel=1e-6)
    four = found.curve[2]
    assert four.k == 4
    reference = KMeans(4, n_init=5, random_state=0).fit(x)
    assert four.f == pytest.approx(calinski_harabasz_score(x.astype(np.float64), reference.labels_), rel=1e-5)
    assert four.within == pytest.approx(reference.inertia_, rel=1e-4)


def test_what_is_said_of_clusters(tmp_path) -> None:
    x, _ = planted(800, 16, 3, apart=3)
    found = netweight.embeddings(save_model(tmp_path, {NAME: x}), max_k=6)
    wide = x.astype(np.float64)
    silhouettes = silhouette_samples(wide, found.labels)
    assert found.silhouette_score == pytest.approx(silhouettes.mean(), abs=1e-5)
    for cluster in found.clusters:
        members = np.flatnonzero(found.labels == cluster.cluster_id)
        apart = np.linalg.norm(wide[members] - wide[members].mean(axis=0), axis=1)
        assert cluster.size == len(members)
        assert cluster.percentage == pytest.approx(100 * len(members) / 800)
        assert cluster.avg_distance == pytest.approx(apart.mean(), rel=1e-3)
        assert cluster.silhouette_score == pytest.approx(silhouettes[members].mean(), abs=1e-5)
        nearest = {int(i) for i in members[np.argsort(apart)[:10]]}
        assert len(nearest & {r.token_id for r in cluster.representatives}) >= 9
        assert [r.distance for r in cluster.representatives] == sorted(r.distance for r in cluster.representatives)
    assert found.norms == pytest.approx(np.linalg.norm(wide, axis=1))


def written(model, out, **settings):
    netweight.embeddings(model, out, **settings)
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path) -> None:
    x, _ = planted(2500, 40, 6, apart=0.4)
    model = save_model(tmp_path / "m", {NAME: x.astype(ml_dtypes.bfloat16)})
    save_tokenizer(model, ["[UNK]", *(f"word{i}" for i in range(2499))])
    first, second, third = (
        written(model, tmp_path / f"out{i}", max_k=8, sample=1500, random_state=5, workers=w)
        for i, w in enumerate((1, 2, 3))
    )
    assert set(first) == FILES
    for other in (second, third):
        assert set(first) == set(other)
        for name in FILES - {"embedding_analysis.csv"}:
            assert first[name] == other[name], name
        rows = [next(csv.DictReader(f["embedding_analysis.csv"].decode().splitlines())) for f in (first, other)]
        assert {**rows[0], "created_at": ""} == {**rows[1], "created_at": ""}
    fourth = written(model, tmp_path / "out9", max_k=8, sample=1500, random_state=6)
    assert first["clustering_results.json"] != fourth["clustering_results.json"]


def test_fields_of_the_files(tmp_path) -> None:
    x, _ = planted(500, 12, 4, apart=3)
    model = save_model(tmp_path / "m", {NAME: x})
    save_tokenizer(model, ["[UNK]", *(f"word{i}" for i in range(400))])
    out = tmp_path / "out"
    found = netweight.embeddings(model, out, max_k=7, n_representatives=3)
    results = json.loads((out / "clustering_results.json").read_text())
    assert list(results)[:5] == [
        "optimal_k", "silhouette_score", "total_tokens", "embedding_dimension", "clusters",
    ]  # fmt: skip
    fields = ["cluster_id", "size", "percentage", "avg_distance", "silhouette_score"]
    fields += ["representative_text", "meaningful_text"]
    assert list(results["clusters"][0]) == fields
    assert (results["total_tokens"], results["embedding_dimension"], results["optimal_k"]) == (500, 12, 4)
    assert results == found.to_dict()
    rows = list(csv.DictReader((out / "embedding_clusters_summary.csv").read_text().splitlines()))
    assert list(rows[0]) == fields
    assert sum(int(r["size"]) for r in rows) == 500
    named = json.loads((out / "cluster_representatives.json").read_text())
    assert [len(c["representatives"]) for c in named] == [3] * 4
    row = next(csv.DictReader((out / "embedding_analysis.csv").read_text().splitlines()))
    assert (row["param_name"], row["block_type"], row["rows"], row["actual_rank"]) == (NAME, "embedding", "500", "12")
    assert float(row["std"]) == pytest.approx(x.astype(np.float64).std())
    tokens = pq.read_table(out / "embedding_tokens.parquet").to_pylist()
    assert [t["token_id"] for t in tokens] == list(range(500))
    assert [t["cluster_id"] for t in tokens] == found.labels.tolist()
    assert tokens[7]["text"] == "word6"
    assert tokens[450]["text"] is None
    assert tokens[450]["unused"] == "no token has this id"
    assert len(found.to_pandas()) == 4
    assert "word" in found._repr_html_()
    assert found.write(tmp_path / "again") == ()
    assert (tmp_path / "again" / "anova_curve.png").read_bytes() == (out / "anova_curve.png").read_bytes()


def test_gpt2_has_positions_that_are_not_taken(tmp_path) -> None:
    x, _ = planted(120, 8, 2, apart=4)
    positions = np.random.default_rng(0).standard_normal((4000, 8)).astype(np.float32)
    model = save_model(tmp_path, {"wpe.weight": positions, "wte.weight": x}, {"model_type": "gpt2"})
    found = netweight.embeddings(model, max_k=5)
    assert found.parameter == "wte.weight"
    assert found.optimal_k == 2
    assert (found.output.state, found.output.output) == ("tied", None)


def table(rows: int, cols: int) -> np.ndarray:
    return np.zeros((rows, cols), np.float32)


@pytest.mark.parametrize(
    ("arrays", "model_type", "name", "state"),
    [
        ({"bert.embeddings.word_embeddings.weight": table(30, 4), "bert.embeddings.position_embeddings.weight":
          table(99, 4), "bert.embeddings.token_type_embeddings.weight": table(2, 4)}, "bert",
         "bert.embeddings.word_embeddings.weight", "tied"),
        ({"model.decoder.embed_tokens.weight": table(30, 4), "model.encoder.embed_positions.weight": table(1500, 4)},
         "whisper", "model.decoder.embed_tokens.weight", "tied"),
        ({"gpt_neox.embed_in.weight": table(30, 4), "embed_out.weight": table(30, 4)}, "gpt_neox",
         "gpt_neox.embed_in.weight", "compared"),
        ({"language_model.model.embed_tokens.weight": table(30, 4),
          "vision_tower.vision_model.embeddings.position_embedding.weight": table(577, 4)}, "llava",
         "language_model.model.embed_tokens.weight", "none"),
        ({"model.language_model.embed_tokens.weight": table(30, 4),
          "model.language_model.embed_tokens_per_layer.weight": table(30, 64)}, "gemma3n",
         "model.language_model.embed_tokens.weight", "tied"),
        ({"emb.weight": table(30, 4), "head.weight": table(30, 4)}, "rwkv", "emb.weight", "compared"),
    ],
    ids=lambda v: v if isinstance(v, str) and "." not in v else "",
)  # fmt: skip
def test_which_tensor_it_is(tmp_path, arrays, model_type, name, state) -> None:
    with netweight.open(save_model(tmp_path, arrays, {"model_type": model_type})) as checkpoint:
        found = find_embedding(checkpoint)
    assert (found.tensor.name, found.output.state) == (name, state)


def test_only_positions(tmp_path) -> None:
    model = save_model(tmp_path, {"wpe.weight": np.ones((9, 8), np.float32)}, {"model_type": "gpt2"})
    for settings in ({}, {"include": ("wpe.*",)}):
        with pytest.raises(InputError, match="no token embedding among 1 tensors: expected a matrix such as"):
            netweight.embeddings(model, **settings)


def test_another_matrix_at_the_users_word(tmp_path) -> None:
    x, _ = planted(100, 8, 2, apart=4)
    model = save_model(tmp_path, {"some.table": x, "other.table": x})
    assert netweight.embeddings(model, max_k=4, include=("some.*",)).parameter == "some.table"
    with pytest.raises(InputError, match="--include leaves 2 matrices and none is a token embedding"):
        netweight.embeddings(model, include=("*",))


def test_output_that_agrees_in_part(tmp_path) -> None:
    x, _ = planted(200, 16, 3, apart=3)
    head = x * 2
    head[7] = -x[7]
    head[9] = 0
    found = netweight.embeddings(save_model(tmp_path, {NAME: x, "lm_head.weight": head}), max_k=4).output
    wide, other = x.astype(np.float64), head.astype(np.float64)
    keep = np.arange(200) != 9
    cosines = (wide * other).sum(1)[keep] / np.linalg.norm(wide, axis=1)[keep] / np.linalg.norm(other, axis=1)[keep]
    assert (found.state, found.output, found.rows) == ("compared", "lm_head.weight", 199)
    assert found.mean_cosine == pytest.approx(cosines.mean(), rel=1e-6)
    assert found.least[0] == (7, pytest.approx(-1))
    norms = [np.linalg.norm(m, axis=1)[keep] for m in (wide, other)]
    assert found.norm_correlation == pytest.approx(np.corrcoef(*norms)[0, 1], rel=1e-6)


def test_heads_of_another_size(tmp_path) -> None:
    x, _ = planted(60, 8, 2, apart=4)
    longer = np.concatenate([x, x[:5]])
    found = netweight.embeddings(save_model(tmp_path / "a", {NAME: x, "lm_head.weight": longer}), max_k=3).output
    assert (found.state, found.rows) == ("compared", 60)
    assert found.mean_cosine == pytest.approx(1)
    assert found.reason == "they have 60 and 65 rows; the first 60 are compared"
    narrow = netweight.embeddings(save_model(tmp_path / "b", {NAME: x, "lm_head.weight": x[:, :4].copy()}), max_k=3)
    assert narrow.output.state == "none"
    assert "lm_head.weight has 4 columns" in narrow.output.reason


def test_rows_that_look_untrained(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 32)).astype(np.float32)
    x[300:320] = 0.5 + 0.02 * rng.standard_normal((20, 32))  # all alike, as rows that no gradient reached
    x[40] = 0.5  # a token that the tokenizer has, and no text ever held
    x[50] = 0
    x[60] = x[61] = x[70]
    x[80] *= 1e-4
    model = save_model(tmp_path, {NAME: x})
    save_tokenizer(model, ["[UNK]", *(f"word{i}" for i in range(299))])
    x[320:] = rng.standard_normal((80, 32))
    words = ["[UNK]", *(f"word{i}" for i in range(299)), *(f"<|reserved_special_token_{i}|>" for i in range(20))]
    save_tokenizer(model, words + [f"more{i}" for i in range(80)])
    found = netweight.embeddings(model, max_k=4).untrained
    assert set(found.unused) == set(range(300, 320))
    assert found.unused[300] == "reserved by its name"
    reasons = found.reasons
    assert "near_unused" in reasons[40]
    assert reasons[50] == ("zero",)
    assert reasons[60] == reasons[61] == reasons[70] == ("repeated",)
    assert reasons[80] == ("small",)
    assert sum("near_unused" in why for why in reasons.values()) >= 19
    assert set(reasons) <= {40, 50, 60, 61, 70, 80, *range(300, 320)}
    told = found.to_dict()
    assert told["count"] == len(reasons)
    assert "spread is 1.4826" in told["rule"]


def test_unused_rows_that_do_not_stand_apart(tmp_path) -> None:
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    model = save_model(tmp_path, {NAME: x})
    save_tokenizer(model, ["[UNK]", *(f"word{i}" for i in range(249))])
    found = netweight.embeddings(model, max_k=3).untrained
    assert found.limit is None
    assert found.note.startswith("the unused rows do not stand apart: ")
    assert len(found.reasons) < 10


def test_rows_that_are_not_finite(tmp_path) -> None:
    x, _ = planted(300, 8, 3, apart=5)
    x[5, 2], x[17, 0] = np.nan, np.inf
    found = netweight.embeddings(save_model(tmp_path / "m", {NAME: x}), tmp_path / "out", max_k=6)
    assert found.optimal_k == 3
    assert found.left_out == [5, 17]
    assert found.labels[[5, 17]].tolist() == [-1, -1]
    assert math.isnan(found.norms[5])
    assert sum(c.size for c in found.clusters) == 298
    assert "2 rows hold NaN or infinities and are left out" in found.notes
    kept = found.labels >= 0
    assert found.f == pytest.approx(calinski_harabasz_score(x[kept], found.labels[kept]), rel=1e-6)
    results = json.loads((tmp_path / "out" / "clustering_results.json").read_text())
    assert results["rows_not_finite"] == {"count": 2, "ids": [5, 17]}


@pytest.mark.parametrize(("scale", "dtype"), [(1e30, "f4"), (1e-35, "f4"), (1e200, "f8"), (1e-200, "f8")])
def test_sizes_that_float32_cannot_square(tmp_path, scale, dtype) -> None:
    x, labels = planted(400, 8, 4, apart=4)
    found = netweight.embeddings(save_model(tmp_path, {NAME: (x.astype("f8") * scale).astype(dtype)}), max_k=8)
    assert found.optimal_k == 4
    assert adjusted_rand_score(labels, found.labels) == 1
    assert found.clusters[0].avg_distance == pytest.approx(
        float(np.linalg.norm(x[found.labels == 0] - x[found.labels == 0].mean(0), axis=1).mean()) * scale, rel=1e-3
    )


def test_equal_rows_and_few_rows(tmp_path) -> None:
    with pytest.raises(InputError, match=r"model.embed_tokens.weight is 1 x 8, clusters need 3 rows"):
        netweight.embeddings(save_model(tmp_path / "one", {NAME: np.ones((1, 8), np.float32)}))
    with pytest.raises(JobError, match="at least 3 finite rows and 2 different ones, got 50 and 1"):
        netweight.embeddings(save_model(tmp_path / "same", {NAME: np.ones((50, 8), np.float32)}))
    broken = np.array([[1, 2], [np.nan, 1], [3, 4]], np.float32)
    with pytest.raises(JobError, match="got 2 and 2"):
        netweight.embeddings(save_model(tmp_path / "nan", {NAME: broken}))
    three = np.array([[0, 0], [1, 0], [9, 9]], np.float32)
    found = netweight.embeddings(save_model(tmp_path / "three", {NAME: three}), tmp_path / "out")
    assert found.optimal_k == 2
    assert sorted(found.labels.tolist()) == [0, 0, 1]
    exact = np.repeat(np.array([[0, 0], [5, 5], [0, 9]], np.float32), 4, axis=0)
    found = netweight.embeddings(save_model(tmp_path / "exact", {NAME: exact}), tmp_path / "out2")
    assert found.optimal_k == 3
    results = json.loads((tmp_path / "out2" / "clustering_results.json").read_text())
    assert results["anova"][-1]["f_statistic"] is None
    assert results["anova"][-1]["f_statistic_reason"] == "nothing is left within the clusters"


def test_one_column(tmp_path) -> None:
    x = np.concatenate([np.full(20, -3.0), np.full(30, 4.0)])[:, None] + np.linspace(0, 0.1, 50)[:, None]
    model = save_model(tmp_path / "m", {NAME: x.astype("f4")})
    assert netweight.embeddings(model, tmp_path / "two", max_k=2).labels.tolist() == [1] * 20 + [0] * 30
    found = netweight.embeddings(model, tmp_path / "out", max_k=5).labels.tolist()
    assert not set(found[:20]) & set(found[20:])


def test_quantized_embeddings_are_refused(tmp_path) -> None:
    model = save_model(tmp_path, {NAME: np.ones((9, 8), np.int8)})
    with pytest.raises(InputError, match=r"model.embed_tokens.weight holds I8, expected floats"):
        netweight.embeddings(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_k": 1}, "--max-k 1: expected 2 or more"),
        ({"sample": 2}, "--sample 2: expected 3 or more"),
        ({"n_representatives": 0}, "--n-representatives 0: expected 1 or more"),
        ({"random_state": -1}, "--random-state -1: expected 0 or more"),
        ({"memory": 1 << 20}, "needs at least [0-9]+ MiB for one worker; give --memory"),
        ({"workers": 0}, "--workers 0: expected 1 or more"),
    ],
)
def test_options_that_cannot_be(tmp_path, settings, message) -> None:
    model = save_model(tmp_path, {NAME: planted(30, 4, 2)[0]})
    with pytest.raises(OptionError, match=message):
        netweight.embeddings(model, **settings)


def test_without_the_extra(tmp_path, monkeypatch) -> None:
    model = save_model(tmp_path, {NAME: planted(30, 4, 2)[0]})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn", None)
        with pytest.raises(JobError, match=r"needs scikit-learn, .*: pip install 'netweight\[embeddings\]'$"):
            netweight.embeddings(model)
    save_tokenizer(model, ["[UNK]", "a"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(JobError, match=r"needs tokenizers, .*: pip install 'netweight\[embeddings\]', or give --skip"):
        netweight.embeddings(model)
    assert netweight.embeddings(model, max_k=3, skip_representatives=True).texts is None


def test_the_model_is_never_overwritten(tmp_path) -> None:
    model = save_model(tmp_path, {NAME: planted(30, 4, 2)[0]})
    with pytest.raises(netweight.NetweightError, match="is an input model"):
        netweight.embeddings(model, model)


def curve(gains: list[float], total: float, n: int):
    within = [total - g for g in np.cumsum(gains)]
    ks = range(2, len(gains) + 2)
    f = [((total - w) / (k - 1)) / (w / (n - k)) for k, w in zip(ks, within, strict=True)]
    return ks, f, {1: total, **dict(zip(ks, within, strict=True))}


def test_how_k_is_chosen() -> None:
    rise = choose(*curve([10, 30, 30, 1, 1, 1, 1], 100, 1000), largest_k=8)
    assert (rise.k, rise.rule) == (4, "peak")
    two = choose(*curve([60, 1, 1, 1, 1, 1], 100, 1000), largest_k=7)
    assert (two.k, two.rule) == (2, "break")
    hidden = choose(*curve([3, 2.7, 2.5, 2.2, 2.1, 0.1, 0.1, 0.1], 100, 1000), largest_k=9)
    assert (hidden.k, hidden.rule) == (6, "break")
    smooth = choose(*curve([10 / i for i in range(1, 30)], 100, 1000), largest_k=30)
    assert smooth.rule == "elbow"
    assert 3 <= smooth.k <= 12
    last = choose(*curve([10, 20, 30], 100, 1000), largest_k=4)
    assert (last.k, last.rule) == (4, "peak")
    assert "a larger --max-k may find a larger F" in last.reason
    assert "a larger" not in choose(*curve([10, 20, 30], 100, 1000), largest_k=30).reason
    assert choose([2], [5.0], {1: 100.0, 2: 50.0}, largest_k=2).rule == "only"


def test_last_fits_that_find_nothing_are_no_break() -> None:
    ks, f, inertia = curve([10 / i for i in range(1, 33)], 100, 1000)
    inertia[33] = inertia[32] + 1
    found = choose(list(ks)[:29], f[:29], inertia, largest_k=30)
    assert found.rule == "elbow"


def test_as_many_clusters_as_are_tried_at_most(tmp_path) -> None:
    x, _ = planted(1500, 64, 6, apart=0.5)
    found = netweight.embeddings(save_model(tmp_path, {NAME: x}), max_k=6)
    assert (found.optimal_k, len(found.curve)) == (6, 5)


def test_norms_near_the_end_of_float64_correlate_too():
    from netweight.jobs.embeddings.heads import _correlation

    rng = np.random.default_rng(0)
    a = rng.random(50) + 0.5
    b = a + rng.random(50)
    expected = np.corrcoef(a, b)[0, 1]
    for scale in (1e-300, 1.0, 1e307):
        assert _correlation(a * scale, b * scale) == pytest.approx(expected, rel=1e-12)


def test_every_blas_has_one_thread():
    """numpy's, scipy's and our own, in a process that has imported none of them before."""
    code = (
        "from netweight.jobs.embeddings.search import one_thread_each\n"
        "with one_thread_each():\n"
        "    import sklearn.cluster, scipy.sparse.linalg, threadpoolctl\n"
        "    print([p['num_threads'] for p in threadpoolctl.threadpool_info() if p['user_api'] == 'blas'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert set(json.loads(done.stdout)) == {1}
