"""`netweight scan` as people call it."""

from __future__ import annotations

import csv
import json
import os
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file
from task_vectors import PROGRAM, normal, save

from netweight.cli.main import main


def run(*args, code=0):
    with pytest.raises(SystemExit) as left:
        main(["scan", *map(str, args)])
    assert (left.value.code or 0) == code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    arrays = {"model.embed_tokens.weight": normal((80, 24), seed=1)}
    for i in range(3):
        arrays[f"model.layers.{i}.self_attn.q_proj.weight"] = normal((24, 24), seed=2 + i)
        arrays[f"model.layers.{i}.input_layernorm.weight"] = np.ones(24, np.float32)
    return save(tmp_path_factory.mktemp("cli") / "model", arrays, {"model_type": "llama"})


def test_the_human_view(model, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run(model, "--methods", "all", "--health", "--top-issues", "3")
    shown = capsys.readouterr()
    assert "q_proj" in shown.out
    assert "score" not in shown.out.lower()
    assert "health  0 critical, " in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "\x1b" not in shown.out


def test_json_and_csv_on_stdout(model, capsys) -> None:
    run(model, "--format", "json", "--methods", "spectral")
    found = json.loads(capsys.readouterr().out)
    assert found["model.embed_tokens.weight"]["spectral"]["design_rank"] == 24
    run(model, "--format", "json", "--methods", "spectral", "--health")
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["health", "parameters"]
    run(model, "--format", "csv")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [r["block_type"] for r in rows][-1] == "embedding"
    assert rows[0]["actual_rank"] == "24"


def test_lines_written_for_the_replaced_tools(model, tmp_path, capsys) -> None:
    for words in (
        ["--model_path", model, "--out", tmp_path / "a.csv", "--format", "csv"],
        ["--model_path", model, "--out", tmp_path / "b.csv", "--model_id", "Qwen/Qwen3-4B", "--rank_k", "512"],
        ["--model_path", model, "--out", tmp_path / "c.csv", "--no_gpu"],
        ["--model", model, "--methods", "all", "--parallel", "--workers", "8", "--output", tmp_path / "d.json"],
    ):
        run(*words)
    assert next(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))["model_id"] == "Qwen/Qwen3-4B"
    assert next(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))["svd_90_percent_rank"]
    assert set(json.loads((tmp_path / "d.json").read_text())["model.embed_tokens.weight"]) >= {"spectral", "tail"}
    capsys.readouterr()


def test_pictures(model, tmp_path, capsys) -> None:
    run(model, "--methods", "all", "--plots", tmp_path / "plots", "--plot-tensors", "*.0.*q_proj*", "*embed*")
    names = sorted(p.name for p in (tmp_path / "plots").iterdir() if p.suffix == ".png")
    assert names == [
        "condition_numbers.png",
        "health.png",
        "quantization_risk.png",
        "rank_efficiency.png",
        "tensor_01_model.embed_tokens.weight_distribution.png",
        "tensor_01_model.embed_tokens.weight_spectrum.png",
        "tensor_02_model.layers.0.self_attn.q_proj.weight_distribution.png",
        "tensor_02_model.layers.0.self_attn.q_proj.weight_spectrum.png",
    ]
    assert "written to" in capsys.readouterr().out
    run(model, "--plots", tmp_path / "plots", "--plot-tensors", "nothing", code=2)
    assert "--plot-tensors nothing: no matrix that is measured has such a name" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "plots").iterdir() if p.suffix == ".png") == names


def test_a_dry_run_reads_nothing(model, capsys) -> None:
    run(model, "--methods", "all", "--dry-run")
    shown = capsys.readouterr().out
    assert "matrices   7 to measure, 0 tensors left out" in shown
    assert shown.endswith("nothing was read or written; leave out --dry-run to run it\n")
    run(model, "--dry-run", "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"][0]["param"] == "model.embed_tokens.weight"  # the largest first
    assert found["bytes_to_read"] == sum(t["bytes"] for t in found["tasks"])


def test_wrong_calls_are_one_line(model, tmp_path, capsys) -> None:
    for words, said in (
        ([], "expected one MODEL"),
        ([model, "--model", model], "MODEL is given twice"),
        ([model, "--methods", "svd"], "--methods: no method 'svd'"),
        ([model, "--dry-run", "--output", tmp_path / "x.xlsx"], "expected a name that ends in .json, .csv, .parquet"),
        ([model, "--output", tmp_path / "x.xlsx"], "expected a name that ends in .json, .csv, .parquet; got '.xlsx'"),
        ([model, "--resume"], "--resume: goes on with a run that has an output file"),
        ([model, "--plot-tensors", "*"], "--plot-tensors: chooses what is drawn; give --plots DIR as well"),
        ([model, "--memory", "1MB"], "this job needs at least"),
        ([tmp_path / "nothing"], "nothing"),
        ([model, "--include", "*.q_prj.*"], "no parameter of"),
        ([model, "--device", "cuda:99"], "--device cuda:99: there is no such "),
    ):
        run(*words, code=2)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        assert said in shown.err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such files")
def test_a_tensor_beyond_the_end_of_the_file_is_listed_and_the_rest_measured(tmp_path) -> None:
    """A torch file whose storage is cut: the zip's directory is whole, one member's bytes are not."""
    import torch

    tensors = {f"layers.{i}.weight": torch.from_numpy(normal((64, 64), seed=i)) for i in range(3)}
    torch.save(tensors, tmp_path / "m.pt")
    program = (
        "import netweight.source.local as local, sys\n"
        "whole = local.PreadFile.read_into\n"
        "def broken(self, offset, out):\n"
        "    if len(out) == 64 * 64 * 4 and not hasattr(local, 'done'):\n"
        "        local.done = True\n"
        "        raise OSError(5, 'Input/output error')\n"
        "    whole(self, offset, out)\n"
        "local.PreadFile.read_into = broken\n"
        "from netweight.cli.main import main\n"
        "main()\n"
    )
    command = [*PROGRAM[:4], program, "scan", tmp_path / "m.pt", "--output", tmp_path / "s.json", "--workers", "1"]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "s.json").read_text())
    assert sorted("basic_stats" in f for f in found.values()) == [False, True, True]
    assert "Input/output error" in done.stderr
    assert "Input/output error" in done.stdout


def test_tensors_without_elements(tmp_path, capsys) -> None:
    save_file({f"layers.0.{i}.weight": np.ones((0, 5), np.float32) for i in range(2)}, tmp_path / "m.safetensors")
    run(tmp_path / "m.safetensors", "--methods", "all", "--health")
    shown = capsys.readouterr().out
    assert "2 without elements" in shown
    assert "vector" not in shown
    assert "health  nothing was judged" in shown


def test_what_was_left_out_on_purpose_is_one_line(model, capsys) -> None:
    for more in ([], ["--dry-run"]):
        run(model, "--include", "*layers.0.*", *more)
        left = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
        assert left == ["left out: 5 tensors: not matched by --include"]


def test_hostile_names_stay_text(tmp_path, capsys) -> None:
    save_file({"layers.0.\x1b[31m[bold]=1+1.weight": np.ones((4, 4), np.float32)}, tmp_path / "m.safetensors")
    run(tmp_path / "m.safetensors", "--methods", "all", "--output", tmp_path / "s.csv")
    assert "\x1b" not in capsys.readouterr().out
    assert "\x1b" not in (tmp_path / "s.csv").read_text()
