"""The models of a folder: found, named, classified; broken ones in a line each."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from pruned_models import LAYERS, every_kind, llama, run, save, slice_json, sliced_llama, without

from netweight.errors import OptionError
from netweight.jobs.structure.folder import find_models
from netweight.jobs.structure.many import structure_many


@pytest.fixture
def arrays() -> dict[str, Any]:
    return llama(LAYERS)


@pytest.fixture
def base(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return save(tmp_path / "Llama-base", arrays, LAYERS)


@pytest.fixture
def models(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return every_kind(tmp_path / "baselines", arrays, LAYERS)


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
    assert failed["nowhere"] == f"{models / 'nowhere'}: cannot be opened: {os.strerror(errno.ENOENT)}"
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
    assert rows["Wanda_bin"]["error"] == f"{models / 'Wanda_bin'}: cannot be listed: {os.strerror(errno.EACCES)}"


def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, models: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refusing(path: Any = ".") -> Any:
        if str(path).endswith("Wanda_bin"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("netweight.jobs.structure.folder.os.scandir", refusing)
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


def test_names_that_would_be_the_same(tmp_path: Path, arrays: dict[str, Any]) -> None:
    whole = (save(tmp_path / "models" / "loose", arrays, LAYERS) / "model.safetensors").read_bytes()
    (tmp_path / "models" / "loose.safetensors").write_bytes(whole)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "models" / "loose.bin")
    below = tmp_path / "models" / "slices"
    dims = [dict.fromkeys(("attention_input", "attention_output", "mlp_input", "mlp_output"), 24)] * 2
    save(below / "L_0.2", arrays, LAYERS)
    for share in ("0.2", "0.3"):
        torch.save(sliced_llama(2, dims, 24), below / f"L_{share}.pt")
        (below / f"L_{share}.json").write_text(json.dumps(slice_json(dims, 24)))
    found = structure_many(tmp_path / "models", None, tmp_path / "out").models
    assert {model.name: (model.kind, Path(model.analysis).relative_to(tmp_path / "models")) for model in found} == {
        "loose": ("standard", Path("loose/analysis")),
        "loose.bin": ("bin", Path("loose.bin.analysis")),
        "loose.safetensors": ("standard", Path("loose.safetensors.analysis")),
        "slices/L_0.2": ("standard", Path("slices/L_0.2/analysis")),
        "slices/L_0.2.pt": ("slicegpt", Path("slices/L_0.2.pt.analysis")),
        "slices/L_0.3": ("slicegpt", Path("slices/L_0.3.analysis")),
    }
    assert {model.status for model in found} == {"analysed"}


def test_the_folder_itself_is_a_model(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "inside").mkdir()
    (base / "inside" / "loop").symlink_to(base / "inside")
    for here, given in ((base, "."), (base / "inside", "..")):
        monkeypatch.chdir(here)
        (whole, inside) = find_models(given)
        assert (whole.name, whole.kind) == ("Llama-base", "standard")
        assert (inside.name, inside.kind, inside.problem) == ("inside", "none", "no model files")


def test_a_folder_without_anything_that_could_be_a_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds no folders and no weight files; give the folder of the models"):
        structure_many(tmp_path / "empty", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
