"""Text on stdout: JSON, lines without control characters, counts and bytes made readable."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence

import click

from netweight.errors import printable

__all__ = [
    "apart_lines",
    "human_bytes",
    "human_count",
    "one_line",
    "print_json",
    "print_more",
    "print_notes",
    "share",
    "wrapped",
]

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_json(value: object) -> None:
    """Print `value` as indented ASCII JSON; raises ValueError for NaN and infinities."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, ensure_ascii=True)
    click.echo()


def print_notes(notes: Iterable[str]) -> None:
    """Print a line for each note."""
    for note in notes:
        click.echo(f"note: {printable(note, 400)}")


_STATES = {"running": "running statistics", "derived": "tensors that the model's code computes"}


def apart_lines(entries: Sequence[tuple[str, str, float | None]]) -> Iterator[str]:
    """A line for each state of what is not learned: how many, and what changed most. `entries`: name, state, largest
    absolute change (None: no finite value).
    """
    for state, what in _STATES.items():
        held = [(change or 0.0, name) for name, s, change in entries if s == state]
        if held:
            change, name = max(held)
            most = f"'{printable(name)}' changed most, by {change:.3g}" if change else "no finite value changed"
            yield f"apart from the weights, in no sum: {len(held)} {what}; {most}"


def share(part: float) -> str:
    """A share in per cent, three figures; 100% only where it is all."""
    return f"{100 * part:.3g}%" if part == 1 or part < 0.9995 else ">99.9%"


def print_more(hidden: int, kind: str = "", indent: str = "") -> None:
    """Print how many entries (of a `kind`, in the plural) a list does not show; nothing where it shows all."""
    if hidden > 0:
        click.echo(f"{indent}and {hidden} more {kind + ' ' if kind else ''}(--verbose lists them)")


def one_line(text: str, limit: int = 2000) -> str:
    """A message as one line without control characters, cut at `limit`."""
    return printable(" ".join(text.split()), limit)


def wrapped(parts: Sequence[str], width: int) -> Iterator[str]:
    """Lines of at most `width` columns, where no part is longer; a part stands on one line."""
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > width:
            yield line
            line = ""
        line = f"{line}  {part}" if line else part
    if line:
        yield line


def human_count(count: int) -> str:
    """A count in three figures: 1.24 G, 837 k, 12."""
    return _scaled(count, "").rstrip()


def human_bytes(size: int) -> str:
    """Bytes in three figures and decimal units: 2.47 GB, 310 kB, 12 B."""
    return _scaled(size, "B")


def _scaled(number: int, unit: str) -> str:
    for step, prefix in _STEPS:
        scaled = number / step
        if scaled >= 0.9995:  # 999.6 k reads as 1.00 M
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {prefix}{unit}"
    return f"{number} {unit}"
