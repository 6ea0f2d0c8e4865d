"""A folder of models: analysed, gathered, summarised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pruned_models import GATHERED, LAYER, LAYERS, OUTSIDE, contents, every_kind, llama, run, save, without

from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.errors import Interrupted, JobError, ModelNotFoundError, OptionError, OutputError
from netweight.jobs.structure.job import structure
from netweight.jobs.structure.many import structure_many
from netweight.run.progress import Silent

TOTAL = OUTSIDE + LAYERS * LAYER


@pytest.fixture
def arrays() -> dict[str, Any]:
    return llama(LAYERS)


@pytest.fixture
def base(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return save(tmp_path / "Llama-base", arrays, LAYERS)


@pytest.fixture
def models(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return every_kind(tmp_path / "baselines", arrays, LAYERS)


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
    monkeypatch.setattr("netweight.jobs.structure.many.datetime", Fixed)
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


def test_one_model_into_the_folder_of_the_gathered_results(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    structure(models / "Wanda_bin", base).write(tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".")
    assert names == sorted([*GATHERED, "model_comparison.json", "model_structure.json", "structure_summary.txt"])


def test_the_output_folder_may_lie_among_the_models(models: Path, base: Path) -> None:
    rows = run(models, base, models / "results")
    assert "results" not in rows
    again = run(models, base, models / "results")
    assert {name: row["type"] for name, row in again.items()} == {name: row["type"] for name, row in rows.items()}


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
    """Of tensor data, the first weights of each layer are read; more where layers were removed."""
    read = []
    real = StoredTensor.read_into

    def spy(self: StoredTensor, start: int, out: memoryview) -> None:
        read.append((self.name, len(out)))
        real(self, start, out)

    monkeypatch.setattr(StoredTensor, "read_into", spy)
    for name in ("ShortGPT_remove_2", "SliceGPT_2000"):  # the latter is of zeros, and read whole
        shutil.rmtree(models / name)
    structure_many(models, base)
    assert 0 < sum(size for _, size in read) <= 4 * LAYERS * 4 * 512
    read.clear()
    save(models / "short", without(llama(LAYERS), LAYERS, [1]), LAYERS)
    structure_many(models, base)
    assert 0 < sum(size for _, size in read) < (2 * LAYERS - 1) * 3 * 12 * 2048


def test_the_result_is_a_table(models: Path, base: Path) -> None:
    result = structure_many(models, base)
    assert result.to_pandas()["model"].nunique() == 4
    assert result.to_polars().shape[1] == 16
    assert "<table>" in result._repr_html_()
    assert repr(result) == f"<Structures of {str(models)!r}: 4 models, 1 without a result>"
