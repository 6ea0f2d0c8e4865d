"""What `netweight extract-lora` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import click

from netweight.checkpoint.tensor import Skipped
from netweight.errors import printable
from netweight.views.console import stdout_console
from netweight.views.fitted_table import Column, labels, name, numbers, print_table
from netweight.views.short_names import left_out_lines
from netweight.views.text import human_bytes, print_json, print_more, print_notes

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.plan import Prepared
    from netweight.jobs.extract_lora.preview import Preview
    from netweight.jobs.extract_lora.result import Extracted

__all__ = ["show_extracted", "show_preview"]

_LISTED = 10


def show_preview(prepared: Prepared, found: Preview, output_format: str, *, verbose: bool) -> None:
    """Print rank against error and size, for a dry run."""
    if output_format == "json":
        print_json(
            {
                "job": "extract-lora",
                "request": prepared.options.request,
                "matrices": found.matrices,
                "kept_whole": found.kept_whole,
                "unchanged": found.unchanged,
                "steps": [step.to_dict() for step in found.steps],
                "bytes_to_read": prepared.read,
                "workers": prepared.workers,
                "expected_memory": prepared.memory,
                "device": prepared.choice.name,
                "device_reason": prepared.choice.why,
                "left_out": dict(found.left_out) | _left_out(prepared.targets.left_out),
                "notes": list(prepared.notes),
            }
        )
        return
    if output_format != "human":
        return
    rows = [
        (
            step.rule,
            f"{step.ranks[0]}" if step.ranks[0] == step.ranks[1] else f"{step.ranks[0]}-{step.ranks[1]}",
            f"{step.relative_error:.4g}",
            f"{1 - step.relative_error**2:.2%}",
            human_bytes(step.nbytes),
        )
        for step in found.steps
    ]
    print_table(stdout_console(), [*labels("rule"), *numbers("ranks", "relative error", "energy", "adapter")], rows)
    besides = f", {found.kept_whole} modules and biases whole" if found.kept_whole else ""
    unchanged = f"; {found.unchanged} tensors are unchanged" if found.unchanged else ""
    click.echo(f"{found.matrices} matrices with factors{besides}{unchanged}")
    click.echo(f"memory     about {human_bytes(prepared.memory)} with {prepared.workers} workers")
    click.echo(f"device     {prepared.choice.name}: {prepared.choice.why}")
    left_out = [Skipped(n, reason) for n, reason in found.left_out.items()]
    for line in left_out_lines([*left_out, *prepared.targets.left_out], verbose=verbose):
        click.echo(line)
    print_notes(prepared.notes)
    click.echo("nothing was written; leave out --dry-run to run it")


def show_extracted(result: Extracted, *, verbose: bool = False) -> None:
    """Print the matrices with the largest errors, the whole, what is left out, and where the adapter is."""
    rows: Mapping[str, Mapping[str, Any]] = result.record["parameters"]
    factored = [(n, row) for n, row in rows.items() if row["kept"] == "factors"]
    factored.sort(key=lambda entry: -entry[1]["left"] / entry[1]["squares"])
    shown = factored if verbose else factored[:_LISTED]
    cells = [
        (
            printable(n),
            "x".join(map(str, row["shape"])),
            f"{row['rank']}/{min(row['shape'])}",
            f"{sqrt(row['squares']):.4g}",
            f"{sqrt(row['left'] / row['squares']):.4g}",
            f"{1 - row['left'] / row['squares']:.2%}",
        )
        for n, row in shown
    ]
    columns: Sequence[Column] = [name("matrix"), *numbers("shape", "rank", "L2", "relative error", "energy")]
    print_table(stdout_console(), columns, cells)
    print_more(len(factored) - len(shown), "matrices")
    whole = result.record["whole"]
    best = f" (before rounding {whole['unrounded_error']:.4g})" if whole["unrounded_error"] else ""
    click.echo(f"relative error of all {whole['matrices']} matrices: {whole['relative_error']:.4g}{best}")
    kept = [n for n, row in rows.items() if row["kept"] in {"module", "bias"}]
    if kept:
        modules = len(result.record["modules_to_save"])
        biases = sum(row["kept"] == "bias" for row in rows.values())
        click.echo(f"kept whole: {modules} modules (modules_to_save), {biases} biases")
    left_out = [Skipped(n, row["reason"]) for n, row in rows.items() if row["kept"] == "left out"]
    others = [Skipped(e["name"], e["reason"], asked=e["asked"]) for e in result.record["left_out"]]
    for line in left_out_lines([*left_out, *others], verbose=verbose):
        click.echo(line)
    if left_out:
        click.echo(f"with what is left out: {whole['relative_error_of_all']:.4g}")
    click.echo(f"adapter of {human_bytes(whole['bytes'])} written to {printable(str(result.output), 300)}")


def _left_out(entries: Sequence[Skipped]) -> dict[str, str]:
    return {entry.name: entry.reason for entry in entries}
