"""The console that results are shown on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["print_trimmed", "stdout_console"]


def stdout_console() -> Console:
    """A console on stdout that takes names as they are: as wide as its terminal, or 80 columns in a pipe or a file;
    COLUMNS goes before both.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        # another stream's terminal must not shape what goes into a pipe
        console = Console(highlight=False, markup=False, emoji=False, width=80)
    return console


def print_trimmed(console: Console, what: RenderableType) -> None:
    """Print something that may take several lines, without the spaces that its lines end with."""
    from rich.text import Text

    for line in console.render_lines(what, pad=False):
        text = Text()
        for segment in line:
            text.append(segment.text, segment.style)
        text.rstrip()
        console.print(text, soft_wrap=True)
