"""`delta` and `compare` say what a fine-tune is: models whose kind is known, and the same word whoever computes it."""

from __future__ import annotations

import json

import fine_tunes as ft
import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_gpus import fake_gpus
from far_executor import FarExecutor
from task_vectors import netweight as program
from task_vectors import read_rows, save, strict_json, tree

import netweight
from netweight.errors import ReadError
from netweight.measures.update import COLUMNS
from netweight.passes import samples


def grown(model):
    """Eight rows more in both vocabularies."""
    return {
        name: np.concatenate([w, w[:8]]) if name.startswith(("model.embed", "lm_head")) else w
        for name, w in model.items()
    }


def fine_tunes(model):
    """{name: (its tensors, the word, its rank, what is said)}."""
    linear = ft.LINEAR
    lora = ft.changed(model, ft.lora(8), "q_proj", "v_proj")
    return {
        "same": (model, "identical", None, "every value is the same"),
        "grown": (grown(model), "identical", None, "every value is the same where compared ("),
        "lora": (lora, "adapter-like", 8, "rank 8 on q_proj, v_proj (2 of 7 matrices of a layer); "),
        "lora-grown": (grown(lora), "adapter-like", 8, "% of the base, "),
        "lora-all": (ft.changed(model, ft.lora(16), *linear), "adapter-like", 16, "(7 of 7 matrices of a layer)"),
        "lora-head": (
            ft.changed(ft.changed(model, ft.lora(4), *linear), ft.noise(), "lm_head"),
            "adapter-like", 4, ", and lm_head changed too; ",
        ),
        "full": (ft.changed(model, ft.noise(), ""), "full", None, "all tensors changed, effective rank "),
        "decaying": (ft.changed(model, ft.power_law(0.7), ""), "full", None, "all tensors changed, "),
        "last": (ft.changed(model, ft.noise(), "layers.3."), "full", None, "9 of 39 tensors in layer_3 changed"),
        "masked": (ft.changed(model, ft.masked(0.1), *linear), "sparse", None, "% of the values of changed matrices"),
        "pruned": (ft.changed(model, ft.pruned(0.5), *linear), "pruned", None, "matrices became zero"),
        "scaled": (ft.changed(model, ft.times(0.9), ""), "scaled", None, "the base's values times 0.9; "),
        "int4": (ft.changed(model, ft.int4, *linear), "quantised", None, "a grid of 4 bits or fewer"),
        "embed": (ft.changed(model, ft.noise(), "embed"), "one module", None, "only embedding changed"),
        "norms": (ft.changed(model, ft.noise(), "norm"), "one module", None, "only norm changed"),
        "mixed": (
            ft.changed(ft.changed(model, ft.lora(4), "q_proj"), ft.noise(), "gate_proj"),
            "undecided", None, "low rank on q_proj; full on gate_proj",
        ),
    }  # fmt: skip


