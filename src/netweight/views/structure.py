"""What `netweight structure` prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netweight.errors import printable
from netweight.views.text import human_bytes, human_count, one_line

if TYPE_CHECKING:
    from netweight.jobs.structure.many import Structures

__all__ = ["report", "show_found", "show_plan", "show_structures"]

_LISTED = 40


def report(result: Structures, *, verbose: bool) -> None:
    """Print on stderr a line for each model that failed, and where files are that could not be with their model."""
    for model in result.models:
        if model.status == "failed":
            click.echo(f"failed: {printable(model.name)}: {one_line(model.error or '')}", err=True)
    moved = [model for model in result.models if model.elsewhere]
    for model in moved if verbose else moved[:1]:
        click.echo(f"note: {printable(model.name)}: {one_line(model.elsewhere or '')}", err=True)
    if len(moved) > 1 and not verbose:
        click.echo(f"note: the same of {len(moved) - 1} more models (--verbose lists them)", err=True)


def show_plan(ref: str, base: str | None, output_format: str, *, deep: bool) -> None:
    """What analysing one model would read, for --dry-run."""
    from netweight.checkpoint.open import open_checkpoint

    inputs: list[tuple[str, str, int, int]] = []
    for role, given in (("model", ref), ("base", base)):
        if given is not None:
            with open_checkpoint(given) as checkpoint:
                nbytes = sum(tensor.nbytes for tensor in checkpoint.values())
                inputs.append((role, given, len(checkpoint), nbytes))
    to_read = inputs[0][3] if deep else 0
    if output_format == "json":
        rows = [dict(zip(("role", "ref", "tensors", "bytes"), row, strict=True)) for row in inputs]
        json.dump({"inputs": rows, "bytes_to_read": to_read}, sys.stdout, indent=2, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        for role, given, tensors, nbytes in inputs:
            click.echo(f"{role:<11}{printable(given)}: {tensors} tensors, {human_bytes(nbytes)}")
        share = human_bytes(to_read) if deep else "headers, and some 20 kB a layer where layers were removed"
        click.echo(f"to read    {share}")
        click.echo("nothing was analysed or written; leave out --dry-run to run it")


def show_found(models_dir: str, base: str | None, output_dir: str, output_format: str) -> None:
    """The models of a folder and their kinds, for --dry-run."""
    from netweight.checkpoint.open import open_checkpoint
    from netweight.jobs.structure.folder import find_models

    if base is not None:
        open_checkpoint(base).close()  # a base that cannot be read ends the run, so it does here
    found = find_models(models_dir, Path(output_dir))
    if output_format == "json":
        rows = [
            {"name": m.name, "path": str(m.path), "type": m.kind, "problem": m.problem, "analysis": str(m.analysis)}
            for m in found
        ]
        json.dump(rows, sys.stdout, indent=2, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        for each in found:
            why = f": {printable(each.problem, 300)}" if each.problem else ""
            click.echo(f"{each.kind:<10}{printable(each.name)}{why}")
        click.echo("nothing was analysed or written; leave out --dry-run to run it")


def show_structures(result: Structures, output_dir: str, *, verbose: bool) -> None:
    """Print the table for people: a row for each model."""
    from rich.console import Console
    from rich.table import Table

    from netweight.jobs.structure.text import spans

    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold", ratio=1, min_width=12)
    for name in ("type", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "layers", "reduced"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers gone", overflow="fold", max_width=24)
    models = result.models if verbose else result.models[:_LISTED]
    for model in models:
        row = model.row
        if row is None:
            table.add_row(printable(model.name), model.kind, model.status, "", "", "", "")
            continue
        ratio = "" if row.reduction_ratio is None else f"{100 * row.reduction_ratio:.2f}%"
        gone = spans(row.removed or ())
        table.add_row(
            printable(model.name), model.kind, model.status, human_count(row.total), str(row.layers), ratio, gone
        )
    console.print(table)
    if len(result.models) > len(models):
        click.echo(f"and {len(result.models) - len(models)} more models (--verbose lists them)")
    for model in result.models:
        if model.status == "skipped":
            click.echo(f"skipped: {printable(model.name)}: {printable(model.error or '', 300)}")
        elif verbose:
            for note in model.notes:
                click.echo(f"note: {printable(model.name)}: {printable(note, 300)}")
    click.echo(f"written to {printable(output_dir)}")
