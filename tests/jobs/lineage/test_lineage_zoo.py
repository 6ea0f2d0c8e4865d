"""A small zoo of trained models, made by examples/zoo: every relation is right, by the job and by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import netweight
from netweight.cli.main import cli
from netweight.errors import OptionError

ZOO = Path(__file__).parents[3] / "examples" / "zoo"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("zoo")
    run(ZOO / "make.py", folder, "--share", "0.1")
    return folder


def run(script, *words):
    held = os.environ | {"PYTHONPATH": str(ZOO)}
    done = subprocess.run(
        [sys.executable, script, *map(str, words)], env=held, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def command(*words, code=0):
    done = CliRunner().invoke(cli, ["lineage", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_every_relation_is_right(zoo) -> None:
    said = run(ZOO / "judge.py", zoo, "--all-pairs")
    assert "WRONG" not in said
    assert "0 called related" in said


def test_the_command_prints_a_family_and_its_evidence(zoo) -> None:
    said = command(zoo / "llama0", zoo / "llama0-lora8", zoo / "llama0-Q8_0", zoo / "gpt0")
    assert "family 1: 3 models" in said
    assert "adapter merged (rank" in said
    assert "-> llama0-Q8_0" in said
    assert "quantised (Q8_0)" in said
    assert "related to none of the others" in said
    held = json.loads(command(zoo / "llama0", zoo / "llama0-Q8_0", "--json"))
    assert held["relations"][0]["detail"]["type"] == "Q8_0"
    assert held["relations"][0]["directed"]


def test_cards_are_checked_by_the_exit_code(zoo) -> None:
    truth = {one["name"]: one for one in json.loads((zoo / "truth.json").read_text())["models"]}
    false = next(one for one in truth.values() if one["detail"].get("card") == "false")
    own, named = false["name"], false["detail"]["named"][0]
    assert "contradicted" in command(zoo / own, zoo / named, "--check", code=3)
    assert "supported" in command(zoo / "llama0-dpo", zoo / "llama0", "--check", code=0)
    command(zoo / "llama0-dpo", zoo / "gpt0", "--check", code=4)


def test_an_index_finds_the_base_for_other_commands(zoo, tmp_path) -> None:
    assert "models" in command("index", zoo, "-o", tmp_path / "ix")
    assert "0 were read now" in command("index", zoo, "-o", tmp_path / "ix")
    said = command("--base-of", zoo / "llama1-records", "--index", tmp_path / "ix")
    assert "base    llama1-records: llama1 (fine-tune" in said
    auto = ["--base", "auto", "--index", str(tmp_path / "ix")]
    for words in (
        ["delta", *auto, "--models", str(zoo / "llama1-far"), "-o", str(tmp_path / "tv")],
        ["compare", *auto, str(zoo / "llama1-records")],
        ["structure", *auto, str(zoo / "llama0-5-layers")],
    ):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert f"is {zoo}/llama" in done.stderr
    done = CliRunner().invoke(cli, ["compare", "--base", "auto", str(zoo / "llama1")])
    assert isinstance(done.exception, OptionError)
    assert "expected --index DIR" in str(done.exception)


def test_the_full_test_of_a_disguised_copy(zoo, tmp_path) -> None:
    said = command("--confirm", zoo / "llama0", zoo / "llama0-disguised", "-o", tmp_path / "c.json")
    assert "one start" in said.splitlines()[0]
    held = json.loads((tmp_path / "c.json").read_text())
    assert held["verdict"] == "one start"
    assert held["log10_p"] < -100
    assert all(layer["found"] and layer["a"] == layer["b"] for layer in held["layers"])
    again = netweight.confirm(zoo / "llama0", zoo / "llama0-disguised")
    assert json.loads(json.dumps(again.to_dict())) == held
    other = netweight.confirm(zoo / "llama0", zoo / "llama0-disguised", seed=5)
    assert other.log10_p < -100
    stranger = netweight.confirm(zoo / "llama1", zoo / "llama0-disguised")
    assert stranger.verdict == "no trace of one start"
    with pytest.raises(OptionError, match="expected two models, got 1"):
        CliRunner().invoke(cli, ["lineage", "--confirm", str(zoo / "llama0")], catch_exceptions=False)


def test_a_page_has_the_tree(zoo, tmp_path) -> None:
    command(zoo, "--report", tmp_path / "page.html", "-o", tmp_path / "out")
    page = (tmp_path / "page.html").read_text()
    assert '"tree":[{"name":' in page
    netweight.report(tmp_path / "out", tmp_path / "again.html")
    assert '"tree":[{"name":' in (tmp_path / "again.html").read_text()
