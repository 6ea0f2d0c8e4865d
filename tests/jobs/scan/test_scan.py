"""`netweight.scan`: which matrices, which fields, which files, against numpy in float64."""

from __future__ import annotations

import csv
import json
import math

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from task_vectors import normal, save

import netweight
from netweight.errors import OptionError, OutputError
from netweight.jobs.scan.result import CSV_COLUMNS

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 48}


def llama(layers=2, dtype="bfloat16"):
    found = {"model.embed_tokens.weight": normal((200, 48), dtype, seed=1)}
    for i in range(layers):
        at = f"model.layers.{i}"
        found |= {
            f"{at}.self_attn.q_proj.weight": normal((48, 48), dtype, seed=10 + i),
            f"{at}.mlp.up_proj.weight": normal((130, 48), dtype, seed=20 + i),
            f"{at}.mlp.down_proj.weight": normal((48, 130), dtype, seed=30 + i),
            f"{at}.input_layernorm.weight": np.ones(48, ml_dtypes.bfloat16),
        }
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("scan") / "model", llama(), CONFIG)


@pytest.fixture(scope="module")
def scanned(model):
    return netweight.scan(model, methods="all")


def test_every_float_tensor_has_every_measure(scanned) -> None:
    assert list(scanned) == list(llama())
    methods = ["basic_stats", "spectral", "quantization", "sparsity", "tail", "bulk", "within"]
    assert all(list(found) == methods for found in scanned.values())
    assert not scanned.skipped


def test_the_numbers_are_those_of_the_whole_matrix(scanned) -> None:
    for name, array in llama().items():
        x = array.astype(np.float64)
        w = x.reshape(x.shape[0] if x.ndim > 1 else 1, -1)
        found = scanned[name]
        sigma = np.linalg.svd(w, compute_uv=False)
        assert found["basic_stats"]["mean"] == pytest.approx(x.mean(), abs=1e-15)
        assert found["basic_stats"]["std"] == pytest.approx(x.std(), rel=1e-12, abs=1e-15)
        assert (found["basic_stats"]["min"], found["basic_stats"]["max"]) == (x.min(), x.max())
        assert found["spectral"]["max_singular_value"] == pytest.approx(sigma[0], rel=1e-10)
        assert found["spectral"]["condition_number"] == pytest.approx(sigma[0] / sigma[-1], rel=1e-6)
        assert found["spectral"]["actual_rank"] == found["spectral"]["design_rank"] == min(w.shape)
        energy = np.cumsum(sigma**2) / np.sum(sigma**2)
        assert found["spectral"]["svd_90_percent_rank"] == int(np.searchsorted(energy, 0.9)) + 1
        q25, q75 = np.percentile(x, [25, 75])
        outside = (x < q25 - 3 * (q75 - q25)) | (x > q75 + 3 * (q75 - q25))
        assert found["quantization"]["extreme_outlier_percentage"] == pytest.approx(100 * outside.mean(), abs=1e-12)
        assert found["sparsity"]["sparsity_levels"]["threshold_0.01"] == pytest.approx(
            100 * (np.abs(x) <= 0.01).mean(), abs=1e-12
        )


def test_methods_are_chosen_by_name(model) -> None:
    assert {tuple(f) for f in netweight.scan(model).values()} == {("basic_stats",)}
    found = netweight.scan(model, methods=["tail", "sparsity"])
    assert {tuple(f) for f in found.values()} == {("sparsity", "tail")}
    with pytest.raises(OptionError, match=r"no method 'spectrum' \(did you mean 'spectral'\?\); there are basic_stats"):
        netweight.scan(model, methods=["spectrum"])
    with pytest.raises(OptionError, match="--methods: expected one or more"):
        netweight.scan(model, methods=[])


def test_weights_only_leaves_vectors_out(model) -> None:
    found = netweight.scan(model, weights_only=True)
    assert list(found) == [name for name in llama() if "norm" not in name]
    assert {s.reason for s in found.skipped} == {"not a weight matrix: left out, as asked"}
    assert found.to_dict().keys() == found.keys()  # what was asked for needs no reason in the file
    chosen = netweight.scan(model, exclude=("*q_proj*",))
    assert len(chosen.skipped) == 2
    assert chosen.to_dict().keys() == chosen.keys()


