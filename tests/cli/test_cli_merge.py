"""`netweight merge` and `netweight verify` as programs: what they print, and their exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from merge_families import family, merged
from task_vectors import beside_progress, netweight

from netweight.views.merge import display_names


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
    assert all(f"{{weight: {m['weight']}}}" in found["recipe"] for m in found["weights"]["models"])
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
    assert (done.returncode, beside_progress(done.stderr)) == (0, "")
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
        (
            ["nosuch.yml", "--dtype", "bfloat16", "--output", "x"],
            "--dtype and the recipe nosuch.yml: the recipe says it",
        ),
        (["--base", "BASE", "--models", "M1", "--output", ""], "--output: expected the folder"),
        (["--base", "BASE", "--models", "M1", "--output", "", "--dry-run"], "--output: expected the folder"),
        (["--base", "BASE", "--models", "M1", "--output", "BASE", "--dry-run"], "is an input model"),
        (["--base", "BASE", "--models", "--output", "x"], "--models: expected a value, got none"),
        (
            ["--models", "M1", "--output", "x"],
            "--base: task_arithmetic needs the model that the others were fine-tuned",
        ),
        (["--base", "BASE/", "--models", "M1", "BASE", "--output", "x"], "is the same model as"),
        (["--base", "BASE", "--models", "M1", "M1/", "--output", "x"], "/m1/: is the same model as"),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--method", ""], "no merge method ''"),
        (
            ["--base", "BASE", "--models", "M1", "--output", "x", "--method", "Task-Arithmetic"],
            "did you mean 'task_ari",
        ),
        (
            ["--base", "BASE", "--models", "M1", "--output", "x", "--weights", "nan"],
            "--weights: expected finite numbers",
        ),
        (
            ["--base", "BASE", "--models", "M1", "--output", "x", "--l2-norms", "-1"],
            "--l2-norms: expected finite numbers",
        ),
        (
            ["--base", "BASE", "--models", "M1", "--output", "x", "--from", ""],
            "--from: expected the folder of a result",
        ),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--set", "lambda=1", "--set", "lambda=2"], "set twice"),
        (["--base", "BASE", "--models", "M1", "--output", "x", "--memory", "1MB"], "--memory"),
    ],
)
def test_wrong_options_are_one_line(models, tmp_path, words, message) -> None:
    places = {"BASE": models[0], "M1": models[1][0]}
    places |= {f"{name}/": f"{place}/" for name, place in places.items()}
    done = netweight("merge", *(places.get(w, w) for w in words), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_of_any_size_and_sign(models, tmp_path) -> None:
    base, tuned = models
    words = ["merge", "--base", base, "--models", *tuned, "--weights", 1e30, -0.5, -1e-9, "--output", tmp_path / "out"]
    done = netweight(*words, "--set", "lambda=1e-3")
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()[2:5]] == ["1e+30", "-0.500000", "-1e-09"]
    record = json.loads((tmp_path / "out" / "netweight_merge.json").read_text())
    assert record["parameters"]["model.norm.weight"]["settings"]["lambda"] == 0.001


@pytest.mark.parametrize("columns", [80, 140])
def test_long_paths_leave_what_tells_them_apart(tmp_path, columns) -> None:
    base, tuned, _, _ = family(tmp_path / "a-folder-of-many-models" / "of-an-organisation-with-a-long-name")
    words = ["--base", base, "--models", *tuned, "--output", tmp_path / "out"]
    done = netweight("merge", *words, "--dry-run", env={"COLUMNS": str(columns)})
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("to write")]
    assert all(len(line) <= columns for line in lines), done.stdout
    assert [line.split()[0] for line in lines[4:7]] == ["m1", "m2", "m3"]
    assert "base       base" in lines
    assert " between m1 and m2" in done.stdout
    found = json.loads(netweight("merge", *words, "--dry-run", "--format", "json").stdout)
    assert [m["model"] for m in found["weights"]["models"]] == tuned


def test_shown_names(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # a pipe has no width, and names are whole there
    assert display_names(["m/base", "m/a"]) == {"m/base": "m/base", "m/a": "m/a"}
    above = "/srv/models/of-somebody-with-a-long-name/2026"
    same = [f"{above}/{run}/checkpoint-100" for run in ("run1", "run2", "run3/inner")]
    assert list(display_names(same).values()) == ["run1/checkpoint-100", "run2/checkpoint-100", "inner/checkpoint-100"]
    cached = [f"/cache/hub/models--org--{name}/snapshots/0123456789abcdef" for name in ("a", "b")]
    assert list(display_names(cached).values()) == ["org/a", "org/b"]
    assert list(display_names([f"{above}/x", f"{above}/\x1b[31m\n"]).values()) == ["x", r"\x1b[31m\n"]


def test_layers_that_no_slice_takes_are_one_line_each(models, tmp_path) -> None:
    _, tuned = models
    (tmp_path / "recipe.yml").write_text(
        "merge_method: passthrough\nslices:\n"
        + "".join(f"- sources: [{{model: {m}, layer_range: [0, 1]}}]\n" for m in tuned)
    )
    done = netweight("merge", tmp_path / "recipe.yml", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stdout.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 7  # six, and how many more
    assert any(line.endswith(f"layer 1 of {tuned[0]} is in no slice") for line in left_out)
    assert left_out[-1].endswith("more (--verbose lists them)")
