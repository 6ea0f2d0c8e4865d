"""`netweight help`: what the program, or one of its commands, does."""

from __future__ import annotations

import click

from netweight.cli.command import Command

__all__ = ["help_command"]


@click.command("help", cls=Command, short_help="Help, of one command where it is named.")
@click.argument("command", required=False)
@click.pass_context
def help_command(ctx: click.Context, command: str | None) -> None:
    """Show what `netweight --help` shows, or `netweight COMMAND --help`."""
    program = ctx.parent
    assert program is not None  # noqa: S101 - it is a command of the group
    assert isinstance(program.command, click.Group)  # noqa: S101
    if command is None:
        click.echo(program.get_help())
        return
    _, found, _ = program.command.resolve_command(program, [command])
    assert found is not None  # noqa: S101 - an unknown name has raised
    with click.Context(found, info_name=command, parent=program) as context:
        click.echo(found.get_help(context))
