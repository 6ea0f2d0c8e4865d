"""`netweight embeddings` as people call it."""

from __future__ import annotations

import csv
import json
import os
import subprocess

import pytest
from embedding_models import NAME, planted, save_model, save_tokenizer
from task_vectors import PROGRAM

from netweight.cli.main import main


def run(*args, code=0):
    with pytest.raises(SystemExit) as left:
        main(["embeddings", *map(str, args)])
    assert (left.value.code or 0) == code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    x, _ = planted(400, 16, 3, apart=4)
    folder = save_model(tmp_path_factory.mktemp("cli") / "model", {NAME: x, "lm_head.weight": x * 2})
    save_tokenizer(folder, ["[UNK]", *(f"word{i}" for i in range(389))])
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_the_human_view(model, here, capsys) -> None:
    run(model, "--max-k", "6")
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("model      ")
    assert lines[1] == "embedding  model.embed_tokens.weight: 400 x 16, F32"
    assert lines[2].startswith("clusters   3: F is largest at k = 3")
    assert "word" in shown.out
    assert "untrained" in shown.out
    assert "output     lm_head.weight: mean cosine of rows 1, correlation of norms 1" in lines
    assert lines[-1] == "written to ./embedding_analysis"
    assert (here / "embedding_analysis" / "clustering_results.json").is_file()


def test_json_and_quiet(model, here, capsys) -> None:
    run(model, "--max-k", "4", "--format", "json", "--output-dir", here / "o")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((here / "o" / "clustering_results.json").read_text())
    run(model, "--max-k", "4", "--format", "quiet", "--output-dir", here / "o")
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_lines_written_for_the_replaced_tool(model, here, capsys) -> None:
    run(
        "--model_path", model, "--output_dir", here / "a", "--max_k", "5", "--random_state", "42",
        "--n_representatives", "4",
    )  # fmt: skip
    found = json.loads((here / "a" / "clustering_results.json").read_text())
    assert found["search"]["seed"] == 42
    assert len(found["anova"]) == 4
    assert len(json.loads((here / "a" / "cluster_representatives.json").read_text())[0]["representatives"]) == 4
    run("--model_path", model, "--out", here / "b" / "embedding.csv", "--skip_representatives", "--seed", "42")
    assert next(csv.DictReader((here / "b" / "embedding.csv").read_text().splitlines()))["param_name"] == NAME
    assert not (here / "b" / "cluster_representatives.json").exists()
    run(model, "--out", "x.csv", "--output-dir", "y", code=2)
    assert "--out and --output-dir: both say where the results go" in capsys.readouterr().err


def test_a_repeated_run_replaces_its_own_results(model, here, capsys) -> None:
    run(model, "--max-k", "3", "--output-dir", "o")
    (here / "o" / "mine.txt").write_text("kept")
    run(model, "--max-k", "3", "--output-dir", "o", "--skip-representatives")
    assert (here / "o" / "mine.txt").read_text() == "kept"
    assert not (here / "o" / "cluster_representatives.json").exists()
    capsys.readouterr()


def test_nearest(model, here, capsys) -> None:
    run(model, "--nearest", "word6", "7", "--neighbours", "3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["token", "cosine", "id", "neighbour"]
    assert len(lines) == 7
    assert lines[1].startswith("7 'word6'")
    assert not (here / "embedding_analysis").exists()
    run(model, "--nearest", "7", "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert len(found["neighbours"]) == 10
    run(model, "--nearest", "wird6", code=2)
    error = capsys.readouterr().err
    assert (
        "--nearest wird6: the tokenizer has no such token (did you mean 'word6'?); give a token's text or id" in error
    )


def test_dry_run(model, here, capsys) -> None:
    run(model, "--dry-run")
    shown = capsys.readouterr().out
    assert "k from 2 to 30 on 400 rows" in shown
    assert "nothing was computed or written" in shown
    run(model, "--dry-run", "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert (found["parameter"], found["shape"], found["sample"]) == (NAME, [400, 16], 400)
    assert not list(here.iterdir())


def test_a_gpu_is_answered_with_a_note(model, here, capsys) -> None:
    run(model, "--dry-run", "--device", "cuda:1")
    assert "note: --device cuda:1: clusters are computed on the CPU" in capsys.readouterr().out.splitlines()
    run(model, "--nearest", "word3", "--multi-gpu")
    assert capsys.readouterr().err == "note: --multi-gpu: neighbours are found on the CPU\n"
    run(model, "--dry-run", "--device", "cpu")
    assert "on the CPU" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one MODEL"),
        (["m", "--model", "m"], "MODEL is given twice"),
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["nowhere", "--max-k", "1"], "--max-k"),
        (["nowhere", "--device", "gpu"], "--device: expected auto, cpu, cuda, cuda:N"),
    ],
)
def test_bad_input_is_one_line(here, capsys, words, message) -> None:
    run(*words, code=2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_help_and_errors_load_nothing_heavy(model, tmp_path) -> None:
    program = (
        "import sys; from netweight.cli.main import cli\ntry: cli(['embeddings', '--help'])\nexcept SystemExit: pass"
    )
    program += "\nprint([m for m in ('numpy', 'sklearn', 'tokenizers', 'scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([*PROGRAM[:-1], program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_progress_off_a_terminal(model, tmp_path) -> None:
    done = subprocess.run(
        [*PROGRAM, "embeddings", str(model), "--max-k", "3", "--output-dir", str(tmp_path / "o")],
        check=True, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert "written to" in done.stdout
    assert "Warning" not in done.stderr