def test_what_is_no_weight_is_listed_with_its_reason(tmp_path) -> None:
    arrays = llama(1) | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
        "model.layers.0.mlp.qweight": np.ones((4, 4), np.int32),
        "lm_head.weight": normal((200, 48), "bfloat16", seed=1),
    }
    arrays["model.embed_tokens.weight"] = arrays["lm_head.weight"]
    found = netweight.scan(save(tmp_path / "m", arrays, CONFIG), exclude=["*.down_proj.*"])
    reasons = {s.name: s.reason for s in found.skipped}
    assert reasons == {
        "model.layers.0.self_attn.rotary_emb.inv_freq": "a buffer: computed by the model's code, not trained",
        "model.layers.0.mlp.qweight": "integer dtype I32: not a weight",
        "model.layers.0.mlp.down_proj.weight": "excluded by --exclude *.down_proj.*",
    }
    assert found.to_dict()["model.layers.0.mlp.qweight"] == {"skipped": "integer dtype I32: not a weight"}
    with pytest.raises(OptionError, match=r"no parameter of .* is left by --include nothing"):
        netweight.scan(tmp_path / "m", include=["nothing"])


def test_experts_and_fused_projections_are_matrices_of_their_own(tmp_path) -> None:
    stack = normal((3, 40, 24), seed=3)
    qkv = normal((48, 24), seed=4)
    arrays = {
        "model.layers.0.mlp.experts.gate_up_proj": stack,
        "model.layers.0.self_attn.qkv_proj.weight": qkv,
    }
    config = {"model_type": "phi3", "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    found = netweight.scan(save(tmp_path / "m", arrays, config), methods=["spectral"])
    experts = [f"model.layers.0.mlp.experts.gate_up_proj[{e}]" for e in range(3)]
    name = "model.layers.0.self_attn.qkv_proj.weight"
    parts = {f"{name}[q_proj]": qkv[:24], f"{name}[k_proj]": qkv[24:36], f"{name}[v_proj]": qkv[36:]}
    assert [n for n in found if n.endswith("_proj]")][-3:] == list(parts)
    for expected, matrix in [*zip(experts, stack, strict=True), (name, qkv), *parts.items()]:
        sigma = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        assert found[expected]["spectral"]["max_singular_value"] == pytest.approx(sigma[0], rel=1e-10)
        assert found[expected]["spectral"]["min_singular_value"] == pytest.approx(sigma[-1], rel=1e-6)
    roles = {row.name: row.parameter.role for row in found.rows}
    assert [roles[n] for n in (experts[0], name, *parts)] == ["moe_expert", "qkv", "q_proj", "k_proj", "v_proj"]
    whole = netweight.scan(tmp_path / "m", split=False)
    assert list(whole) == [*experts, name]


def test_gpt2_is_measured_as_it_is_stored_but_for_its_channels(tmp_path) -> None:
    w = normal((24, 72), seed=5)
    w[:, 7] = 0
    w[3] *= 100  # an input that is large: every output channel has it
    found = netweight.scan(save(tmp_path / "m", {"h.0.attn.c_attn.weight": w}, {"model_type": "gpt2"}), methods="all")
    row = found.rows[0]
    assert (row.rows, row.cols) == (24, 72)
    assert row.measures["sparsity"]["dead_columns"] == 1
    assert row.measures["sparsity"]["dead_rows"] == 0
    assert row.measures["sparsity"]["dead_columns_percentage"] == pytest.approx(100 / 72)
    x = w.astype(np.float64)
    scale = np.abs(x).max(axis=0, keepdims=True) / 127
    error = x - np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale
    relative = np.sqrt((error**2).sum() / (x**2).sum())
    assert row.measures["quantization"]["per_channel_int8_relative_error"] == pytest.approx(relative, rel=1e-5)
    assert list(found)[1:] == [f"h.0.attn.c_attn.weight[{p}]" for p in ("q_proj", "k_proj", "v_proj")]


def test_json_holds_null_and_a_reason_where_python_holds_infinity(tmp_path) -> None:
    w = normal((32, 16), seed=6)
    w[:, 3] = 0
    arrays = {"model.layers.0.mlp.up_proj.weight": w, "model.layers.1.mlp.up_proj.weight": np.zeros((8, 8), np.float32)}
    out = tmp_path / "scan.json"
    found = netweight.scan(save(tmp_path / "m", arrays), methods="all", output=out)
    name = "model.layers.0.mlp.up_proj.weight"
    assert found[name]["spectral"]["condition_number"] == math.inf
    assert found[name]["spectral"]["condition_number"] > 1e6
    read = json.loads(out.read_text(), parse_constant=lambda _: pytest.fail("NaN or Infinity in JSON"))
    assert read[name]["spectral"]["condition_number"] is None
    assert read[name]["spectral"]["singular"] is True
    assert read["model.layers.1.mlp.up_proj.weight"]["quantization"]["sqnr_db"] is None
    assert read["model.layers.1.mlp.up_proj.weight"]["quantization"]["sqnr_reason"]
    assert read == found.to_dict()
    json.dumps(found)  # a plain dict for everyone else


def test_csv_has_the_published_columns_sorted_by_layer(tmp_path, model) -> None:
    out = tmp_path / "scan.csv"
    netweight.scan(model, output=out, model_id="org/name", revision="main")
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0]) == [
        "model_path", "model_id", "revision", "param_name", "layer_index", "block_type", "shape", "rows", "cols",
        "design_rank", "actual_rank", "rank_ratio", "svd_90_percent_rank", "svd_90_percent_ratio", "mean", "std", "var",
        "min", "max", "sparsity", "dtype", "created_at",
    ] == [c.name for c in CSV_COLUMNS]  # fmt: skip
    assert [r["layer_index"] for r in rows] == ["0"] * 4 + ["1"] * 4 + [""]
    last = rows[-1]
    assert (last["param_name"], last["block_type"], last["shape"]) == (
        "model.embed_tokens.weight", "embedding", "[200, 48]",
    )  # fmt: skip
    assert (last["rows"], last["cols"], last["design_rank"], last["actual_rank"]) == ("200", "48", "48", "48")
    assert (last["model_path"], last["model_id"], last["revision"]) == (str(model), "org/name", "main")
    x = llama()["model.embed_tokens.weight"].astype(np.float64)
    assert float(last["var"]) == pytest.approx(x.var(), rel=1e-12)
    assert float(last["sparsity"]) == (np.abs(x) <= 1e-8).mean()


