"""What people see first: help, its headings and its examples."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from netweight.cli.examples import EXAMPLES
from netweight.cli.main import COMMANDS, cli, main

SCREEN = {"info": 50, "scan": 60, "delta": 50, "compare": 50, "merge": 68, "structure": 50, "verify": 50, "report": 50}
"""{command: lines of its help at 100 columns, at most}; scan lists its methods, merge has forty options."""
HEADINGS = {"What", "Weights", "Output", "Resources", "Other", "Methods", "Examples"}


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(args)
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def command_named(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_bare_and_help_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    whole = shown(capsys, "--help")
    assert whole.startswith("Usage: netweight [OPTIONS] [COMMAND] [ARGS]...\n")
    assert shown(capsys) == shown(capsys, "help") == whole


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert shown(capsys, "help", name) == shown(capsys, name, "--help")


def test_help_of_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["help", "mrge"])
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: no command 'mrge' (did you mean 'merge'?); there are info, ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["netweight", *COMMANDS])
def test_examples_end_the_help_and_parse(name: str) -> None:
    command = cli if name == "netweight" else command_named(name)
    text = command.get_help(click.Context(command, info_name=name, terminal_width=78))
    examples = EXAMPLES[name]
    assert text.endswith("\nExamples:\n" + "\n".join(f"  {line}" for line in examples))
    assert 2 <= len(examples) <= 4
    for line in examples:
        assert len(line) <= 78
        program, called, *words = shlex.split(line)
        assert program == "netweight"
        assert name in {called, "netweight"}
        command_named(called).make_context(called, words, parent=click.Context(cli))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_under_headings_and_each_once(name: str) -> None:
    command = command_named(name)
    text = command.get_help(click.Context(command, info_name=name, **cli.context_settings, terminal_width=98))
    assert {*re.findall(r"^(\w+):$", text, re.MULTILINE)} <= HEADINGS
    text = re.split(r"^(?:What|Output|Other):$", text, maxsplit=1, flags=re.MULTILINE)[1]
    other = text.split("Other:\n")[-1]
    assert re.search(r"^  -h, --help +Show this message and exit\.$", other, re.MULTILINE)
    for option in command.params:
        if isinstance(option, click.Option):
            first = option.opts[-1]
            rows = re.findall(rf"^  (?:-\w, )?{re.escape(first)}(?= |$)", text, re.MULTILINE)
            alone = not option.hidden and first not in {"--json", "--quiet", "--copy-tokenizer", "--write-model-card"}
            assert len(rows) == alone, first


@pytest.mark.parametrize("name", SCREEN)
def test_common_commands_fit_a_screen(name: str) -> None:
    command = command_named(name)
    text = command.get_help(click.Context(command, info_name=name, **cli.context_settings, terminal_width=98))
    assert len(text.splitlines()) <= SCREEN[name]


@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (80, 80), (140, 100)])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, columns: int, widest: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(capsys, name, "--help").split("\nExamples:\n")[0].splitlines()
    assert max(map(len, lines)) <= widest
    if columns == 140 and name == "merge":
        assert max(map(len, lines)) > 80
