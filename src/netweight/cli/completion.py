"""Completion in bash, zsh and fish: what is offered, and the script that asks for it, put where the shell reads it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from netweight.cli.lists import SpaceSeparated
from netweight.errors import OptionError, OutputError, did_you_mean, printable

__all__ = ["SHELLS", "install", "register", "script"]

SHELLS = ("bash", "zsh", "fish")
_MARK = "# netweight --install-completion"


class _Ours(ShellComplete):
    """What click offers; further values of a list; file names where click has nothing."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Completions of `incomplete`, behind the words `args`."""
        found = super().get_completions(args, incomplete)
        inside = _inside_list(self.cli, args)
        if inside is not None and not incomplete.startswith("-"):
            found = [*super().get_completions(inside, incomplete), *found]
        if found or not args or incomplete.startswith("-"):
            return found
        return [CompletionItem(incomplete, type="file")]


def _inside_list(program: click.Command, args: list[str]) -> list[str] | None:
    """`args` without the values of the list that they end with: None where they end with none."""
    dashed = [i for i, word in enumerate(args) if word.startswith("-")]
    if not dashed or not args or not isinstance(program, click.Group):
        return None
    command = program.get_command(click.Context(program), args[0])
    last = dashed[-1]
    lists = [p for p in (command.params if command else ()) if isinstance(p, SpaceSeparated)]
    for option in lists:
        if args[last] in option.opts and args[last + 1 :] and all(option.takes(word) for word in args[last + 1 :]):
            return args[: last + 1]
    return None


class _Bash(_Ours, BashComplete):
    pass


class _Zsh(_Ours, ZshComplete):
    pass


class _Fish(_Ours, FishComplete):
    pass


_CLASSES: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register() -> None:
    """Have click answer shells by these classes."""
    for name, kind in _CLASSES.items():
        add_completion_class(kind, name)


def script(program: click.Command, shell: str) -> str:
    """What the shell must read. Raises OptionError for a shell that is not known; "" is the one that $SHELL names."""
    return _CLASSES[_known(shell)](program, {}, "netweight", "_NETWEIGHT_COMPLETE").source()


def install(program: click.Command, shell: str) -> str:
    """Write the script where the shell reads it, and say where that is. A second time changes nothing.

    fish reads a folder of its own; of bash and zsh the file that every new shell reads gets one line, at its end.
    Raises OptionError for a shell that is not known, OutputError where a file cannot be written.
    """
    name = _known(shell)
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    fish = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions" / "netweight.fish"
    target = fish if name == "fish" else data / "netweight" / f"completion.{name}"
    start = {"bash": home / ".bashrc", "zsh": Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"}.get(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(script(program, name), encoding="utf-8")
        if start is not None:
            _read_by(start, target, name)
    except (OSError, UnicodeDecodeError) as problem:
        raise OutputError(
            f"--install-completion: {printable(str(problem), 300)}; --show-completion prints it"
        ) from None
    read = f", and a line in {printable(str(start), 300)} reads it" if start else ""
    return f"written to {printable(str(target), 300)}{read}; new shells complete netweight's commands"


def _read_by(start: Path, target: Path, shell: str) -> None:
    """Have `start`, which may be a link to a file elsewhere, end with a line that reads `target`."""
    path = shlex.quote(str(target))
    begin = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }; " if shell == "zsh" else ""
    line = f"{begin}[ -f {path} ] && source {path}  {_MARK}"
    there = start.read_text(encoding="utf-8") if start.exists() else ""
    if line in there.splitlines():
        return
    with start.open("a", encoding="utf-8") as file:
        file.write(f"{'' if not there or there.endswith(chr(10)) else chr(10)}{line}\n")


def _known(shell: str) -> str:
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        got = f"'{printable(name)}'{did_you_mean(name, SHELLS)}" if name else "none, and $SHELL names none"
        raise OptionError(f"completion: expected one of {', '.join(SHELLS)}, got {got}")
    return name
