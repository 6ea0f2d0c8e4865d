"""`netweight extract-lora` as a program: what it prints, its dry run, and one line for bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from peft_models import LLAMA, llama, tuned, write
from task_vectors import beside_progress, netweight

OWN = "--no-modules-to-save"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = llama()
    return "--base", write(folder / "base", base, LLAMA), "--model", write(folder / "fine", tuned(base), LLAMA)


def test_extract_then_verify(models, tmp_path) -> None:
    out = tmp_path / "out"
    done = netweight("extract-lora", *models, "--output", out, "--rank", 4)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^matrix +shape +rank +L2 +relative error +energy$", done.stdout, re.MULTILINE)
    errors = [float(line.split()[-2]) for line in done.stdout.splitlines() if re.search(r" 4/\d", line)]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 10
    for text in (
        "and 6 more matrices (--verbose lists them)",
        "relative error of all 16 matrices: 0.",
        "(before rounding 0.",
        "kept whole: 5 modules (modules_to_save), 0 biases",
        f"written to {out}",
    ):
        assert text in done.stdout
    done = netweight("verify", out)
    assert done.returncode == 0, done.stderr
    assert "22 of 22 parameters are what the recipe gives, bit for bit" in done.stdout


def test_what_programs_read(models, tmp_path) -> None:
    out = tmp_path / "out"
    done = netweight(
        "extract-lora", *models, "--out-path", out, "--max-rank", 4, "--format", "json", "--no-modules-to-save"
    )
    record = json.loads(done.stdout)
    assert record == json.loads((out / "netweight_extract_lora.json").read_text())
    assert record["request"]["rank"] == 4
    assert record["modules_to_save"] == []
    assert netweight("extract-lora", *models, "--output", out, "--overwrite", "--format", "quiet").stdout == ""


def test_what_is_left_out_is_printed(models, tmp_path) -> None:
    done = netweight("extract-lora", *models, "--output", tmp_path / "out", "--no-modules-to-save", "--verbose")
    assert "model.norm.weight" in done.stdout
    assert "with what is left out: 0." in done.stdout


def test_a_dry_run_shows_rank_against_error(models, tmp_path) -> None:
    done = netweight("extract-lora", *models, "--dry-run", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^rank (\d+) +([\d-]+) +([\d.e-]+) +([\d.]+)% +(.+)$", done.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 16, 24]
    errors = [float(row[2]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert "nothing was written" in done.stdout
    assert list(tmp_path.iterdir()) == []
    done = netweight("extract-lora", *models, "--dry-run", "--energy", 0.9, "--format", "json")
    found = json.loads(done.stdout)
    assert found["steps"][-1]["rule"] == "energy 0.9"
    assert found["steps"][-1]["energy"] >= 0.9
    assert (found["matrices"], found["kept_whole"], found["unchanged"]) == (16, 5, 0)
    written = netweight("extract-lora", *models, "--output", tmp_path / "out", "--energy", 0.9, "--format", "json")
    record = json.loads(written.stdout)
    ranks = [row["rank"] for row in record["parameters"].values() if row["rank"]]
    assert (min(ranks), max(ranks)) == (found["steps"][-1]["least_rank"], found["steps"][-1]["greatest_rank"])
    assert record["whole"]["relative_error"] == pytest.approx(found["steps"][-1]["relative_error"], rel=1e-4)
    assert record["whole"]["bytes"] == found["steps"][-1]["bytes"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rank", "0"], "--rank 0: expected a whole number, 1 or more"),
        (["--energy", "1.5"], "--energy 1.5: expected a number between 0 and 1, both left out"),
        (
            ["--rank", "4", "--error", "0.1"],
            "--rank and --error: the rank follows from one of them; leave the",
        ),
        ([], "--output: expected the folder that the adapter goes into, got none"),
        (["--include", "*q_prj*", "--dry-run"], "no parameter of"),
    ],
)
def test_bad_options_are_one_line(models, args, message) -> None:
    done = netweight("extract-lora", *models, *args)
    assert done.returncode == 2
    (line,) = beside_progress(done.stderr).splitlines()
    assert line.startswith(f"error: {message}")


def test_equal_models_are_one_line(models, tmp_path) -> None:
    for more in (["--dry-run"], ["--output", tmp_path / "out"]):
        done = netweight("extract-lora", "--base", models[1], "--model", models[1], *more)
        assert done.returncode == 2
        (line,) = beside_progress(done.stderr).splitlines()
        assert "there is nothing that an adapter could hold" in line
    assert list(tmp_path.iterdir()) == []
