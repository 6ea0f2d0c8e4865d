"""A folder of models: scanned, classified, analysed, kept, gathered; broken ones in a line each."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pruned_models import HIDDEN, LAYER, OUTSIDE, llama, save, slice_json, sliced_llama, without, zeroed

from netweight.checkpoint.tensor import Tensor
from netweight.errors import Interrupted, JobError, ModelNotFoundError, OptionError, OutputError
from netweight.jobs.structure_folder import find_models
from netweight.jobs.structure_many import structure_many
from netweight.run.progress import Silent

LAYERS = 6
TOTAL = OUTSIDE + LAYERS * LAYER
GATHERED = [
    "batch_analysis_results.json", "models_summary.csv", "models_summary.json", "parameters_by_part.png",
    "reduction_by_layer.png", "structure.csv", "structure.parquet",
]  # fmt: skip


@pytest.fixture
def arrays() -> dict[str, Any]:
    return llama(LAYERS)


@pytest.fixture
def base(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return save(tmp_path / "Llama-base", arrays, LAYERS)


@pytest.fixture
def models(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    """One of every kind, in the layouts that the tools leave."""
    folder = tmp_path / "baselines"
    save(folder / "Magnitude_2000" / "pruned_model", zeroed(arrays, 0.5), LAYERS)
    save(folder / "ShortGPT_remove_2", without(arrays, LAYERS, [1, 4]), LAYERS)
    (folder / "Wanda_bin").mkdir()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, folder / "Wanda_bin" / "pruned_model.bin")
    dims = [
        {"attention_input": 24, "attention_output": 24, "mlp_input": 24, "mlp_output": 24 if i < 5 else HIDDEN}
        for i in range(LAYERS)
    ]
    (folder / "SliceGPT_2000").mkdir()
    torch.save(sliced_llama(LAYERS, dims, 24), folder / "SliceGPT_2000" / "Llama_0.25.pt")
    (folder / "SliceGPT_2000" / "Llama_0.25.json").write_text(json.dumps(slice_json(dims, 24)))
    (folder / "only_results").mkdir()
    (folder / "only_results" / "eval.json").write_text("{}")
    return folder


def run(models: Path, base: Path | None, out: Path, **more: Any) -> dict[str, Any]:
    """What batch_analysis_results.json holds, by name."""
    structure_many(models, base, out, **more)
    found = json.loads((out / "batch_analysis_results.json").read_text())
    return {row["name"]: row for row in found["results"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_kind(tmp_path: Path, models: Path, base: Path) -> None:
    rows = run(models, base, tmp_path / "out")
    assert {name: (row["type"], row["status"]) for name, row in rows.items()} == {
        "Magnitude_2000": ("standard", "analysed"),
        "ShortGPT_remove_2": ("standard", "analysed"),
        "SliceGPT_2000": ("slicegpt", "analysed"),
        "Wanda_bin": ("bin", "analysed"),
        "only_results": ("none", "skipped"),
    }
    assert rows["only_results"]["error"] == "no model files"
    assert rows["ShortGPT_remove_2"]["removed"] == [1, 4]
    for name in ("Magnitude_2000", "ShortGPT_remove_2", "SliceGPT_2000", "Wanda_bin"):
        place = models / name / "analysis"
        assert Path(rows[name]["analysis"]) == place
        assert sorted(p.name for p in place.iterdir()) == [
            ".netweight.json", "model_comparison.json", "model_structure.json", "structure_summary.txt",
        ]  # fmt: skip
        entry = json.loads((place / "model_structure.json").read_text())
        assert entry["model_name"] == name
        assert json.loads((place / "model_comparison.json").read_text())["original_name"] == "Llama-base"
    assert not (models / "only_results" / "analysis").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == GATHERED
    heads = json.loads((models / "Wanda_bin" / "analysis" / "model_structure.json").read_text())["layers"][0]
    assert heads["attention"]["num_heads"] == 4  # from the base: this folder has no config


def test_the_summary(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "models_summary.json").read_text())
    assert list(found)[:3] == ["timestamp", "models_dir", "models"]
    assert found["models_dir"] == str(models)
    assert len(found["timestamp"]) == len("2025-11-27T16:30:00")
    row = next(row for row in found["models"] if row["name"] == "ShortGPT_remove_2")
    assert {k: row[k] for k in list(row)[:7]} == {
        "name": "ShortGPT_remove_2",
        "total_params": TOTAL - 2 * LAYER,
        "num_layers": LAYERS - 2,
        "layer_params": 4 * LAYER,
        "embedding_params": 2048,
        "lm_head_params": 2048,
        "pruning": {
            "original_params": TOTAL,
            "pruned_params": TOTAL - 2 * LAYER,
            "reduction_ratio": 2 * LAYER / TOTAL,
        },
    }
    assert found["skipped"] == [{"name": "only_results", "reason": "no model files"}]
    table = pq.read_table(tmp_path / "out" / "structure.parquet").to_pylist()
    short = [row for row in table if row["model"] == "ShortGPT_remove_2"]
    assert [row["base_layer_idx"] for row in short] == [0, 2, 3, 5, 1, 4]
    assert [row["total"] for row in short] == [LAYER] * 4 + [0, 0]
    assert [row["layer_idx"] for row in short] == [0, 1, 2, 3, None, None]
    lines = (tmp_path / "out" / "models_summary.csv").read_text().splitlines()
    assert lines[0].startswith("name,type,status,total_params,num_layers,layer_params")
    assert len(lines) == 6
    assert len((tmp_path / "out" / "structure.csv").read_text().splitlines()) == 1 + len(table)


def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, models: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netweight.jobs.structure_many.datetime", Fixed)
    found = []
    for workers in (1, 4):
        structure_many(models, base, tmp_path / "out", reanalyze=True, workers=workers)
        found.append((contents(models), contents(tmp_path / "out")))
    assert found[0] == found[1]


class Fixed:
    """A clock that stands still."""

    @classmethod
    def now(cls) -> Any:
        import datetime as dt

        return dt.datetime(2025, 11, 27, 16, 30, tzinfo=dt.UTC)


def test_done_models_are_kept(tmp_path: Path, models: Path, base: Path, arrays: dict[str, Any]) -> None:
    run(models, base, tmp_path / "out")
    before = contents(models)
    times = {p: p.stat().st_mtime_ns for p in models.rglob("model_structure.json")}
    rows = run(models, base, tmp_path / "out")
    assert {row["status"] for row in rows.values()} == {"kept", "skipped"}
    assert contents(models) == before
    assert {p: p.stat().st_mtime_ns for p in models.rglob("model_structure.json")} == times
    save(models / "ShortGPT_remove_2", without(arrays, LAYERS, [2]), LAYERS)
    rows = run(models, base, tmp_path / "out")
    assert rows["ShortGPT_remove_2"]["status"] == "analysed"
    assert rows["ShortGPT_remove_2"]["removed"] == [2]
    assert {row["status"] for name, row in rows.items() if name[0] in "MW"} == {"kept"}
    assert {row["status"] for row in run(models, base, tmp_path / "out", reanalyze=True).values()} == {
        "analysed",
        "skipped",
    }


def test_another_base_or_option_makes_them_anew(
    tmp_path: Path, models: Path, base: Path, arrays: dict[str, Any]
) -> None:
    run(models, base, tmp_path / "out")
    other = save(tmp_path / "other", llama(LAYERS, seed=3), LAYERS)
    assert run(models, other, tmp_path / "out")["Wanda_bin"]["status"] == "analysed"
    assert run(models, other, tmp_path / "out", count_tied_twice=True)["Wanda_bin"]["status"] == "analysed"
    rows = run(models, other, tmp_path / "out", count_tied_twice=True, deep=True)
    assert rows["Magnitude_2000"]["status"] == "analysed"
    assert rows["Magnitude_2000"]["zero_share"] > 0.3
    rows = run(models, other, tmp_path / "out", count_tied_twice=True)
    assert rows["Magnitude_2000"]["status"] == "kept"
    assert rows["Magnitude_2000"]["zero_share"] > 0.3


def test_a_damaged_earlier_result_is_made_anew(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    (models / "Wanda_bin" / "analysis" / "model_structure.json").write_text('{"source": 3')
    assert run(models, base, tmp_path / "out")["Wanda_bin"]["status"] == "analysed"


def test_merging_only_gathers(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    (models / "Wanda_bin" / "pruned_model.bin").write_bytes(b"gone")  # not looked at
    shutil.rmtree(models / "SliceGPT_2000" / "analysis")
    (models / "ShortGPT_remove_2" / "analysis" / "model_structure.json").write_text('{"total_params": "many"}')
    rows = run(models, None, tmp_path / "merged", merge_results=True)
    assert {name: row["status"] for name, row in rows.items()} == {
        "Magnitude_2000": "kept",
        "ShortGPT_remove_2": "failed",
        "SliceGPT_2000": "skipped",
        "Wanda_bin": "kept",
        "only_results": "skipped",
    }
    assert rows["SliceGPT_2000"]["error"] == "not analysed yet: nothing to gather"
    assert rows["ShortGPT_remove_2"]["error"] == (
        f"{models / 'ShortGPT_remove_2' / 'analysis'}: is no structure analysis: no field 'layer_summary';"
        " run again with --reanalyze"
    )
    assert rows["Wanda_bin"]["original"] == TOTAL


def test_merging_takes_the_files_of_the_tool_before(tmp_path: Path, models: Path) -> None:
    """Only the fields of the reference, as its documents show them."""
    entry = {
        "model_name": "Magnitude_2000", "total_params": 100, "embedding_params": 10, "lm_head_params": 10,
        "layer_summary": {"num_layers": 1, "total_layer_params": 80},
        "layers": [
            {
                "layer_idx": 0, "total": 80,
                "attention": {
                    "type": "LlamaAttention", "total": 30, "q_proj": 10, "k_proj": 5, "v_proj": 5, "o_proj": 10,
                    "num_heads": 32, "num_kv_heads": 8,
                },
                "mlp": {
                    "type": "LlamaMLP", "total": 48, "gate_proj": 16, "up_proj": 16, "down_proj": 16,
                    "intermediate_size": 14336,
                },
                "norm": 2, "is_zero_layer": False,
            }
        ],
    }  # fmt: skip
    four = {"original": 160, "pruned": 80, "reduced": 80, "reduction_ratio": 0.5}
    comparison = {
        "original_name": "L", "pruned_name": "M", "total_params": four, "layer_params": four,
        "layers": [{"layer_idx": 0, "total": four, "attention": {}, "mlp": {}, "is_zero_layer": False}],
    }  # fmt: skip
    place = models / "Magnitude_2000" / "analysis"
    place.mkdir()
    (place / "model_structure.json").write_text(json.dumps(entry))
    (place / "model_comparison.json").write_text(json.dumps(comparison))
    row = run(models, None, tmp_path / "out", merge_results=True)["Magnitude_2000"]
    assert (row["total"], row["original"], row["reduction_ratio"]) == (100, 160, 0.5)
    assert row["attention"] is None
    line = (tmp_path / "out" / "structure.csv").read_text().splitlines()[1]
    assert line == "Magnitude_2000,,0,0,,80,30,48,2,0,32,8,14336,160,0.5,"


def test_broken_ones_are_a_line_each_and_the_others_are_there(
    tmp_path: Path, models: Path, base: Path, arrays: dict[str, Any]
) -> None:
    whole = (base / "model.safetensors").read_bytes()
    for name, data in (
        ("truncated", whole[:-7]),
        ("no_header", whole[:5]),
        ("wrong_json", b"\x08" + bytes(7) + b"{nonsen}"),
    ):
        (models / name).mkdir()
        (models / name / "model.safetensors").write_bytes(data)
    (models / "shards").mkdir()
    (models / "shards" / "model-00001-of-00002.safetensors").write_bytes(whole)
    (models / "bad_pickle").mkdir()
    (models / "bad_pickle" / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.")
    (models / "self").symlink_to(models / "self")
    (models / "nowhere").symlink_to(tmp_path / "not-there")
    (models / "up").symlink_to(models)
    (models / "again").symlink_to(models / "Magnitude_2000")
    bad_config = save(models / "bad_config", arrays, None)
    (bad_config / "config.json").write_text("{")
    rows = run(models, base, tmp_path / "out")
    failed = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert sorted(failed) == ["bad_pickle", "no_header", "nowhere", "self", "shards", "truncated", "wrong_json"]
    assert all(error and "\n" not in error for error in failed.values())
    assert failed["self"] == f"{models / 'self'}: cannot be opened: a link that leads to itself"
    assert failed["nowhere"] == f"{models / 'nowhere'}: cannot be opened: No such file or directory"
    assert "1 of 2 shards are missing: 'model-00002-of-00002.safetensors'" in failed["shards"]
    assert failed["truncated"].startswith(f"{models / 'truncated' / 'model.safetensors'}: ")
    assert rows["up"]["error"] == "the same folder as baselines: left out"
    assert rows["again"]["error"] == "the same folder as Magnitude_2000: left out"
    assert rows["Magnitude_2000"]["status"] == rows["bad_config"]["status"] == "analysed"
    assert any("is not valid JSON" in note for note in rows["bad_config"]["notes"])
    good = {name for name, row in rows.items() if row["status"] == "analysed"}
    assert good == {"Magnitude_2000", "ShortGPT_remove_2", "SliceGPT_2000", "Wanda_bin", "bad_config"}
    summary = json.loads((tmp_path / "out" / "models_summary.json").read_text())
    assert {row["name"] for row in summary["models"]} == good
    assert {row["name"] for row in summary["failed"]} == failed.keys()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="permissions do not bind this user")
def test_a_folder_without_permission(tmp_path: Path, models: Path, base: Path) -> None:
    (models / "Wanda_bin").chmod(0)
    try:
        rows = run(models, base, tmp_path / "out")
    finally:
        (models / "Wanda_bin").chmod(stat.S_IRWXU)
    assert rows["Wanda_bin"]["error"] == f"{models / 'Wanda_bin'}: cannot be listed: Permission denied"


def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, models: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refusing(path: Any = ".") -> Any:
        if str(path).endswith("Wanda_bin"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("netweight.jobs.structure_folder.os.scandir", refusing)
    rows = run(models, base, tmp_path / "out")
    assert rows["Wanda_bin"]["error"] == f"{models / 'Wanda_bin'}: cannot be listed: Permission denied"
    assert rows["Magnitude_2000"]["status"] == "analysed"


def test_models_in_folders_below(tmp_path: Path, arrays: dict[str, Any]) -> None:
    for removed in (1, 2):
        save(tmp_path / "ShortGPT" / f"remove_{removed}", without(arrays, LAYERS, range(removed)), LAYERS)
    (tmp_path / "slices").mkdir()
    for share in ("0.2", "0.3"):
        dims = [dict.fromkeys(("attention_input", "attention_output", "mlp_input", "mlp_output"), 24)] * 2
        torch.save(sliced_llama(2, dims, 24), tmp_path / "slices" / f"L_{share}.pt")
        (tmp_path / "slices" / f"L_{share}.json").write_text(json.dumps(slice_json(dims, 24)))
    (tmp_path / "loose.safetensors").write_bytes(
        (tmp_path / "ShortGPT" / "remove_1" / "model.safetensors").read_bytes()
    )
    found = {each.name: (each.kind, each.analysis) for each in find_models(tmp_path)}
    assert found == {
        "ShortGPT/remove_1": ("standard", tmp_path / "ShortGPT" / "remove_1" / "analysis"),
        "ShortGPT/remove_2": ("standard", tmp_path / "ShortGPT" / "remove_2" / "analysis"),
        "slices/L_0.2": ("slicegpt", tmp_path / "slices" / "L_0.2.analysis"),
        "slices/L_0.3": ("slicegpt", tmp_path / "slices" / "L_0.3.analysis"),
        "loose": ("standard", tmp_path / "loose.analysis"),
    }
    result = structure_many(tmp_path)
    assert {model.status for model in result.models} == {"analysed"}
    assert {each.name for each in find_models(tmp_path)} == found.keys()  # results are no models
    assert {model.status for model in structure_many(tmp_path).models} == {"kept"}


def test_a_read_only_place_is_said(tmp_path: Path, models: Path, base: Path) -> None:
    (models / "Wanda_bin" / "analysis").write_text("in the way")
    row = run(models, base, tmp_path / "out")["Wanda_bin"]
    assert row["status"] == "analysed"
    assert any(note.startswith("its own files were not written: ") for note in row["notes"])


def test_the_output_folder_may_lie_among_the_models(models: Path, base: Path) -> None:
    rows = run(models, base, models / "results")
    assert "results" not in rows
    again = run(models, base, models / "results")
    assert {name: row["type"] for name, row in again.items()} == {name: row["type"] for name, row in rows.items()}


def test_a_file_of_somebody_else_stays(tmp_path: Path, models: Path, base: Path) -> None:
    (models / "Wanda_bin" / "analysis").mkdir()
    (models / "Wanda_bin" / "analysis" / "notes.txt").write_text("mine")
    run(models, base, tmp_path / "out")
    assert (models / "Wanda_bin" / "analysis" / "notes.txt").read_text() == "mine"


def test_what_ends_the_run(tmp_path: Path, models: Path, base: Path) -> None:
    with pytest.raises(OptionError, match=r"^--models-dir .*nothing: is not a folder; give the folder of the models$"):
        structure_many(tmp_path / "nothing", base)
    with pytest.raises(ModelNotFoundError):
        structure_many(models, tmp_path / "nothing")
    lone = tmp_path / "lone"
    (lone / "m").mkdir(parents=True)
    (lone / "m" / "model.safetensors").write_bytes(b"")
    with pytest.raises(JobError, match=r"none of its 1 models could be analysed; the first: m: .*model\.safetensors"):
        structure_many(lone, base, tmp_path / "out")
    assert (tmp_path / "out" / "batch_analysis_results.json").exists()


def test_a_place_that_cannot_take_results_is_found_first(tmp_path: Path, models: Path, base: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file: is not a folder; choose another output folder$"):
        structure_many(models, base, tmp_path / "file")
    with pytest.raises(OutputError, match="is an input model; choose another output folder"):
        structure_many(models, base, models / "Wanda_bin")
    assert list(models.rglob("model_structure.json")) == []


def test_an_interrupted_run_keeps_what_is_done(
    tmp_path: Path, models: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(Silent):
        def advance(self, tensors: int, nbytes: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^stopped; the models that were done are kept; run again to go on$"):
        structure_many(models, base, tmp_path / "out", workers=1, progress=Stopping())
    assert not (tmp_path / "out").exists()
    done = {path.parent.parent.name for path in models.rglob("model_structure.json")}
    rows = run(models, base, tmp_path / "out")
    assert {name for name, row in rows.items() if row["status"] == "kept"} == done
    assert len(done) >= 1


def test_headers_only(tmp_path: Path, models: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor data is read where layers were removed, and nowhere else."""
    read = []
    real = Tensor.read_into

    def spy(self: Tensor, start: int, out: memoryview) -> None:
        read.append((self.name, len(out)))
        real(self, start, out)

    monkeypatch.setattr(Tensor, "read_into", spy)
    shutil.rmtree(models / "ShortGPT_remove_2")
    structure_many(models, base)
    assert read == []
    save(models / "short", without(llama(LAYERS), LAYERS, [1]), LAYERS)
    structure_many(models, base)
    assert 0 < sum(size for _, size in read) < (2 * LAYERS - 1) * 3 * 12 * 2048


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = structure_many(tmp_path / "empty", None, tmp_path / "out")
    assert result.models == ()
    assert json.loads((tmp_path / "out" / "models_summary.json").read_text())["models"] == []


def test_the_result_is_a_table(models: Path, base: Path) -> None:
    result = structure_many(models, base)
    assert result.to_pandas()["model"].nunique() == 4
    assert result.to_polars().shape[1] == 16
    assert "<table>" in result._repr_html_()
    assert repr(result) == f"<Structures of {str(models)!r}: 4 models, 1 without a result>"
