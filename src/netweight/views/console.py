"""The console: as wide as its terminal, or as wide as what is printed where stdout is none."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["gap_sign", "is_fitted", "print_folded", "print_trimmed", "stdout_console"]

_UNBOUNDED = 1_000_000  # columns of a pipe or a file: more than any line has


def stdout_console() -> Console:
    """A console on stdout that takes names as they are: as wide as its terminal; a pipe or a file has no width to fit.
    COLUMNS goes before both.
    """
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            """Who has read enough ends the program, which knows the exit code."""
            raise BrokenPipeError

    columns = os.environ.get("COLUMNS", "")
    fitted = sys.stdout.isatty() or (columns.isdecimal() and int(columns) > 0)
    # the width of stdin's or stderr's terminal, which rich would look for, must not shape what goes into a pipe
    width = shutil.get_terminal_size().columns if fitted else _UNBOUNDED
    return Piped(highlight=False, markup=False, emoji=False, width=width)


def is_fitted(console: Console) -> bool:
    """Whether there is a width that names must be shortened to."""
    return console.width < _UNBOUNDED


def gap_sign(console: Console) -> str:
    """What stands for the part of a name that is cut out."""
    return "\N{HORIZONTAL ELLIPSIS}" if console.encoding.lower().startswith("utf") else ".."


def print_folded(line: str) -> None:
    """Print a sentence, in several lines where it is longer than stdout is wide."""
    from rich.text import Text

    print_trimmed(stdout_console(), Text(line))


def print_trimmed(console: Console, renderable: RenderableType, width: int = 0) -> None:
    """Print something that may take several lines, without the spaces that its lines end with; in `width` columns where
    it cannot take fewer.
    """
    from rich.text import Text

    options = console.options.update(width=max(width, console.width))
    for line in console.render_lines(renderable, options, pad=False):
        text = Text()
        for segment in line:
            text.append(segment.text, segment.style)
        text.rstrip()
        console.print(text, soft_wrap=True)
