"""How `netweight compare` shows what a quantisation did: bits against error, by storage and role, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf, isnan, nan
from typing import TYPE_CHECKING, Any

import click

from netweight.errors import printable
from netweight.views.console import stdout_console
from netweight.views.fitted_table import name as name_column
from netweight.views.fitted_table import numbers, print_table
from netweight.views.text import human_bytes, share

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.compare.quantisation import Quantisation
    from netweight.jobs.compare.result import Comparison
    from netweight.jobs.compare.several import SideBySide

__all__ = ["show_quantisation", "show_side_by_side"]

_HEADINGS = ("tensors", "bits", "SQNR dB", "error", "largest", "clipped")
_WORST = 3


def show_quantisation(result: Comparison, quantisation: Quantisation, console: Console, top: int) -> None:
    """Tables of storage types and of roles, and the worst parameters."""
    total = quantisation.total
    click.echo()
    click.echo(
        f"{_number(total['bits_per_weight'])} bits for a weight of A, {_number(total['bits_per_weight_b'])} of B:"
        f" SQNR {_db(total['sqnr_db'])} dB, error {_percent(total['relative_l2_distance'])} of A's norm"
    )
    if quantisation.note:
        click.echo(f"note: {quantisation.note}")
    for what, rows in (("stored as", quantisation.storage), ("role", quantisation.roles)):
        click.echo()
        print_table(
            console,
            [name_column(what), *numbers(*_HEADINGS)],
            [(printable(name), *_cells(about)) for name, about in rows.items()],
        )
    worst = [p for p in map({p.name: p for p in result.parameters}.get, quantisation.worst[:top]) if p is not None]
    if not worst:
        return
    click.echo()
    rows_of_worst = [
        (
            printable(p.name),
            printable(str(p.stored_b)),
            _number(p.bits[1]),
            _db(p.metrics["sqnr_db"]),
            _percent(p.metrics["relative_l2_distance"]),
            _number(p.metrics["max_absolute_difference"], 3),
            _percent(p.metrics.get("clipped_percentage", nan) / 100),
        )
        for p in worst
    ]
    print_table(console, [name_column("lowest SQNR"), *numbers("stored", *_HEADINGS[1:])], rows_of_worst)


def show_side_by_side(result: SideBySide, *, verbose: bool = False) -> None:
    """A line for each model, and what is worst in it."""
    console = stdout_console()
    for ref, held in result.models.items():
        if held.coverage is not None and not held.coverage.complete:
            a, b = share(held.coverage.a), share(held.coverage.b)
            click.echo(f"{printable(ref)}: compared {a} of the original's parameters, {b} of its own")
    click.echo(f"original   {printable(result.original)}")
    click.echo()
    rows = []
    for ref, q in result.quantisations.items():
        held = result.models[ref]
        size = sum(p.bytes_in_file_b or 0 for p in held.parameters)
        kinds = ", ".join(list(q.storage)[:2]) + (" ..." if len(q.storage) > 2 else "")
        rows.append((printable(ref), printable(kinds), human_bytes(size), *_cells(q.total)[1:]))
    headings = ("stored", "size", *_HEADINGS[1:])
    print_table(console, [name_column("quantisation"), *numbers(*headings)], rows)
    ranked = list(result.quantisations.values())
    roles = list(dict.fromkeys(role for q in ranked for role in q.roles))
    click.echo()
    columns = [name_column("SQNR dB by role"), *numbers(*(f"{n}" for n in range(1, len(rows) + 1)))]
    by_role = [
        (printable(role), *(_db(q.roles[role]["sqnr_db"]) if role in q.roles else "-" for q in ranked))
        for role in roles
    ]
    print_table(console, columns, by_role)
    for number, (ref, q) in enumerate(result.quantisations.items(), 1):
        metrics = result.models[ref]["layer_comparisons"]
        listed = q.worst if verbose else q.worst[:_WORST]
        shown = ", ".join(f"{printable(name)} ({_db(metrics[name]['sqnr_db'])} dB)" for name in listed)
        click.echo(f"{number} {printable(ref)}: {'lowest ' + shown if shown else 'unchanged'}")
        for note in result.models[ref].notes:
            click.echo(f"note: {printable(note, 400)}")


def _cells(about: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(about["parameters"]),
        _number(about["bits_per_weight_b"]),
        _db(about["sqnr_db"]),
        _percent(about["relative_l2_distance"]),
        _number(about["max_absolute_difference"], 3),
        _percent(about["clipped_percentage"] / 100),
    )


def _db(value: float) -> str:
    return "-" if isnan(value) else "unchanged" if isinf(value) else f"{value:.1f}"


def _percent(value: float) -> str:
    return "-" if isnan(value) else f"{100 * value:.3g}%"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or isnan(value) else f"{value:.{digits}g}"
