"""Whatever goes wrong around a command, it ends in one line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from task_vectors import beside_progress

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def models(tmp_path):
    for name in "AB":
        (tmp_path / name).mkdir()
        save_file({UP: np.ones((4, 4), np.float32)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def run(*args, **how):
    return subprocess.run(
        [sys.executable, "-m", "netweight", *map(str, args)], stderr=subprocess.PIPE, text=True, check=False, **how
    )


def one_line(done, code):
    assert done.returncode == code, done.stderr
    [line] = beside_progress(done.stderr).splitlines()
    assert line.startswith("error: ")
    return line


def test_a_link_to_itself(tmp_path):
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "model.safetensors").symlink_to("model.safetensors")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "two" / "b.safetensors").symlink_to("a.safetensors")
    for name in ("loop", "two"):
        assert "is a link that leads back to itself" in one_line(run("info", tmp_path / name), 2)


@pytest.mark.parametrize("length", [255, 256, 300, 5000, 100_000])
def test_a_shard_with_a_name_too_long_for_any_file(tmp_path, length):
    index = {"weight_map": {"t": "x" * length}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of its 1 shards are missing" in one_line(run("info", tmp_path), 2)


@pytest.mark.parametrize("command", ["scan", "delta", "compare", "structure", "info"])
def test_a_model_with_a_name_too_long(tmp_path, models, command):
    name = "x" * 5000
    args = {"delta": ["--base", models / "A", "--models", name], "compare": [name, models / "B"]}.get(command, [name])
    one_line(run(command, *args), 2)


@pytest.mark.parametrize("weight", ["1.0e308", "-1.0e300", "3.5e38", "1" + "0" * 300])
def test_weights_whose_sums_leave_float64(models, weight):
    listed = "".join(f"  - {{model: {models / n}, parameters: {{weight: {weight}}}}}\n" for n in "AB")
    (models / "r.yml").write_text(f"models:\n{listed}merge_method: linear\n")
    said = one_line(run("merge", models / "r.yml", "--output", models / "out"), 2)
    assert "expected a number within the range of float32" in said
    assert not (models / "out").exists()
    how = ["--models", models / "A", models / "B", "--method", "linear", "--weights", weight, weight]
    assert "within the range of float32" in one_line(run("merge", *how, "--output", models / "out"), 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize(
    "args", [["info", "A"], ["info", "A", "--format", "json"], ["scan", "A"], ["compare", "A", "B"], ["--help"]]
)
def test_stdout_is_a_full_disk(models, args):
    with Path("/dev/full").open("w") as full:
        assert "No space left" in one_line(run(*args, stdout=full, cwd=models), 1)


@pytest.mark.parametrize("args", [["info", "A"], ["scan", "A", "--output", "s.json"], ["merge", "--help"]])
def test_stdout_and_stderr_are_closed(models, args):
    """Results are written all the same."""
    command = f"{sys.executable} -m netweight {' '.join(args)}"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        (models / "s.json").unlink(missing_ok=True)
        done = subprocess.run(
            f"{command} {closed}", shell=True, cwd=models, capture_output=True, text=True, check=False
        )
        assert (done.returncode, beside_progress(done.stderr)) == (0, "")
        assert (models / "s.json").exists() is ("--output" in args)


def test_a_reader_that_goes_away(models):
    """As `netweight scan A --format json | head -1` does."""
    read, write = os.pipe()
    os.close(read)
    done = run("scan", "A", "--format", "json", "--methods", "all", stdout=write, cwd=models)
    os.close(write)
    assert done.returncode == 141
    assert beside_progress(done.stderr) == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [(OverflowError("sum"), "a number is beyond what float64 holds: sum"),
     (RecursionError("deep"), "an input is nested too deeply: deep"), (MemoryError(), "there is not enough memory"),
     (OSError(5, "Input/output error", "/x/y"), "/x/y: Input/output error"), (TimeoutError("late"), "late")],
)  # fmt: skip
def test_faults_that_nobody_foresaw(monkeypatch, capsys, error, said):
    from netweight.cli import main as program

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(program.cli, "main", fail)
    with pytest.raises(SystemExit) as left:
        program.main(["info", "x"])
    assert left.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
