"""The console and the tables that results are shown with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["plain_console", "plain_table", "print_folded", "print_trimmed", "stdout_console"]


def stdout_console() -> Console:
    """A console on stdout that takes names as they are: as wide as its terminal, or 80 columns in a pipe or a file;
    COLUMNS goes before both.
    """
    console = plain_console()
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        # another stream's terminal must not shape what goes into a pipe
        console = plain_console(width=80)
    return console


def plain_console(width: int | None = None) -> Console:
    """A console on stdout that takes names as they are; `width` in columns (default: as rich finds it)."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=width)


def plain_table() -> Table:
    """A table without lines, its headers bold."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, header_style="bold")


def print_folded(line: str) -> None:
    """Print a sentence, in several lines where it is longer than stdout is wide."""
    from rich.text import Text

    print_trimmed(stdout_console(), Text(line))


def print_trimmed(console: Console, renderable: RenderableType) -> None:
    """Print something that may take several lines, without the spaces that its lines end with."""
    from rich.text import Text

    for line in console.render_lines(renderable, pad=False):
        text = Text()
        for segment in line:
            text.append(segment.text, segment.style)
        text.rstrip()
        console.print(text, soft_wrap=True)
