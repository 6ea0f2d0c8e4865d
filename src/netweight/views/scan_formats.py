"""What a terminal shows of formats: for each the size of the model, and the errors of its matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from netweight.errors import printable
from netweight.statistics.formats.table import FORMATS
from netweight.views.console import print_trimmed
from netweight.views.fitted_table import name, numbers, print_table
from netweight.views.fitted_table import text as text_column
from netweight.views.text import human_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.scan.result import ScanRow
    from netweight.statistics.formats.table import Format

__all__ = ["show_formats"]

_NAME_LIMIT = 2000
_KEPT = 16  # bits of what a format does not take


def show_formats(console: Console, rows: Sequence[ScanRow]) -> None:
    """Print the formats that take any of the matrices, by bits; nothing where `formats` was not measured.

    Sizes are of all that was measured: what a format does not take counts with 16 bits.
    """
    from rich.text import Text

    own = [row for row in rows if not row.fused and "formats" in row.measures]
    if not own:
        return
    found = [(one, errors) for one in FORMATS if (errors := _errors(own, one))]
    sampled = any((row.value("formats.sampling_error") or 0) > 0 for row in own)
    which = "of sampled rows; --exact takes all" if sampled else "of all rows"
    print_trimmed(console, Text(f"formats: relative errors, {which}", style="bold"))
    elements = sum(row.elements for row in own)
    lines = []
    for one, errors in sorted(found, key=lambda entry: -entry[0].bits):
        worst = max(errors, key=lambda entry: entry[0])
        taken = sum(row.elements for _, row in errors)
        size = (taken * one.bits + (elements - taken) * _KEPT) / 8
        lines.append(
            [
                one.label,
                f"{one.bits:.4g}",
                human_bytes(round(size)),
                f"{100 * median(error for error, _ in errors):.3g}%",
                f"{100 * worst[0]:.3g}%",
                printable(worst[1].name, _NAME_LIMIT),
            ]
        )
    heads = [text_column("format"), *numbers("bits", "size", "median", "worst"), name("parameter")]
    print_table(console, heads, lines, header="dim")
    for reason, count in Counter(row.value("formats.formats_reason") for row in own if row.matrix).items():
        if reason:
            print_trimmed(console, Text(f"{count} matri{'x' if count == 1 else 'ces'}: {printable(reason, 400)}"))
    console.print()


def _errors(rows: Sequence[ScanRow], one: Format) -> list[tuple[float, ScanRow]]:
    """(relative error, row) of the matrices that the format takes."""
    field = f"formats.{one.key}_relative_error"
    known = ((row.value(field), row) for row in rows)
    return [(value, row) for value, row in known if value is not None and value == value]  # noqa: PLR0124 - nan