@pytest.fixture(scope="module", params=list(ft.TYPES))
def models(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    base = ft.base(request.param)
    save(folder / "base", base)
    made = fine_tunes(base)
    for name, (tensors, *_) in made.items():
        save(folder / name, tensors)
    return folder, made


def test_delta_says_what_each_is(models):
    folder, made = models
    result = netweight.delta(folder / "base", [folder / name for name in made])
    for model in result.models:
        _, word, rank, said = made[model.name]
        assert (model.name, model.kind.word, model.kind.rank) == (model.name, word, rank), str(model.kind)
        assert said in model.kind.reason
        assert model.summary["kind"] == model.kind.to_dict()


def test_compare_says_the_same(models):
    folder, made = models
    deltas = netweight.delta(folder / "base", [folder / name for name in made])
    for model in deltas.models:
        kind = netweight.compare(folder / "base", folder / model.name).kind
        expected = model.kind.reason.replace("of the base", "of A").replace("of the model", "of B")
        assert (kind.word, kind.reason, kind.rank) == (model.kind.word, expected, model.kind.rank)
        assert kind.modules == model.kind.modules


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A base and four fine-tunes in bfloat16."""
    folder = tmp_path_factory.mktemp("four")
    base = ft.base("BF16")
    made = fine_tunes(base)
    return [save(folder / "base", base), *(save(folder / n, made[n][0]) for n in ("lora", "full", "masked", "last"))]


def test_any_number_of_workers_and_any_machine(four, tmp_path, monkeypatch):
    netweight.delta(four[0], four[1:], tmp_path / "one", workers=1)
    netweight.delta(four[0], four[1:], tmp_path / "seven", workers=7)
    netweight.delta(four[0], four[1:], tmp_path / "far", executor=FarExecutor())
    expected = tree(tmp_path / "one")
    assert tree(tmp_path / "seven") == expected
    assert tree(tmp_path / "far") == expected
    words = [strict_json(expected[f"{n}/summary.json"])["kind"]["word"] for n in ("lora", "full", "masked", "last")]
    assert words == ["adapter-like", "full", "sparse", "full"]
    fake_gpus(monkeypatch)
    result = netweight.delta(four[0], four[1:], multi_gpu=True)
    assert result.device != "cpu"
    assert [m.kind.word for m in result.models] == words


def test_a_resumed_run_gives_the_same_bytes(four, tmp_path, monkeypatch):
    netweight.delta(four[0], four[1:], tmp_path / "whole")

    def failing(a, b, dtype):
        raise ReadError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(samples, "block_of", failing)
        with pytest.raises(ReadError, match="the disk is gone"):
            netweight.delta(four[0], four[1:], tmp_path / "out")
    assert not (tmp_path / "out" / "delta.parquet").exists()
    netweight.delta(four[0], four[1:], tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_cannot_be_read_is_listed_by_compare(four, monkeypatch):
    def failing(a, b, dtype):
        raise ReadError("the disk is gone")

    monkeypatch.setattr(samples, "block_of", failing)
    result = netweight.compare(four[0], four[1])
    assert {s.reason for s in result.failed} == {"the disk is gone"}
    assert result.kind.word == "undecided"


def test_columns(four, tmp_path):
    result = netweight.delta(four[0], four[1:2], tmp_path / "out")
    stored = pq.read_table(tmp_path / "out" / "delta.parquet")
    assert json.loads(stored.schema.metadata[b"netweight.kinds"]) == {"lora": result.models[0].kind.to_dict()}
    rows = stored.to_pylist()
    looked_at = [row for row in rows if row["update_form"]]
    assert {(row["update_form"], row["update_rank"]) for row in looked_at} == {("low rank", 8)}
    assert len(looked_at) == result.models[0].kind.looked_at == 6
    assert all(row[c.name] is None for row in rows if not row["update_form"] for c in COLUMNS)
    assert "update_form" not in next(iter(read_rows(tmp_path / "out" / "lora" / "per_param_stats.csv").values()))
    compared = netweight.compare(four[0], four[1])
    compared.write(tmp_path / "compared.parquet")
    table = pq.read_table(tmp_path / "compared.parquet")
    assert [row["update_rank"] for row in table.to_pylist() if row["update_form"]] == 6 * [8]
    assert json.loads(table.schema.metadata[b"netweight.kind"])["word"] == "adapter-like"
    assert compared.to_dict()["kind"]["rank"] == 8


class _Counted:
    """Progress that adds up."""

    def __init__(self):
        self.planned = self.done = (0, 0)

    def start(self, tensors, nbytes, done_tensors=0, done_bytes=0):
        self.planned, self.done = (tensors, nbytes), (done_tensors, done_bytes)

    def advance(self, tensors, nbytes):
        assert tensors >= 0
        assert nbytes >= 0
        self.done = self.done[0] + tensors, self.done[1] + nbytes

    def note(self, text):
        pass

    def stop(self):
        pass


@pytest.mark.parametrize("number", [1, 2, 4])
def test_progress_ends_where_it_was_to_end(four, number):
    progress = _Counted()
    netweight.delta(four[0], four[1 : 1 + number], progress=progress)
    assert progress.done == progress.planned
    netweight.compare(four[0], four[number], progress=progress)
    assert progress.done == progress.planned


def test_what_the_terminal_shows(four, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = program("delta", "--base", four[0], "--models", *four[1:3], "--outdir", tmp_path / "o", "--verbose").stdout
    assert "lora: adapter-like: rank 8 on q_proj, v_proj (2 of 7 matrices of a layer)" in " ".join(out.split())
    assert "6 of 8 changed matrices were looked at:" in out
    assert any(line.split()[:4] == ["q_proj", "4", "of", "4"] and "3 low rank" in line for line in out.splitlines())
    assert max(len(line) for line in out.splitlines() if not line.startswith(("note", "written"))) <= 80
    out = program("compare", four[0], four[1]).stdout
    assert "B is" in out
    assert "adapter-like: rank 8 on q_proj, v_proj" in " ".join(out.split())
    plan = program("delta", "--base", four[0], "--models", *four[1:3], "--dry-run").stdout
    (line,) = [line for line in plan.splitlines() if line.startswith("to read")]
    assert ", and up to " in line
    assert line.endswith("of 30 matrices once more")
    planned = strict_json(program("compare", four[0], four[1], "--dry-run", "--format", "json").stdout)
    assert planned["read_again_at_most"]["matrices"] == 23


def test_a_model_of_its_own_base_and_a_quantised_one(tmp_path):
    """A table of int8 codes with scales, as compressed-tensors stores it, is told by how it is stored."""
    base = ft.base("BF16")
    name = "model.layers.0.mlp.up_proj.weight"
    w = base[name].astype(np.float32)
    scale = np.abs(w).max(axis=1, keepdims=True) / 127
    quantised = {n: v for n, v in base.items() if n != name}
    quantised[name] = np.rint(w / scale).astype(np.int8)
    quantised[f"{name}_scale"] = scale.astype(np.float32)
    config = {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
                }
            },
        }
    }
    paths = [save(tmp_path / "base", base), save(tmp_path / "int8", quantised, config)]
    result = netweight.compare(*paths)
    assert result.quantisation is not None
    assert result.kind.word == "quantised"
    assert "whose errors hide what else was changed" in result.kind.reason
    back = netweight.compare(paths[1], paths[0])
    assert back.kind.word == "undecided"
