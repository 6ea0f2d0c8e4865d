from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from task_vectors import netweight

from netweight.cli.main import COMMANDS, cli
from netweight.cli.suggestions import COMMAND_WORDS, OPTION_WORDS, hint_for_option
from netweight.errors import OptionError, did_you_mean, nearest, nearest_path
from netweight.measures.registry import choose
from netweight.merging.registry import find


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--out-shard-sizes", " (did you mean '--out-shard-size'?)"),
        ("--max-shard-sze", " (did you mean '--max-shard-size'?)"),
        ("--copy-tokeniser", " (did you mean '--copy-tokenizer'?)"),
        ("--no-copy-tokeniser", " (did you mean '--no-copy-tokenizer'?)"),
        ("--lazy-unpickl", " (did you mean '--lazy-unpickle'?)"),
        ("--density", " (did you mean '--set density=VALUE'?)"),
        ("--densty", " (did you mean '--set density=VALUE'?)"),
        ("--lambda", " (did you mean '--set lambda=VALUE'?)"),
        ("--select-topk", " (did you mean '--set select_topk=VALUE'?)"),
        ("--weight", " (did you mean '--weights'?)"),
        ("--methd", " (did you mean '--method'?)"),
        ("--qqqq", ""),
    ],
)
def test_what_was_meant(option, hint) -> None:
    for words in ([option, "1"], [f"{option}=1"]):
        done = netweight("merge", "recipe.yml", "out", *words)
        assert done.returncode == 2
        assert done.stderr == f"error: No such option '{option}'{hint}; see `netweight merge --help`\n"


def test_other_commands_know_their_own_options() -> None:
    done = netweight("scan", "--modle", "x")
    assert done.stderr == "error: No such option '--modle' (did you mean '--model'?); see `netweight scan --help`\n"


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("scan", "--cuda", "--device cuda"),
        ("scan", "--gpu", "--device cuda"),
        ("delta", "--cpu", "--device cpu"),
        ("compare", "--no-gpu", "--device cpu"),
        ("compare", "--no_cuda", "--device cpu"),
        ("scan", "--outdir", "--output"),
        ("scan", "--output_dir", "--output"),
        ("delta", "--output", "--outdir"),
        ("delta", "--out", "--outdir"),
        ("structure", "--output", "--output-dir"),
        ("report", "--out", "--output"),
        ("download", "--output", "--out"),
        ("scan", "--threads", "--workers"),
        ("verify", "--num-workers", "--workers"),
        ("scan", "-j", "--workers"),
        ("scan", "--metrics", "--methods"),
        ("merge", "--methods", "--method"),
        ("merge", "--merge-method", "--method"),
        ("scan", "--layers", "--include"),
        ("scan", "--skip", "--exclude"),
        ("merge", "--force", "--overwrite"),
        ("merge", "-f", "--overwrite"),
        ("scan", "--silent", "--quiet"),
        ("scan", "--debug", "--verbose"),
        ("scan", "--html", "--report"),
        ("scan", "--csv", "--format csv"),
        ("scan", "--top-k", "--top-issues"),
        ("compare", "--top", "--top-changes"),
        ("delta", "--base-model", "--base"),
        ("delta", "--model", "--models"),
        ("merge", "--torch-dtype", "--dtype"),
        ("merge", "--dryrun", "--dry-run"),
        ("delta", "--continue", "--resume"),
        ("scan", "--ram", "--memory"),
        ("info", "--format-json", "--format"),
        ("info", "--js", "--json"),
    ],
)
def test_words_of_other_tools(command, option, meant) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert hint_for_option(option, found) == f" (did you mean '{meant}'?)"


@pytest.mark.parametrize(
    ("command", "option"),
    [("info", "--cuda"), ("devices", "--threads"), ("scan", "--zzz"), ("info", "-x"), ("report", "--gpu")],
)
def test_no_suggestion_is_better_than_a_wrong_one(command, option) -> None:
    assert hint_for_option(option, cli.get_command(click.Context(cli), command)) == ""


def test_the_tables_name_what_there_is() -> None:
    commands = [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    options = {name for command in commands for p in command.params for name in p.opts}
    assert {meant.split()[0] for all_meant in OPTION_WORDS.values() for meant in all_meant} <= options
    assert {*COMMAND_WORDS.values()} <= {*COMMANDS}
    assert not {*COMMAND_WORDS} & {*COMMANDS}
    for word in COMMAND_WORDS:
        assert word == word.lower()


@pytest.mark.parametrize(("word", "command"), [("analyze", "scan"), ("diff", "compare"), ("average", "merge")])
def test_commands_of_other_tools(word, command) -> None:
    done = netweight(word, "x")
    assert done.returncode == 2
    assert f"no command '{word}' (did you mean '{command}'?)" in done.stderr


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("--cuda", ["--vocab", "--beta"], None),
        ("basic-stats", ["basic_stats", "spectral"], "basic_stats"),
        ("SPECTRAL", ["basic_stats", "spectral"], "spectral"),
        ("modle", ["info", "model"], "model"),
        ("out", ["output", "base"], "output"),
        ("re", ["report", "resume"], None),
        ("models", ["model-a", "x"], "model-a"),
        ("", ["a"], None),
    ],
)
def test_what_is_near(word, known, near) -> None:
    assert nearest(word, known) == near
    assert bool(did_you_mean(word, known)) == (near is not None)


def test_methods_of_other_tools() -> None:
    with pytest.raises(OptionError, match=r"no method 'svd' \(did you mean 'spectral'\?\)"):
        choose(["svd"])
    with pytest.raises(OptionError, match=r"no merge method 'average' \(did you mean 'linear'\?\)"):
        find("average")
    with pytest.raises(OptionError, match=r"no merge method 'dare' \(did you mean 'dare_ties'\?\)"):
        find("dare")


def test_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama-base").mkdir(parents=True)
    (tmp_path / "recipe.yml").write_text("")
    (tmp_path / "scan.parquet").write_text("")
    assert nearest_path("models/lama-base") == " (did you mean 'llama-base'?)"
    assert nearest_path("modles/llama-base") == f" (did you mean '{Path('models', 'llama-base')}'?)"
    assert nearest_path("quite/else") == nearest_path("models/llama-base") == nearest_path("a\0b") == ""
    (tmp_path / "scan.json").write_text("")
    assert nearest_path("other.parquet") == ""
    assert nearest_path("scn.json") == nearest_path("scan.jsn") == " (did you mean 'scan.json'?)"
    for words, name in (
        (["merge", "recpe.yml", "out"], "recipe.yml"),
        (["report", "scn.parquet", "-o", "x.html"], "scan.parquet"),
        (["info", "models/lama-base"], "llama-base"),
        (["scan", "models/lama-base"], "llama-base"),
    ):
        done = netweight(*words, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"})
        assert done.returncode == 2
        assert f"(did you mean '{name}'?)" in done.stderr
        assert done.stderr.count("\n") == 1
