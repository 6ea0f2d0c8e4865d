from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from task_vectors import beside_progress

from netweight.cli.main import main

HEAVY = {"numba", "torch", "scipy", "matplotlib", "pyarrow", "pandas", "polars", "llvmlite"}
REPORT = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
PROGRAM = "from netweight.cli.main import main\ntry:\n    main()\nexcept SystemExit as left:\n    assert not left.code"


def save(folder: Path, layers: int, skip: int = 0) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays = {"model.embed_tokens.weight": np.ones((10, 4), np.float16)}
    for i in range(layers + skip):
        array = rng.normal(size=(6, 4)).astype(np.float16)
        if i >= skip:
            arrays[f"model.layers.{i - skip}.mlp.up_proj.weight"] = array
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 4}')
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", 4)


@pytest.fixture
def models(tmp_path: Path, base: Path) -> Path:
    save(tmp_path / "models" / "short", 3, skip=1)
    save(tmp_path / "models" / "whole", 4)
    (tmp_path / "models" / "none").mkdir()
    (tmp_path / "models" / "bad").mkdir()
    (tmp_path / "models" / "bad" / "model.safetensors").write_bytes(b"\xff" * 9)
    return tmp_path / "models"


def run(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        main(["structure", *map(str, args)])
    shown = capsys.readouterr()
    assert left.value.code == code, shown.err
    return shown.out, beside_progress(shown.err)


def test_one_model(capsys: pytest.CaptureFixture[str], base: Path) -> None:
    out, err = run(capsys, base)
    assert err == ""
    lines = out.splitlines()
    for line in (
        "base",
        "type             standard (safetensors, llama)",
        "parameters       136",
        "layers           4, 96 parameters",
        "0-3                    24             0             24        0  -/-       6",
    ):
        assert line in lines, out
    assert max(map(len, lines)) <= 80


def test_one_model_and_its_base(capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path) -> None:
    out, _ = run(capsys, models / "short", "--base", base, "--output-dir", tmp_path / "out")
    assert "reduced by       24 of 136 (17.65%)" in out
    assert "  layers gone: 0\n" in out
    assert out.endswith(f"written to {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "structure_summary.txt").read_text() == out.rpartition("written to")[0]
    out, _ = run(capsys, "--model_path", models / "short", "--base_model", base, "--format", "json")
    found = json.loads(out)
    assert found["comparison"]["removed_layers"] == [0]
    assert run(capsys, base, "--format", "quiet") == ("", "")


def test_a_folder(capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path) -> None:
    out, err = run(capsys, "--models-dir", models, "--base", base, "--output-dir", tmp_path / "out", code=1)
    (noted,) = err.splitlines()  # once, and not in the table too
    assert noted.startswith(f"failed: bad: {models / 'bad' / 'model.safetensors'}: ")
    assert "header" not in out
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["model", "type", "status", "parameters", "layers", "reduced", "layers", "gone"]
    assert ["short", "standard", "analysed", "112", "3", "17.65%", "0"] in rows
    assert ["whole", "standard", "analysed", "136", "4", "0.00%"] in rows
    assert "skipped: none: no model files" in out
    assert max(map(len, out.splitlines()[:5])) <= 80
    assert (models / "short" / "analysis" / "model_comparison.json").exists()


def test_the_names_of_the_tool_before(
    capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(models / "bad")
    run(capsys, "--models_dir", models, "--base_model", base, "--device", "cpu", "--format", "quiet")
    assert (tmp_path / "baselines_analysis" / "batch_analysis_results.json").exists()
    run(capsys, "--models_dir", models, "--merge_results", "--output_dir", "mine", "--format", "quiet")
    found = json.loads((tmp_path / "mine" / "models_summary.json").read_text())
    assert [row["name"] for row in found["models"]] == ["short", "whole"]
    assert found["models"][0]["pruning"]["pruned_params"] == 112


def test_a_folder_as_json(capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path) -> None:
    args = ["--models-dir", models, "--base", base, "--output-dir", tmp_path / "out", "--format", "json"]
    out, err = run(capsys, *args, code=1)
    assert err.startswith("failed: bad: ")
    assert json.loads(out) == json.loads((tmp_path / "out" / "batch_analysis_results.json").read_text())


@pytest.mark.parametrize("output", ["human", "json", "quiet"])
def test_dry_run(capsys: pytest.CaptureFixture[str], models: Path, tmp_path: Path, output: str) -> None:
    before = sorted(models.rglob("*"))
    out, err = run(capsys, "--models-dir", models, "--dry-run", "--output-dir", tmp_path / "out", "--format", output)
    assert (sorted(models.rglob("*")), (tmp_path / "out").exists(), err) == (before, False, "")
    if output == "human":
        assert out.splitlines() == [
            "standard  bad",
            "none      none: no model files",
            "standard  short",
            "standard  whole",
            "nothing was analysed or written; leave out --dry-run to run it",
        ]
    elif output == "json":
        assert [row["type"] for row in json.loads(out)] == ["standard", "none", "standard", "standard"]
    else:
        assert out == ""


def test_dry_run_of_one_model(capsys: pytest.CaptureFixture[str], models: Path, base: Path) -> None:
    before = sorted(models.rglob("*"))
    args = [models / "short", "--base", base, "--dry-run", "--output-dir", models / "out"]
    out, _ = run(capsys, *args)
    assert out.splitlines() == [
        f"model      {models / 'short'}: 4 tensors, 224 B",
        f"base       {base}: 5 tensors, 272 B",
        "to read    headers and a look at each layer, some 20 kB of each where layers were removed",
        "nothing was analysed or written; leave out --dry-run to run it",
    ]
    found = json.loads(run(capsys, *args, "--deep", "--format", "json")[0])
    assert (found["bytes_to_read"], len(found["inputs"])) == (224, 2)
    assert run(capsys, *args, "--format", "quiet") == ("", "")
    assert sorted(models.rglob("*")) == before


def test_the_shared_options(capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path) -> None:
    shutil.rmtree(models / "bad")
    shared = ["--device", "auto", "--workers", "2", "--memory", "64MiB", "--seed", "1", "--resume", "--verbose"]
    plain, _ = run(capsys, base)
    assert run(capsys, base, *shared) == (plain, "")
    out, _ = run(capsys, "--models-dir", models, "--base", base, "--output-dir", tmp_path / "out", *shared)
    assert "note: short: config.json says num_hidden_layers = 4, the tensors have 3\n" in out


def test_files_that_cannot_be_with_their_model(
    capsys: pytest.CaptureFixture[str], models: Path, base: Path, tmp_path: Path
) -> None:
    shutil.rmtree(models / "bad")
    for name in ("short", "whole"):
        (models / name / "analysis").write_text("in the way")
    args = ["--models-dir", models, "--base", base, "--output-dir", tmp_path / "out"]
    _, err = run(capsys, *args)
    first, second = err.splitlines()
    assert first == (
        f"note: short: its own files are in {tmp_path / 'out' / 'short' / 'analysis'}:"
        f" {models / 'short' / 'analysis'}: is not a folder"
    )
    assert second == "note: the same of 1 more models (--verbose lists them)"
    _, err = run(capsys, *args, "--reanalyze", "--verbose")
    assert [line.split(":")[1] for line in err.splitlines()] == [" short", " whole"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "structure takes one MODEL (a folder or a file), or --models-dir DIR; see `netweight structure --help`"),
        (["m", "--models-dir", "d"], "structure takes one MODEL or --models-dir DIR, not both; leave one out"),
        (["m", "--model", "n"], "structure takes one MODEL (a folder or a file), or --models-dir DIR; see"),
        (["m", "--merge-results"], "--merge-results: goes with --models-dir, got one MODEL; leave it out"),
        (["m", "--reanalyze"], "--reanalyze: goes with --models-dir, got one MODEL; leave it out"),
        (["not-there"], "not-there: there is no such file or folder"),
        (["--models-dir", ""], "--models-dir: the name is empty; give the folder of the models"),
        (["--models-dir", ".", "--base", "no", "--dry-run"], "no: there is no such file or folder"),
        (["m", "--include", "a"], "structure counts whole models: --include and --exclude do not go with it; leave"),
        (["m", "--exclude", "a"], "structure counts whole models: --include and --exclude do not go with it; leave"),
        (["m", "--device", "gpu"], "--device: expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N, got 'gpu'"),
        (["m", "--memory", "much"], "--memory: expected a size such as 512MB, 1GiB or 2g, got 'much'"),
        (
            ["--models-dir", ".", "--merge-results", "--reanalyze"],
            "--merge-results only gathers earlier results: leave it out, or --reanalyze",
        ),
        (["--models-dir", "d"], "--models-dir d: is not a folder; give the folder of the models"),
    ],
)
def test_bad_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = run(capsys, *args, code=2)
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_names_from_a_checkpoint_are_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({"model.layers.0.[bold]x\x1b[31m\nq.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    out, _ = run(capsys, tmp_path)
    assert "\x1b" not in out
    assert "[bold]x\\x1b[31m\\nq" in out


@pytest.mark.parametrize("with_base", [False, True])
def test_one_model_loads_nothing_heavy(base: Path, models: Path, with_base: bool) -> None:
    args = ["structure", models / "short", *(["--base", base] if with_base else [])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{PROGRAM}\n{REPORT}", *map(str, args)],
        check=True,
        capture_output=True,
        text=True,
    )
    found = set(done.stderr.splitlines()[-1].split())
    assert HEAVY.isdisjoint(found)
    assert "click" in found
    assert "numpy" not in found  # layers whose bytes are the same are told by their digests
