"""`netweight merge` and `netweight verify` as programs: what they print, and their exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from merge_families import family, merged
from task_vectors import netweight


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("models"))[:2]


def test_dry_run_says_what_the_merge_will_do(models, tmp_path) -> None:
    base, tuned = models
    done = netweight("merge", "--base", base, "--models", *tuned, "--output", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    for text in ("mode exp", "task_arithmetic", "cosine", "L2 of the weighted sum", "to read", "to write", "memory"):
        assert text in done.stdout
    assert not (tmp_path / "out").exists()
    found = json.loads(netweight("merge", "--base", base, "--models", *tuned, "--dry-run", "--format", "json").stdout)
    assert sum(m["weight"] for m in found["weights"]["models"]) == pytest.approx(1)
    assert found["bytes_to_write"] > 0
    assert found["weights"]["merged_l2"] > 0
    assert list(tmp_path.iterdir()) == []


def test_merge_then_verify(models, tmp_path) -> None:
    base, tuned = models
    out = tmp_path / "out"
    # the options of the replaced tool
    done = netweight(
        "merge", "--base_model_path", base, "--other_model_paths", *tuned, "--l2_norms", 1, 2, 3, "--output_path", out,
        "--mode", "power", "--alpha", 2.0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"written to {out}" in done.stdout
    assert "0.734694" in done.stdout  # 1 / (1 + 1/4 + 1/9)
    done = netweight("verify", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "are what the recipe gives, bit for bit" in done.stdout
    file = out / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = netweight("verify", out)
    assert done.returncode == 1
    assert "the merged file was changed after the merge" in done.stdout


def test_recipe(models, tmp_path) -> None:
    base, tuned = models
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: ties\nbase_model: {base}\nmodels:\n"
        + "".join(f"  - model: {m}\n    parameters: {{weight: 0.5, density: 0.4}}\n" for m in tuned)
    )
    done = netweight("merge", tmp_path / "recipe.yml", "--output", tmp_path / "out", "--format", "quiet")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert merged(tmp_path / "out")
    done = netweight("merge", tmp_path / "recipe.yml", "--base", base, "--output", tmp_path / "x")
    assert done.returncode == 2
    assert "the recipe says it already" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x"], "a merge needs a recipe"),
        (["--base", "BASE", "--models", "M1"], "--output"),
        (["--base", "BASE", "--models", "BASE", "--output", "x"], "is the base itself"),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--set", "lambda"], "KEY=VALUE"),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--weights", "1", "--mode", "exp"], "--weights"),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--max-shard-size", "lots"], "--max-shard-size"),
        (["nosuch.yml", "--output", "x"], "nosuch.yml"),
    ],
)
def test_wrong_options_are_one_line(models, tmp_path, words, message) -> None:
    places = {"BASE": models[0], "M1": models[1][0]}
    done = netweight("merge", *(places.get(w, w) for w in words), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
