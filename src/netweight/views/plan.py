"""What `netweight plan` prints."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import click

from netweight.errors import printable
from netweight.views.console import print_trimmed, stdout_console
from netweight.views.fitted_table import labels, numbers, print_table
from netweight.views.fitted_table import text as text_column
from netweight.views.text import human_bytes, human_count, print_notes

if TYPE_CHECKING:
    from netweight.jobs.plan.result import PlanResult

__all__ = ["show_plan"]

_USE = {
    "gguf": "llama-quantize --tensor-type-file FILE MODEL-F16.gguf OUT.gguf Q4_K_M",
    "compressed-tensors": "llm-compressor: oneshot(model=MODEL, recipe=FILE)",
    "mlx": "mlx_lm.convert(MODEL, quantize=True, quant_predicate=lambda path, *_: plan.get(path, False))",
}


def show_plan(result: PlanResult) -> None:
    """Print it for people: the size, formats by role, and the best plan against one format for all."""
    from rich.text import Text

    console = stdout_console()
    click.echo(f"model   {printable(result.ref, 300)}, {human_count(result.parameters)} parameters")
    size, rows = human_bytes(round(result.size)), "all" if result.exact else "sampled"
    click.echo(f"size    {size}, {result.bits:.4g} bits for a parameter, of {result.backend}")
    click.echo(f"error   {100 * result.error:.3g}%: root mean square over the tensors, of {rows} rows")
    console.print()
    print_trimmed(console, Text("formats by role", style="bold"))
    print_table(console, [*labels("role"), *numbers("bits"), text_column("tensors")], _roles(result), header="dim")
    console.print()
    print_trimmed(console, Text("one format for all, and a plan of the same size", style="bold"))
    print_table(console, [*labels("format"), *numbers("bits", "error", "planned")], _compared(result), header="dim")
    console.print()
    print_notes(result.notes)
    click.echo(f"for {_USE[result.backend]}")


def _roles(result: PlanResult) -> list[list[str]]:
    held = defaultdict(list)
    for row in result.rows:
        held[row.unit.role].append(row)
    lines = []
    for role, rows in held.items():
        counts: dict[str, int] = {}
        for row in sorted(rows, key=lambda one: -one.bits):
            counts[row.format] = counts.get(row.format, 0) + 1
        bits = sum(row.bits * row.unit.elements for row in rows) / sum(row.unit.elements for row in rows)
        lines.append([role, f"{bits:.3g}", ", ".join(f"{count} x {name}" for name, count in counts.items())])
    return lines


def _compared(result: PlanResult) -> list[list[str]]:
    lines = []
    for name, bits, error in result.uniform:
        planned = result.error_at(bits)
        lines.append([name, f"{bits:.3f}", f"{100 * error:.3g}%", "" if planned is None else f"{100 * planned:.3g}%"])
    return lines
