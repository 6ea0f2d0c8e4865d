"""Completion, asked for as shells ask, and its scripts where shells read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netweight.cli.completion import SHELLS
from netweight.measures.registry import SCANNED
from netweight.merging.registry import METHODS

PROGRAM = [sys.executable, "-m", "netweight"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run([*PROGRAM, *words], env=settings, capture_output=True, text=True, check=False)


def offered(line: str) -> list[str]:
    """What bash is offered at the end of `line`: words, or "(files)"."""
    words = line.split(" ")
    done = run(_NETWEIGHT_COMPLETE="bash_complete", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    answers = [answer.split(",", 1) for answer in done.stdout.split()]
    return [value if kind == "plain" else f"({kind}s)" for kind, value in answers]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("netweight me", ["merge"]),
        ("netweight --install", ["--install-completion"]),
        ("netweight scan --methods ", [*SCANNED, "all"]),
        ("netweight scan m --methods spectral ta", ["tail"]),
        ("netweight compare --methods s", ["spectral", "sparsity"]),
        ("netweight estimate m --methods spec", ["spectral"]),
        ("netweight merge --method da", [name for name in METHODS if name.startswith("da")]),
        ("netweight merge --mode e", ["exp", "equal"]),
        ("netweight merge --granularity l", ["layer"]),
        ("netweight estimate m --job co", ["compare"]),
        ("netweight scan m --format ", ["human", "json", "csv", "quiet"]),
        ("netweight info m --format q", ["quiet"]),
        ("netweight delta --device c", ["cpu", "cuda", "cuda:0"]),
        ("netweight merge --vocab u", ["union-rows"]),
        ("netweight info m --js", ["--json"]),
        ("netweight info ./mo", ["(files)"]),
        ("netweight delta --base ./mo", ["(files)"]),
        ("netweight delta --base a --models b ./mo", ["(files)"]),
        ("netweight nothing-", []),
    ],
)
def test_what_is_offered(line: str, words: list[str]) -> None:
    assert offered(line) == words


def test_in_a_list_that_may_end_files_are_offered_too() -> None:
    assert offered("netweight scan --methods spectral ta") == ["tail"]
    assert offered("netweight scan --methods spectral ./m") == ["(files)"]


def test_replaced_names_are_not_offered() -> None:
    assert offered("netweight scan --low") == offered("netweight info --model_") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(shell: str) -> None:
    named, by_variable = run("--show-completion", shell), run("--show-completion", SHELL=f"/opt/bin/{shell}")
    assert named.returncode == by_variable.returncode == 0
    assert named.stdout == by_variable.stdout
    assert f"_NETWEIGHT_COMPLETE={shell}_complete" in named.stdout


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("/bin/tcsh", "error: completion: expected one of bash, zsh, fish, got 'tcsh'"),
        ("", "error: completion: expected one of bash, zsh, fish, got none, and $SHELL names none"),
    ],
)
def test_other_shells(tmp_path: Path, shell: str, said: str) -> None:
    for option in ("--show-completion", "--install-completion"):
        done = run(option, SHELL=shell, HOME=str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shell", "script", "start"),
    [
        ("bash", ".local/share/netweight/completion.bash", ".bashrc"),
        ("zsh", ".local/share/netweight/completion.zsh", ".zshrc"),
        ("fish", ".config/fish/completions/netweight.fish", None),
    ],
)
def test_installing_twice_is_installing_once(tmp_path: Path, shell: str, script: str, start: str | None) -> None:
    home = tmp_path / "my home"
    home.mkdir()
    if start is not None:
        (home / start).write_text("alias ll='ls -l'")  # without a line end
    states = []
    for _ in range(2):
        done = run("--install-completion", shell, HOME=str(home), XDG_DATA_HOME="", XDG_CONFIG_HOME="", ZDOTDIR="")
        assert done.returncode == 0, done.stderr
        assert str(home / script) in done.stdout
        assert (start is None) or str(home / start) in done.stdout
        states.append({str(p.relative_to(home)): p.read_text() for p in home.rglob("*") if p.is_file()})
    assert states[0] == states[1]
    assert {*states[0]} == {script, *([start] if start else [])}
    assert states[0][script] == run("--show-completion", shell).stdout.removesuffix("\n")
    if start is not None:
        mine, ours = states[0][start].splitlines()
        assert mine == "alias ll='ls -l'"
        assert ours.endswith("# netweight --install-completion")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_by_it(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "netweight"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m netweight "$@"\n')
    program.chmod(0o755)
    settings = {"HOME": str(tmp_path), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    settings |= {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert run("--install-completion", SHELL="/bin/bash", **settings).returncode == 0
    script = (
        "source ~/.bashrc; COMP_WORDS=(netweight merge --mode e); COMP_CWORD=3\n"
        '_netweight_completion netweight; printf "%s\\n" "${COMPREPLY[@]}"; complete -p netweight'
    )
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    *words, registered = done.stdout.splitlines()
    assert words == ["exp", "equal"], done.stderr
    assert "_netweight_completion netweight" in registered


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file")
    done = run("--install-completion", "fish", HOME=str(tmp_path), XDG_CONFIG_HOME="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --install-completion: ")
    assert done.stderr.count("\n") == 1
