"""Options that take several values: where they end, and commas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from netweight.cli.main import cli, main


def given(name: str, *words: str) -> dict[str, Any]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command.make_context(name, list(words), parent=click.Context(cli)).params


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "methods"),
    [
        ("--methods all gpt2", ("all",)),
        ("--methods spectral tail gpt2", ("spectral", "tail")),
        ("--methods spectral,tail gpt2", ("spectral", "tail")),
        ("--methods=spectral,tail sparsity gpt2", ("spectral", "tail", "sparsity")),
        ("gpt2 --methods spectral,tail --methods histogram", ("spectral", "tail", "histogram")),
        ("--methods spectral -- gpt2", ("spectral",)),
        ("gpt2 --methods spectral sparsty", ("spectral", "sparsty")),  # a slip is a value, which the job refuses
    ],
)
def test_methods_end_at_what_is_none(words: str, methods: tuple[str, ...]) -> None:
    params = given("scan", *words.split())
    assert (params["model"], params["methods"]) == ("gpt2", methods)


def test_a_model_may_be_called_like_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tails").mkdir()
    assert given("scan", "--methods", "tail", "tails")["model"] == "tails"
    assert given("scan", "--methods", "tail", "org/tail")["model"] == "org/tail"
    assert given("compare", "--methods", "tail", "tails", "b")["models"] == ("tails", "b")


def test_a_slip_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "scan", ".", "--methods", "spectral", "sparsty")
    assert "no method 'sparsty' (did you mean 'sparsity'?)" in said


def test_numbers() -> None:
    for words in ("0.5,0.25", "0.5 0.25", "0.5,0.25 recipe.yml"):
        params = given("merge", "--weights", *words.split())
        assert params["weights"] == (0.5, 0.25)
        assert params["recipe"] == ("recipe.yml" if "recipe" in words else None)
    assert given("merge", "--l2-norms=-1,2e3", "4")["l2_norms"] == (-1.0, 2000.0, 4.0)
    with pytest.raises(click.BadParameter, match="'x' is not a valid float"):
        given("merge", "--weights", "0.5,x")


@pytest.mark.parametrize(
    ("there", "words", "models"),
    [
        ((), ["a,b"], ("a", "b")),
        ((), ["a,b", "c"], ("a", "b", "c")),
        (("a,b",), ["a,b"], ("a,b",)),
        (("a,b",), ["a,b+adapter"], ("a,b+adapter",)),
        ((), ["a+x,b+y"], ("a+x", "b+y")),
        ((), ["org/a@main,org/b"], ("org/a@main", "org/b")),
        ((), ["https://host/a,b.safetensors"], ("https://host/a,b.safetensors",)),
        ((), ["hf://org/a,hf://org/b"], ("hf://org/a", "hf://org/b")),
        ((), ["a,", ",b", "a,,b"], ("a,", ",b", "a,,b")),
    ],
)
def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Any, words: Any, models: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).mkdir()
    for command in ("delta", "merge"):
        assert given(command, "--base", "base", "--models", *words)["models"] == models


def test_globs_and_tokens_keep_their_commas() -> None:
    assert given("scan", "m", "--plot-tensors", "a,b")["plot_tensors"] == ("a,b",)
    assert given("embeddings", "m", "--nearest", ",", "a,b")["nearest"] == (",", "a,b")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("scan --plot-tensors a gpt2", "--plot-tensors"),
        ("embeddings --nearest a gpt2", "--nearest"),
        ("estimate --models a gpt2", "--models"),
        ("download -o x --include a gpt2", "--include"),
    ],
)
def test_an_error_says_which_list_took_the_model(capsys: pytest.CaptureFixture[str], words: str, option: str) -> None:
    said = refusal(capsys, *words.split())
    assert f"; {option} took 'gpt2' too: put it in front of {option}, or end the list by --" in said
    assert said.count("\n") == 1
    *before, last = words.split()
    params = given(before[0], *before[1:], "--", last)
    assert last in params.values()


def test_without_a_list_there_is_no_such_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "scan", "--health") == "error: expected one MODEL; see `netweight scan --help`\n"
    assert "took" not in refusal(capsys, "estimate", "--deep")
