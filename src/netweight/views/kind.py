"""What a terminal shows of the kind of a fine-tune: a line, and the figures by kind of module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netweight.errors import printable
from netweight.views.console import print_folded
from netweight.views.fitted_table import labels, numbers, print_table
from netweight.views.fitted_table import name as name_column

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.measures.kind import Kind
    from netweight.passes.samples import Budget

__all__ = ["again", "show_kind", "show_modules"]


def show_kind(label: str, kind: Kind) -> None:
    """Print `label: word: reason`."""
    print_folded(printable(f"{label}: {kind}", 1000))


def show_modules(kind: Kind, console: Console) -> None:
    """Print a row for each kind of module; nothing where nothing changed."""
    if not kind.changed_parameters:
        return
    print_folded(f"{kind.looked_at} of {kind.matrices} changed matrices were looked at:")
    rows = [
        (
            printable(name),
            f"{m['changed_parameters']} of {m['parameters']}",
            "" if m["unchanged_percentage"] is None else f"{m['unchanged_percentage']:.3g}%",
            ", ".join(f"{count} {form}" for form, count in m["forms"].items()),
            "" if m["rank"] is None else f"{m['rank']:g}",
            "" if m["effective_rank"] is None else f"{m['effective_rank']:.3g} of {m['of']}",
        )
        for name, m in kind.modules.items()
    ]
    columns = [name_column("module"), *numbers("changed", "unchanged"), *labels("looked at")]
    print_table(console, [*columns, *numbers("rank", "effective rank")], rows)


def again(sample: Budget, size: str) -> str:
    """What a dry run says of the sample, `size` being its bytes; empty where there is none."""
    matrices = f"{sample.matrices} matrices" if sample.matrices != 1 else "1 matrix"
    return f", and up to {size} of {matrices} once more" if sample.matrices else ""
