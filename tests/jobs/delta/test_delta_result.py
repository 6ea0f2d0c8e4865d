"""The result of `netweight.delta`: one table in many forms, the files of the command line, and groups."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_vectors import FIELDS, cosine, normal, read_rows, save, strict_json, tree, tuned
from task_vectors import netweight as program

import netweight
from netweight.jobs.delta.result import COLUMNS, PER_PARAM
from netweight.version import __version__

BASE = {
    "model.embed_tokens.weight": normal((40, 16), "bfloat16", seed=1),
    **{
        f"model.layers.{i}.{name}": normal(shape, "bfloat16", seed=10 * i + j)
        for i in range(3)
        for j, (name, shape) in enumerate(
            [
                ("self_attn.q_proj.weight", (16, 16)),
                ("mlp.down_proj.weight", (16, 24)),
                ("input_layernorm.weight", (16,)),
            ]
        )
    },
    "model.norm.weight": normal(16, "bfloat16", seed=2),
    "lm_head.weight": normal((40, 16), "bfloat16", seed=3),
    "something.else": normal(7, seed=4),
}
MODELS = [tuned(BASE, i, 0.01) for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save(folder / "base", BASE)
    paths = [save(folder / f"m{i}", m) for i, m in enumerate(MODELS)]
    return netweight.delta(folder / "base", paths, folder / "out"), folder


def test_every_form_of_the_table(run):
    result, folder = run
    arrow = pa.table(result)
    assert arrow.column_names == [c.name for c in COLUMNS]
    assert arrow.num_rows == 3 * len(BASE)
    assert arrow.equals(result.to_arrow())
    rows = arrow.to_pylist()
    assert result.to_pandas()["l2"].tolist() == [row["l2"] for row in rows]
    assert result.to_polars()["param"].to_list() == [row["param"] for row in rows] == 3 * list(BASE)
    stored = pq.read_table(folder / "out" / "delta.parquet")
    assert stored.to_pylist() == rows
    meta = {k.decode(): v.decode() for k, v in stored.schema.metadata.items()}
    assert (meta["netweight.version"], meta["netweight.schema_version"]) == (__version__, "1")
    inputs = strict_json(meta["netweight.inputs"])
    assert [i["ref"] for i in inputs] == [str(folder / n) for n in ("base", "m0", "m1", "m2")]
    assert all(len(f["header_digest"]) == 64 for i in inputs for f in i["files"])
    docs = {f.name: f.metadata[b"doc"].decode() for f in stored.schema}
    assert all(docs.values())


def test_gram_matrices(run):
    result, _ = run
    for row in result.to_arrow().to_pylist():
        i = int(row["model"][1])
        name = row["param"]
        x = [(m[name].astype("f4") - BASE[name].astype("f4")).astype("f8").ravel() for m in MODELS]
        assert row["gram"] == pytest.approx([x[i] @ y for y in x], rel=1e-12, abs=1e-15)
        assert row["gram"][i] == pytest.approx(row["l2"] ** 2, rel=1e-14)


def test_cosines(run):
    result, folder = run
    for i in range(3):
        for j in range(3):
            expected = 1.0 if i == j else cosine(BASE, MODELS[i], MODELS[j])
            assert math.isclose(result.cosines[i][j], expected, rel_tol=0, abs_tol=1e-12)
    header = (folder / "out" / "pairwise_cosines.csv").read_text().splitlines()[0]
    assert header == ",m0,m1,m2"


def test_groups(run):
    result, folder = run
    summary = strict_json((folder / "out" / "m1" / "summary.json").read_text())
    assert summary == result.models[1].summary
    vectors = {n: (MODELS[1][n].astype("f4") - a.astype("f4")).astype("f8").ravel() for n, a in BASE.items()}
    members = {
        "embed": ["model.embed_tokens.weight"],
        "lm_head": ["lm_head.weight"],
        "layer": [n for n in BASE if ".layers." in n],
        "attn": [n for n in BASE if "q_proj" in n],
        "mlp": [n for n in BASE if "down_proj" in n],
        "norm": [n for n in BASE if "norm" in n],
        **{f"layer_{i}": [n for n in BASE if f".layers.{i}." in n] for i in range(3)},
    }
    for group, names in members.items():
        found = summary["groups"][group]
        x = np.concatenate([vectors[n] for n in names])
        w = np.concatenate([BASE[n].astype("f8").ravel() for n in names])
        assert found["l2"] == pytest.approx(np.linalg.norm(x), rel=1e-12), group
        assert found["l1"] == pytest.approx(np.abs(x).sum(), rel=1e-12)
        assert found["param_count_approx"] == x.size
        assert found["relative_l2"] == pytest.approx(np.linalg.norm(x) / np.linalg.norm(w), rel=1e-12)
    assert set(summary["groups"]) == {*members, "other"}
    order = list(summary["groups"])
    assert order == ["embed", "lm_head", "layer", "attn", "mlp", "norm", "other", "layer_0", "layer_1", "layer_2"]
    whole = np.concatenate(list(vectors.values()))
    assert summary["global_l2"] == pytest.approx(np.linalg.norm(whole), rel=1e-12)
    assert summary["global_l1"] == pytest.approx(np.abs(whole).sum(), rel=1e-12)
    assert (summary["n_params_considered"], summary["skipped_params"]) == (len(BASE), 0)


def test_csv_header_and_top_files(run):
    _, folder = run
    where = folder / "out" / "m2"
    text = (where / "per_param_stats.csv").read_text()
    assert text.splitlines()[0].split(",")[: len(FIELDS)] == FIELDS
    assert tuple(text.splitlines()[0].split(",")) == PER_PARAM
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["param"] for r in rows] == list(BASE)
    for key in ("l2", "maxabs"):
        top = list(csv.DictReader(io.StringIO((where / f"top50_by_{key}.csv").read_text())))
        assert top == sorted(rows, key=lambda r: -float(r[key]))[:50]


def test_top_files_hold_fifty(tmp_path):
    base = {f"p{i:02}": normal(4, seed=i) for i in range(60)}
    save(tmp_path / "base", base)
    save(tmp_path / "m", tuned(base, 1))
    result = netweight.delta(tmp_path / "base", [tmp_path / "m"], tmp_path / "out")
    names = list(read_rows(tmp_path / "out" / "m" / "top50_by_l2.csv"))
    l2 = dict(zip(result.frame.column("param"), result.frame.column("l2"), strict=True))
    assert names == sorted(base, key=lambda n: -l2[n])[:50]


def test_write_equals_the_command_line(run):
    result, folder = run
    result.write(folder / "written")
    done = program("delta", "--base", folder / "base", "--models", *(folder / f"m{i}" for i in range(3)), "--outdir",
        folder / "program")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree(folder / "written") == tree(folder / "program") == tree(folder / "out")
    assert result.write(folder / "written") == ()


def test_text_forms(run):
    result, folder = run
    assert repr(result) == f"<Delta of 3 models to {str(folder / 'base')!r}: {len(BASE)} parameters>"
    html = result._repr_html_()
    assert html.count("<table>") == 3  # card, map, rows
    assert "m1" in html
    found = result.to_dict()
    assert list(found) == ["base", "models", "pairwise_cosines", "device", "notes", "inputs"]
    assert found["pairwise_cosines"]["m0"]["m1"] == result.cosines[0][1]