def test_parquet_holds_every_field_with_units_and_inputs(tmp_path, scanned, model) -> None:
    scanned.write(tmp_path / "scan.parquet")
    table = pq.read_table(tmp_path / "scan.parquet")
    assert table.column_names == [c.name for c in scanned.columns]
    assert table.column("spectral.condition_number").to_pylist() == pytest.approx(
        [f["spectral"]["condition_number"] for f in scanned.values()]
    )
    assert json.loads(table.schema.metadata[b"netweight.inputs"])[0]["path"] == str(model)
    assert table.schema.field("quantization.sqnr_db").metadata[b"unit"] == b"dB"
    levels = table.column("sparsity.sparsity_levels.threshold_0.0001").to_pylist()
    assert levels == [f["sparsity"]["sparsity_levels"]["threshold_0.0001"] for f in scanned.values()]
    frame = scanned.to_pandas()
    assert frame.shape == (len(scanned), len(scanned.columns))
    assert frame["role"].tolist() == scanned.to_polars()["role"].to_list()
    assert "model.embed_tokens.weight" in scanned._repr_html_()


def test_workers_do_not_change_the_numbers(model, scanned) -> None:
    for workers in (1, 3):
        other = netweight.scan(model, methods="all", workers=workers)
        for name, found in scanned.items():
            assert str(other[name]["quantization"]) == str(found["quantization"])
            assert str(other[name]["basic_stats"]) == str(found["basic_stats"])
            assert str(other[name]["sparsity"]) == str(found["sparsity"])
            assert other[name]["spectral"]["max_singular_value"] == pytest.approx(
                found["spectral"]["max_singular_value"], rel=1e-12
            )


