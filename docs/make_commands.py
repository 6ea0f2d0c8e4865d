"""Write docs/commands.md from the commands' own --help: `python docs/make_commands.py`."""  # noqa: INP001

from __future__ import annotations

from pathlib import Path

import click

from netweight.cli.main import cli

TARGET = Path(__file__).with_name("commands.md")
WIDTH = 78  # what click uses of a terminal of 80 columns

_HEAD = """# Commands

Made from `--help` by `docs/make_commands.py`; a test compares the two. What the results mean: [numbers.md](numbers.md).

Exit codes: 0 done; 1 the job failed; 2 bad input, found before any work was done; 130 interrupted by Ctrl-C, and in the
same way, with what `--resume` needs kept, 143 by SIGTERM and 129 by SIGHUP; 141 where the reader of a pipe (`| head`)
has read enough.

Lists: an option such as `--models` takes all values up to the next option or `--`. Lists of methods and of numbers end
at the first word that is none, so `netweight scan --methods all gpt2` works. Methods, numbers and models may be joined
by commas: `--weights 0.5,0.5`; a path that exists is never split.

Completion: `netweight --install-completion` has the shell of `$SHELL` complete commands, options, methods, formats and
devices; or name bash, zsh or fish. It writes a script into `~/.local/share/netweight`, and a line that reads it into
`~/.bashrc` or `~/.zshrc` (for fish only `~/.config/fish/completions/netweight.fish`), and says so. A second time
changes nothing. `--show-completion` prints the script.
"""


def render() -> str:
    """The whole of docs/commands.md."""
    top = click.Context(cli, info_name="netweight", terminal_width=WIDTH, **cli.context_settings)
    parts = [_HEAD, _section("netweight", cli.get_help(top))]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None  # noqa: S101 - the name came from the group itself
        context = click.Context(command, info_name=name, parent=top, terminal_width=WIDTH)
        parts.append(_section(f"netweight {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8", newline="\n")
