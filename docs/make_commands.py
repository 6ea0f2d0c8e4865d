"""Write docs/commands.md from the commands' own --help: `python docs/make_commands.py`."""  # noqa: INP001

from __future__ import annotations

from pathlib import Path

import click

from netweight.cli.main import cli

TARGET = Path(__file__).with_name("commands.md")
WIDTH = 78  # what click uses of a terminal of 80 columns

_HEAD = """# Commands

Made from `--help` by `docs/make_commands.py`; a test compares the two. What the results mean: [numbers.md](numbers.md).
Exit codes: 0 done, 1 the job failed, 2 bad input, found before any work was done, 130 interrupted.
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
