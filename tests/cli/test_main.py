from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from netweight.cli import main as main_module
from netweight.cli.main import COMMANDS, cli, main
from netweight.errors import InputError, Interrupted, JobError, NetweightError, OutputError
from netweight.version import __version__


def leave(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(args)
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert leave(option) == 0
    shown = capsys.readouterr().out
    assert "Usage: netweight [OPTIONS] [COMMAND] [ARGS]..." in shown
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", shown, re.MULTILINE)
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--version") == 0
    assert capsys.readouterr().out == f"netweight {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    assert len(COMMANDS[name][1]) <= 65  # one line of 80 columns
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{name} {option.opts}"


ALL = "; there are " + ", ".join(COMMANDS) + "; see `netweight --help`"
MORE = "; see `netweight info --help`"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["inof"], "error: no command 'inof' (did you mean 'info'?)" + ALL),
        (["x\x1b[1m"], "error: no command 'x\\x1b[1m'" + ALL),
        (["info"], "error: info takes one MODEL: a folder or a file" + MORE),
    ],
)
def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    assert leave(*args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == line + "\n"


def test_one_argument_too_many_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("info", "a", "b") == 2  # the wording is click's, and differs between its versions
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: .*\bb\b.*; see `netweight info --help`\n", shown.err)


def test_an_unknown_option_is_one_line_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("info", "--form", "json", "m") == 2  # in click's words, too
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: .*--form\b.*--format\b.*; see `netweight info --help`\n", shown.err)


class Raiser:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def main(self, **_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\n  input \x1b[31m"), 2, "error: bad input \\x1b[31m"),
        (OutputError("no place"), 2, "error: no place"),
        (JobError("could not"), 1, "error: could not"),
        (NetweightError("x"), 1, "error: x"),
        (Interrupted("kept for --resume"), 130, "error: kept for --resume"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (click.Abort(), 130, "error: interrupted"),
    ],
)
def test_errors_are_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    monkeypatch.setattr(main_module, "cli", Raiser(error))
    assert leave() == code
    assert capsys.readouterr().err == line + "\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "cli", Raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main([])


@pytest.mark.parametrize("no_color", [False, True])
def test_red_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    shown: list[str] = []
    monkeypatch.setattr(main_module, "cli", Raiser(InputError("x")))
    monkeypatch.setattr(click, "echo", lambda line, err: shown.append(line))
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    assert leave() == 2
    assert shown == ["error: x" if no_color else "\x1b[31merror: x\x1b[0m"]


@pytest.mark.skipif(os.name != "posix", reason="closing the reading end of a pipe is a signal only on POSIX")
def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("")
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "import click\nfrom netweight.cli import main\n"
        "class Talker:\n"
        "    def main(self, **_):\n"
        "        for _ in range(100000): click.echo('x' * 100)\n"
        "main.cli = Talker()\nmain.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == 141
    assert said == b""
