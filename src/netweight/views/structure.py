"""What `netweight structure` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netweight.errors import printable
from netweight.views.console import stdout_console
from netweight.views.fitted_table import labels, name, numbers, print_table, text
from netweight.views.text import human_bytes, human_count, one_line, print_json, print_more

if TYPE_CHECKING:
    from netweight.jobs.structure.job import ModelStructure
    from netweight.jobs.structure.many import Structures

__all__ = ["report", "show_models", "show_plan", "show_structure", "show_structures"]

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
    """Print what analysing one model would read, for --dry-run."""
    from netweight.params.opening import open_whole

    inputs: list[tuple[str, str, int, int]] = []
    for role, reference in (("model", ref), ("base", base)):
        if reference is not None:
            with open_whole(reference) as checkpoint:
                nbytes = sum(tensor.file_bytes for tensor in checkpoint.values())
                inputs.append((role, reference, len(checkpoint), nbytes))
    to_read = inputs[0][3] if deep else 0
    if output_format == "json":
        rows = [dict(zip(("role", "ref", "tensors", "bytes"), row, strict=True)) for row in inputs]
        print_json({"inputs": rows, "bytes_to_read": to_read})
    elif output_format == "human":
        for role, reference, tensors, nbytes in inputs:
            click.echo(f"{role:<11}{printable(reference)}: {tensors} tensors, {human_bytes(nbytes)}")
        share = (
            human_bytes(to_read)
            if deep
            else "headers and a look at each layer, some 20 kB of each where layers were removed"
        )
        click.echo(f"to read    {share}")
        click.echo("nothing was analysed or written; leave out --dry-run to run it")


def show_models(models_dir: str, base: str | None, output_dir: str, output_format: str) -> None:
    """Print the models of a folder and their kinds, for --dry-run."""
    from netweight.jobs.structure.folder import find_models
    from netweight.jobs.structure.many import gathered_folder
    from netweight.params.opening import open_whole

    if base is not None:
        open_whole(base).close()  # a base that cannot be read ends the run, so it does here
    models = find_models(models_dir, Path(output_dir))
    inputs = [model.path for model in models if model.kind != "none"]
    gathered_folder(output_dir, inputs, compared=base is not None).check()
    if output_format == "json":
        rows = [
            {"name": m.name, "path": str(m.path), "type": m.kind, "problem": m.problem, "analysis": str(m.analysis)}
            for m in models
        ]
        print_json(rows)
    elif output_format == "human":
        for model in models:
            why = f": {printable(model.problem, 300)}" if model.problem else ""
            click.echo(f"{model.kind:<10}{printable(model.name)}{why}")
        click.echo("nothing was analysed or written; leave out --dry-run to run it")


def show_structure(result: ModelStructure) -> None:
    """Print what structure_summary.txt says; its table of layers fits the terminal."""
    from netweight.jobs.structure.text import LAYER_HEADINGS, layer_rows, summary_parts

    console = stdout_console()
    before, layers, after = summary_parts(result.structure, result.comparison)
    if max(map(len, layers)) <= console.width:
        before, after = [*before, *layers, *after], []
    click.echo("\n".join(before))
    if after:
        first, *others = LAYER_HEADINGS
        columns = [name(first), *numbers(*others[:-1]), *labels(others[-1])]
        print_table(console, columns, list(layer_rows(result.structure)))
        click.echo("\n".join(after))


def show_structures(result: Structures, output_dir: str, *, verbose: bool) -> None:
    """Print the table for people: a row for each model."""
    from netweight.jobs.structure.text import spans

    looked = any(model.row is not None and model.row.zero_share is not None for model in result.models)
    rows = []
    models = result.models if verbose else result.models[:_LISTED]
    for model in models:
        row = model.row
        if row is None:
            rows.append((printable(model.name), model.kind, model.status, *([""] * (4 + looked))))
            continue
        ratio = "" if row.reduction_ratio is None else f"{100 * row.reduction_ratio:.2f}%"
        zeros = ["" if row.zero_share is None else f"{100 * row.zero_share:.2f}%"] if looked else []
        counts = (human_count(row.total), str(row.layers), ratio, *zeros, spans(row.removed or ()))
        rows.append((printable(model.name), model.kind, model.status, *counts))
    columns = [
        name("model"),
        *labels("type", "status"),
        *numbers("parameters", "layers", "reduced", *(["zeros"] if looked else [])),
        text("layers gone", stays=False),
    ]
    print_table(stdout_console(), columns, rows)
    print_more(len(result.models) - len(models), "models")
    for model in result.models:
        if model.status == "skipped":
            click.echo(f"skipped: {printable(model.name)}: {printable(model.error or '', 300)}")
        elif verbose:
            for note in model.notes:
                click.echo(f"note: {printable(model.name)}: {printable(note, 300)}")
    click.echo(f"written to {printable(output_dir)}")
