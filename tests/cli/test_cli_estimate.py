"""`netweight estimate` as people call it."""

from __future__ import annotations

import json
import re

import pytest
from task_vectors import normal, save

from netweight.cli.main import main
from netweight.jobs.estimate import job as estimate_job


def run(*args, code=0):
    with pytest.raises(SystemExit) as left:
        main(["estimate", *map(str, args)])
    assert (left.value.code or 0) == code


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]
    shapes = [(80, 24), (24, 24), (24,)]
    for seed, name in enumerate(("base", "one", "two")):
        arrays = {n: normal(s, seed=seed) for n, s in zip(names, shapes, strict=True)}
        save(folder / name, arrays, {"model_type": "llama"})
    return folder


@pytest.fixture(autouse=True)
def given(monkeypatch):
    monkeypatch.setattr(estimate_job, "measure", lambda *_: (1.25, 1e3, 1e9, 1e3, 1e6))


SIZE = 4 * (80 * 24 + 24 * 24 + 24)
LINES = {
    "scan": ("base", "--methods", "all"),
    "delta": ("one", "--base", "base", "--models", "two"),
    "compare": ("one", "--models", "two"),
    "merge": ("one", "--base", "base", "--models", "two", "--methods", "ties"),
    "structure": ("one", "--deep"),
    "info": ("one",),
}


@pytest.mark.parametrize("job", LINES)
def test_the_human_view_fits_80_columns(models, capsys, monkeypatch, job) -> None:
    monkeypatch.chdir(models)
    run(*LINES[job], "--job", job, "--workers", 1)
    shown = capsys.readouterr()
    assert shown.err == "note: running the job on made models; a first run also compiles its loops\n"
    assert max(map(len, shown.out.splitlines())) <= 80
    assert shown.out.startswith(f"job     {job} on cpu, workers: 1\nmodels  ")
    assert re.search(r"^time    about .*: [1-9]\.\d s to start$", shown.out, re.MULTILINE)
    assert ("\nbytes   0 B to read, 0 B to write\n" in shown.out) == (job == "info")
    assert (", 0 B to write" in shown.out) == (job != "merge")
    assert ("B/s\n" in shown.out) == (job != "info")
    assert ("FLOP/s\n" in shown.out) == (job == "scan")
    assert "\x1b" not in shown.out


def test_times_as_people_say_them(models, capsys) -> None:
    run(models / "base", "--methods", "spectral", "--format", "human")
    shown = capsys.readouterr().out
    assert "\n        + 10.1 s for 10.1 kB at 1.00 kB/s\n" in shown
    assert 80 * 24 * 24 + 9 * 24**3 + 24 * 24 * 24 + 9 * 24**3 == 308_736  # at 1,000 a second
    assert "\n        + 0:05:09 for 309 kFLOP at 1.00 kFLOP/s\n" in shown


def test_json_has_its_fields_and_quiet_says_nothing(models, capsys) -> None:
    run(models / "base", "--format", "json", "--device", "cpu")
    shown = capsys.readouterr()
    assert shown.err == "note: running the job on made models; a first run also compiles its loops\n"
    found = json.loads(shown.out)
    assert list(found) == [
        "job", "models", "bytes_to_read", "bytes_to_write", "flops", "workers", "memory", "device", "start",
        "bytes_per_second", "flops_per_second", "seconds", "notes",
    ]  # fmt: skip
    assert found["bytes_to_read"] == SIZE
    assert (found["bytes_to_write"], found["flops"], found["flops_per_second"]) == (0, 0, None)
    assert found["seconds"] == pytest.approx(found["start"] + SIZE / 1e3)
    run(models / "base", "--format", "quiet")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--job", "skan"], "--job: no job 'skan' (did you mean 'scan'?)"),
        (["--job", "delta"], "--job delta: MODEL is a fine-tuned model; give its --base as well"),
        (["--memory", "1MB"], "this job needs at least"),
        (["--rates", "rates.json"], "No such option '--rates'"),
    ],
)
def test_mistakes_are_one_line(models, capsys, args, said) -> None:
    run(models / "base", "--format", "json", *args, code=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert said in line


def test_bad_input_is_one_line(models, capsys) -> None:
    for words in ((models / "nothing",), (models / "base", "--job", "fo")):
        run(*words, code=2)
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert shown.err.startswith("error: ")
