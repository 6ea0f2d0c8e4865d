"""`netweight delta`: what it prints, in which form, and with which exit code."""

from __future__ import annotations

import json
import re

import pytest
from task_vectors import beside_progress, normal, save, strict_json, tree, tuned
from task_vectors import netweight as program

from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.cli.main import main


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((30, 20), "bfloat16", seed=i) for i in range(4)}
    save(folder / "base", {**base, "counter": normal(3)})
    save(folder / "one", tuned(base, 1, 0.01))
    save(folder / "two", {**tuned(base, 2, 0.01), "model.layers.0.mlp.up_proj.weight": normal((3, 3))})
    save(folder / "nan", {n: a * float("nan") for n, a in base.items()})
    return folder


def run(capsys, *args):
    """The exit code, stdout and stderr of the program, in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in args])
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


def arguments(models, *names):
    return ["delta", "--base", models / "base", "--models", *(models / n for n in names)]


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))


def test_dry_run_for_people(models, capsys, no_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments(models, "one", "two"), "--dry-run", "--workers", "2", "--memory", "1GiB")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [
        "measured 99.9% of the base's parameters, 100% of one's; the rest is left out",
        "measured 74.9% of the base's parameters, 99.5% of two's; the rest is left out",
    ]
    lines = lines[2:]
    assert lines[:4] == [
        f"base       {models / 'base'}",
        f"model      {models / 'one'} as one",
        f"model      {models / 'two'} as two",
        "tensors    4 to measure, 3 left out",
    ]
    # three models' bf16 elements, less the one that is misshapen
    read = f"to read    {(12 * 600 - 600) * 2 / 1000:.1f} kB in 4 tasks"
    assert re.fullmatch(re.escape(read) + r", and up to [0-9.]+ kB of 4 matrices once more", lines[4])
    assert re.fullmatch(r"memory     about [0-9.]+ MB with 2 workers", lines[5])
    assert f"left out of one: counter: missing in {models / 'one'}" in lines
    assert any("shape [30, 20] in the base, [3, 3] in the model" in line for line in lines)
    assert lines[-1] == "nothing was read or written; leave out --dry-run to run it"
    assert list(tmp_path.iterdir()) == []


def test_dry_run_as_json(models, capsys, no_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, *arguments(models, "one", "two"), "--dry-run", "--format", "json", "--workers", "1")
    found = strict_json(out)
    assert code == 0
    assert (found["tensors"], found["bytes_to_read"], found["workers"]) == (4, 13200, 1)
    assert [t["param"] for t in found["tasks"]] == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
    assert sum(t["bytes"] for t in found["tasks"]) == found["bytes_to_read"]
    assert {s["name"] for s in found["skipped"]["two"]} == {"counter", "model.layers.0.mlp.up_proj.weight"}
    assert list(tmp_path.iterdir()) == []


def test_dry_run_lists_tasks_where_asked(models, capsys, no_data):
    _, out, _ = run(capsys, *arguments(models, "one"), "--dry-run", "--verbose")
    assert "  model.layers.3.mlp.up_proj.weight [0:600]  2.40 kB" in out.splitlines()


def test_quiet(models, capsys, tmp_path):
    assert run(capsys, *arguments(models, "one"), "--outdir", tmp_path / "o", "--format", "quiet") == (0, "", "")
    assert (tmp_path / "o" / "one" / "summary.json").exists()
    assert run(capsys, *arguments(models, "one"), "--dry-run", "--format", "quiet") == (0, "", "")


def test_json(models, capsys, tmp_path):
    code, out, err = run(capsys, *arguments(models, "one", "nan"), "--outdir", tmp_path / "o", "--format", "json")
    assert (code, beside_progress(err)) == (0, "")
    found = strict_json(out)
    assert found["pairwise_cosines"] == {"one": {"one": 1.0, "nan": None}, "nan": {"one": None, "nan": 1.0}}
    summary = json.loads((tmp_path / "o" / "nan" / "summary.json").read_text())
    assert found["models"]["nan"] == summary
    assert (summary["n_nan"], summary["global_l2"]) == (2400, 0.0)


def test_for_people(models, capsys, tmp_path):
    code, out, err = run(capsys, *arguments(models, "one", "two", "nan"), "--outdir", tmp_path / "o")
    assert (code, beside_progress(err)) == (0, "")
    lines = out.splitlines()
    named = [line.split()[0] for line in lines if line.startswith(("one", "two", "nan"))]
    assert named == ["one", "two", "nan", "one:", "two:", "nan:"]
    assert "between the task vectors of" in out
    assert "one and two" in out
    assert "left out of two: " in out
    assert "flagged in nan: 4 parameters, first model.layers.0.mlp.up_proj.weight: nothing finite" in out
    assert lines[-1] == f"written to {tmp_path / 'o'}"


def test_the_default_folder_and_repeated_options(models, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(
        capsys, "delta", "--models", models / "one", "--models", models / "two", "--base", models / "base",
        "--include", "*layers.1.*", "--include", "*layers.2.*", "--exclude", "*.2.*", "--device", "cpu", "--seed", "3",
    )  # fmt: skip
    assert (code, beside_progress(err)) == (0, "")
    assert {p.name for p in (tmp_path / "tv_stats").iterdir() if p.is_dir()} == {"one", "two"}
    rows = (tmp_path / "tv_stats" / "one" / "per_param_stats.csv").read_text().splitlines()
    assert [r.split(",")[0] for r in rows[1:]] == ["model.layers.1.mlp.up_proj.weight"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--memory", "lots"], "--memory: expected a size such as 512MB, 1GiB or 2g, got 'lots'"),
        (["--memory", "1MB"], "this job needs at least"),
        (["--workers", "0"], "--workers"),
        (["--include", "nothing*"], "is left by --include nothing*"),
        (["--device", "cuda:99"], "--device cuda:99: there is no such "),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_options(models, capsys, tmp_path, more, said, no_data):
    code, out, err = run(capsys, *arguments(models, "one"), "--outdir", tmp_path / "o", *more)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_models_are_needed(models, capsys):
    assert run(capsys, "delta", "--base", models / "base")[0] == 2
    assert run(capsys, "delta", "--models", models / "one")[0] == 2


@pytest.mark.parametrize("size", ["1GiB", "900MB", "2g"])
def test_memory_does_not_change_results(models, capsys, tmp_path, size):
    assert run(capsys, *arguments(models, "one"), "--outdir", tmp_path / "a", "--memory", size)[0] == 0
    assert run(capsys, *arguments(models, "one"), "--outdir", tmp_path / "b", "--workers", "1")[0] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_failed_job_is_one(models, tmp_path, capsys, monkeypatch):
    from netweight.source.local import PreadFile

    monkeypatch.setattr(PreadFile, "check_unchanged", lambda self: self._compare(models.stat()))
    code, out, err = run(capsys, *arguments(models, "one"), "--outdir", tmp_path / "o")
    assert (code, out) == (1, "")
    assert "changed since it was opened" in err
    assert len(beside_progress(err).splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_no_colours_or_progress_in_a_pipe(models, tmp_path):
    done = program(*arguments(models, "one"), "--outdir", tmp_path / "o", env={"NO_COLOR": None})
    assert (done.returncode, beside_progress(done.stderr)) == (0, "")
    assert "\x1b" not in done.stdout


def test_help_names_every_option(capsys):
    code, out, _ = run(capsys, "delta", "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for option in ("--base", "--models", "--outdir", "--workers", "--memory", "--include", "--exclude", "--format",
        "--dry-run", "--resume", "--verbose", "--seed", "--device", "--multi-gpu", "--count-tied-twice"):  # fmt: skip
        assert option in out