def test_rank_k_says_what_it_does_not_know(tmp_path) -> None:
    w = normal((300, 200), seed=8)
    found = netweight.scan(save(tmp_path / "m", {"a.weight": w}), methods=["spectral"], rank_k=5)["a.weight"][
        "spectral"
    ]
    sigma = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    assert found["top_singular_values"] == pytest.approx(sigma[:5], rel=1e-6)
    assert math.isnan(found["condition_number"])
    assert found["spectrum_reason"]
    assert found["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-6)
    with pytest.raises(OptionError, match="--rank-k 0: expected 1 or more"):
        netweight.scan(tmp_path / "m", methods=["spectral"], rank_k=0)


def test_an_unreadable_tensor_does_not_stop_the_others(tmp_path, monkeypatch) -> None:
    from netweight.source.local import PreadFile

    folder = save(tmp_path / "m", llama(), CONFIG)
    name = "model.layers.0.mlp.up_proj.weight"
    with netweight.open(folder) as checkpoint:
        first, last = checkpoint[name].offset, checkpoint[name].offset + checkpoint[name].nbytes
    whole = PreadFile.read_into

    def broken(self, offset, out):
        if offset < last and offset + len(out) > first and len(out) > 8:
            raise OSError(5, "Input/output error")
        whole(self, offset, out)

    monkeypatch.setattr(PreadFile, "read_into", broken)
    found = netweight.scan(folder, methods="all", output=tmp_path / "scan.json")
    assert list(found) == [n for n in llama() if n != name]
    assert [s.name for s in found.failed] == [name]
    assert "Input/output error" in found.failed[0].reason
    assert "Input/output error" in json.loads((tmp_path / "scan.json").read_text())[name]["skipped"]


def test_where_results_may_go(tmp_path, model) -> None:
    with pytest.raises(OptionError, match=r"--output scan.txt: expected a name that ends in .json, .csv, .parquet"):
        netweight.scan(model, output="scan.txt")
    with pytest.raises(OutputError, match="lies in the model"):
        netweight.scan(model, output=model / "scan.json")
    with pytest.raises(OptionError, match="--resume: goes on with a run that has an output file"):
        netweight.scan(model, resume=True)
    (tmp_path / "scan.json").mkdir()
    with pytest.raises(OutputError, match="is a folder; expected a file"):
        netweight.scan(model, output=tmp_path / "scan.json")
    netweight.scan(model, output=tmp_path / "new" / "folder" / "scan.json")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["scan.json"]


def test_nothing_to_measure_is_an_empty_result(tmp_path) -> None:
    found = netweight.scan(save(tmp_path / "m", {"steps": np.ones(3, np.int64), "none": np.ones((0, 4), np.float32)}))
    assert list(found) == ["none"]
    assert found["none"]["basic_stats"]["flag"] == "empty"
    found = netweight.scan(tmp_path / "m", methods="all")
    assert math.isnan(found["none"]["spectral"]["condition_number"])


def test_float32_that_holds_bfloat16_alone_is_said(tmp_path) -> None:
    half = normal((400, 300), "bfloat16").astype(np.float32)
    whole = normal((400, 300), "float32", seed=1)
    small = normal((20, 30), "bfloat16").astype(np.float32)

    def notes(**arrays):
        return [note for note in netweight.scan(save(tmp_path / "m.safetensors", arrays)).notes if "bfloat16" in note]

    (note,) = notes(a=half, b=half + 0, small=small)
    assert note.startswith("all 2 float32 matrices of more than 65,536 elements hold values of bfloat16 alone")
    assert notes(a=half, b=whole)[0].startswith("1 of 2 float32 matrices")
    assert not notes(a=whole)
    assert not notes(a=half.astype(np.float64))
    assert not notes(a=normal((400, 300), "bfloat16"))
    assert not notes(a=np.zeros((400, 300), np.float32))
    one_off = half.copy()
    one_off[17, 3] += 1e-6
    assert not notes(a=one_off)
