"""What becomes of one model of a folder: kept, made anew, gathered, and where its own files go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pruned_models import GATHERED, LAYER, LAYERS, OUTSIDE, contents, every_kind, llama, run, save, without

from netweight.jobs.structure.many import structure_many

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


def test_another_description_of_slices_makes_it_anew(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    path = models / "SliceGPT_2000" / "Llama_0.25.json"
    path.write_text(path.read_text().replace("24", "23"))
    rows = run(models, base, tmp_path / "out")
    assert rows["SliceGPT_2000"]["status"] == "analysed"
    assert rows["Wanda_bin"]["status"] == "kept"
    assert any("[0] = 23, the tensors have 24" in note for note in rows["SliceGPT_2000"]["notes"])


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
    # an analysis of netweight's own goes below the output folder, leaves these where they are, and is gathered then
    run(models, None, tmp_path / "out")
    assert json.loads((place / "model_structure.json").read_text()) == entry
    assert run(models, None, tmp_path / "out", merge_results=True)["Magnitude_2000"]["total"] == TOTAL


def test_merging_keeps_the_base_and_what_has_no_weights_any_more(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    before = json.loads((tmp_path / "out" / "batch_analysis_results.json").read_text())
    (models / "Magnitude_2000" / "pruned_model" / "model.safetensors").unlink()
    rows = run(models, None, tmp_path / "out", merge_results=True)
    after = json.loads((tmp_path / "out" / "batch_analysis_results.json").read_text())
    assert after["base_model"] == before["base_model"] == str(base)
    assert (rows["Magnitude_2000"]["status"], rows["Magnitude_2000"]["type"]) == ("kept", "standard")
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == GATHERED
    assert structure_many(models, merge_results=True).base_layers == tuple(("", i) for i in range(LAYERS))


def test_merging_results_of_two_bases_names_none(tmp_path: Path, models: Path, base: Path) -> None:
    run(models, base, tmp_path / "out")
    lone = tmp_path / "lone"
    shutil.move(models / "Magnitude_2000", lone / "Magnitude_2000")
    structure_many(lone, save(tmp_path / "other", llama(LAYERS + 1), LAYERS + 1))
    shutil.move(lone / "Magnitude_2000", models / "Magnitude_2000")
    gathered = structure_many(models, merge_results=True)
    assert (gathered.base_ref, gathered.base_layers) == (None, ())
    assert {model.status for model in gathered.models} == {"kept", "skipped"}


def test_files_of_a_model_whose_folder_takes_none(tmp_path: Path, models: Path, base: Path) -> None:
    """They go below the output folder, and are kept and gathered from there."""
    in_the_way = models / "Wanda_bin" / "analysis"
    in_the_way.write_text("in the way")
    row = run(models, base, tmp_path / "out")["Wanda_bin"]
    place = tmp_path / "out" / "Wanda_bin" / "analysis"
    assert (row["status"], row["analysis"]) == ("analysed", str(place))
    assert f"its own files are in {place}: {in_the_way}: is not a folder" in row["notes"]
    assert (place / "model_comparison.json").exists()
    again = run(models, base, tmp_path / "out")
    assert {name: each["status"] for name, each in again.items() if each["type"] != "none"} == dict.fromkeys(
        ("Magnitude_2000", "ShortGPT_remove_2", "SliceGPT_2000", "Wanda_bin"), "kept"
    )
    assert (place / "model_comparison.json").exists()
    assert run(models, None, tmp_path / "out", merge_results=True)["Wanda_bin"]["total"] == TOTAL
    in_the_way.unlink()
    assert run(models, base, tmp_path / "out", reanalyze=True)["Wanda_bin"]["analysis"] == str(in_the_way)


def test_files_that_can_go_nowhere(models: Path, base: Path) -> None:
    (models / "Wanda_bin" / "analysis").write_text("in the way")
    row = next(row for row in structure_many(models, base).models if row.name == "Wanda_bin")
    assert row.status == "analysed"
    assert row.elsewhere == (
        f"its own files were not written: {models / 'Wanda_bin' / 'analysis'}: is not a folder;"
        " choose another output folder"
    )


def test_a_file_of_somebody_else_stays(tmp_path: Path, models: Path, base: Path) -> None:
    (models / "Wanda_bin" / "analysis").mkdir()
    (models / "Wanda_bin" / "analysis" / "notes.txt").write_text("mine")
    run(models, base, tmp_path / "out")
    assert (models / "Wanda_bin" / "analysis" / "notes.txt").read_text() == "mine"
