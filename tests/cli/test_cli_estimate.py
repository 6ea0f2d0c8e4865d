"""`netweight estimate` as people call it."""

from __future__ import annotations

import json
import re

import pytest
from task_vectors import normal, save

from netweight.cli.main import main
from netweight.jobs.estimate import book as estimate_book
from netweight.jobs.estimate import probes as estimate_probes
from netweight.views.estimate import human_seconds


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
def quick(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(estimate_probes, "_SIZES", (64, 1024, 4096))
    monkeypatch.setattr(estimate_probes, "_SHORT", (8, 16))
    monkeypatch.setattr(estimate_probes, "_PATIENCE", 1e-9)
    monkeypatch.setattr(estimate_book, "measure_start", lambda *_, **__: 1.25)


LINES = {
    "scan": ("base", "--methods", "all"),
    "delta": ("one", "--base", "base", "--models", "two"),
    "compare": ("one", "--models", "two"),
    "merge": ("one", "--base", "base", "--models", "two", "--methods", "ties"),
    "structure": ("one", "--base", "base", "--deep"),
    "info": ("one",),
}


@pytest.mark.parametrize("job", LINES)
def test_the_human_view_fits_80_columns(models, capsys, monkeypatch, job) -> None:
    monkeypatch.chdir(models)
    run(*LINES[job], "--job", job)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.startswith(f"job        {job}: ")
    assert "\ntime       about " in shown
    assert re.search(r"\b[1-9]\.\d s to start", shown)
    assert ("to read    headers only" in shown) == (job == "info")
    assert ("\nto write   " in shown) == (job == "merge")
    assert ("\nGPU        " in shown) == (job in ("scan", "delta", "compare", "merge"))
    assert "\x1b" not in shown


def test_json_and_quiet(models, capsys) -> None:
    run(models / "base", "--format", "json", "--device", "cpu")
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_to_read"] == 4 * (80 * 24 + 24 * 24 + 24)
    assert found["seconds"] == found["devices"][0]["seconds"]
    assert found["devices"][0]["work"][0]["name"] == "values F32: basic_stats"
    assert found["gpu"] == ""
    run(models / "base", "--format", "quiet")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_rates_file_is_used_again(models, tmp_path, capsys, monkeypatch) -> None:
    rates = tmp_path / "rates.json"
    run(models / "base", "--rates", rates, "--format", "json")
    assert json.loads(capsys.readouterr().out)["measured"]
    kept = rates.read_text()

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(estimate_probes, "probe_values", never)
    monkeypatch.setattr(estimate_book, "measure_start", never)
    run(models / "base", "--rates", rates)
    assert " s to start" in capsys.readouterr().out
    assert rates.read_text() == kept


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--job", "skan"], "--job: no job 'skan' (did you mean 'scan'?)"),
        (["--rates", "."], "--rates .: expected what an earlier `netweight estimate` wrote there"),
        (["--job", "delta"], "--job delta: MODEL is a fine-tuned model; give its --base as well"),
        (["--memory", "1MB"], "this job needs at least"),
    ],
)
def test_mistakes_are_one_line(models, capsys, args, said) -> None:
    run(models / "base", *args, code=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert said in line


def test_seconds_as_people_say_them() -> None:
    spoken = {0.0: "<0.1 s", 0.06: "0.1 s", 9.94: "9.9 s", 9.96: "10 s", 99.4: "99 s", 130: "2.2 min", 3000: "50 min"}
    spoken |= {7200: "2 h", 9000: "2 h 30 min", 5 * 86400: "5 days", 40 * 3600: "40 h", 5970: "1 h 40 min"}
    assert {seconds: human_seconds(seconds) for seconds in spoken} == spoken
