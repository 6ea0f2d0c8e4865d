"""`netweight structure`: what models are made of, one or a folder of them, and what is left of their base."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netweight.cli.options import Aliased, format_option, verbose_option
from netweight.cli.text import human_count
from netweight.errors import OptionError, printable

if TYPE_CHECKING:
    from netweight.jobs.structure_many import Structures

__all__ = ["structure"]

_OUTPUT = "baselines_analysis"
_LISTED = 40


@click.command(short_help="What models are made of, and what is left of their base, from headers.")
@click.argument("model", required=False)
@click.option(
    "--base", cls=Aliased, aliases=("--base-model", "--base_model"), metavar="MODEL", help="The model before pruning."
)
@click.option("--models-dir", cls=Aliased, aliases=("--models_dir",), metavar="DIR", help="Analyse every model in DIR.")
@click.option(
    "--output-dir",
    cls=Aliased,
    aliases=("--output_dir", "--outdir"),
    metavar="DIR",
    help=f"Where the gathered results go. [default with --models-dir: ./{_OUTPUT}]",
)
@click.option(
    "--merge-results",
    cls=Aliased,
    aliases=("--merge_results",),
    is_flag=True,
    help="Only gather what earlier runs left.",
)
@click.option("--reanalyze", is_flag=True, help="Analyse again what an earlier run has done.")
@click.option("--deep", is_flag=True, help="Read the weights too: exact zeros, rows and columns of zeros.")
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Models at a time. [default: cores, up to 8]")
@click.option("--dry-run", is_flag=True, help="Show what would be analysed; write nothing.")
@click.option("--model", "model_option", cls=Aliased, aliases=("--model_path", "--model-path"), hidden=True)
@click.option("--device", hidden=True, metavar="DEVICE", help="Accepted for old scripts: headers need no device.")
@click.option("--resume", is_flag=True, hidden=True, help="What is done is always kept.")
@format_option
@verbose_option
def structure(
    model: str | None,
    model_option: str | None,
    models_dir: str | None,
    base: str | None,
    output_dir: str | None,
    output_format: str,
    **rest: Any,
) -> None:
    """Say what MODEL is made of, layer by layer, and with --base what was taken from it; or do so for every model in
    a folder.

    Headers are read, weights only with --deep (and some 20 kB a layer where layers were removed). With --models-dir,
    each model's folder gets analysis/model_structure.json, model_comparison.json and structure_summary.txt, and
    --output-dir gets batch_analysis_results.json, models_summary.json and .csv, structure.csv and .parquet,
    and two pictures. Models that an earlier run has done are kept.
    """
    given = model if model is not None else model_option
    if models_dir is not None and given is not None:
        raise OptionError("structure takes one MODEL or --models-dir DIR, not both; leave one out")
    if models_dir is not None:
        _many(models_dir, base, output_dir or f"./{_OUTPUT}", output_format, rest)
    elif given is None or (model is not None and model_option is not None):
        raise OptionError(
            "structure takes one MODEL (a folder or a file), or --models-dir DIR; see `netweight structure --help`"
        )
    else:
        for option in ("merge_results", "reanalyze"):
            if rest[option]:
                raise OptionError(f"--{option.replace('_', '-')}: goes with --models-dir, got one MODEL; leave it out")
        _one(given, base, output_dir, output_format, rest)


def _one(ref: str, base: str | None, output_dir: str | None, output_format: str, rest: dict[str, Any]) -> None:
    from netweight.cli.progress import progress_for
    from netweight.jobs.structure import structure as describe

    found = describe(
        ref,
        base,
        deep=rest["deep"],
        count_tied_twice=rest["count_tied_twice"],
        workers=rest["workers"],
        progress=progress_for(output_format),
    )
    if output_format == "json":
        json.dump(found.to_dict(), sys.stdout, indent=2, allow_nan=False, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        click.echo(found.text, nl=False)
    if output_dir is not None and not rest["dry_run"]:
        for note in found.write(output_dir):
            click.echo(f"note: {note}", err=True)
        if output_format == "human":
            click.echo(f"written to {printable(output_dir)}")


def _many(models_dir: str, base: str | None, output_dir: str, output_format: str, rest: dict[str, Any]) -> None:
    if rest["dry_run"]:
        _show_found(models_dir, output_dir, output_format)
        return
    from netweight.cli.model_progress import model_progress_for
    from netweight.jobs.structure_many import structure_many

    result = structure_many(
        models_dir,
        base,
        output_dir,
        merge_results=rest["merge_results"],
        reanalyze=rest["reanalyze"],
        deep=rest["deep"],
        count_tied_twice=rest["count_tied_twice"],
        workers=rest["workers"],
        progress=model_progress_for(output_format),
    )
    if output_format == "json":
        json.dump(result.to_dict(), sys.stdout, indent=2, allow_nan=False, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        _show(result, output_dir, verbose=rest["verbose"])


def _show_found(models_dir: str, output_dir: str, output_format: str) -> None:
    from netweight.jobs.structure_folder import find_models

    found = find_models(Path(models_dir), Path(output_dir))
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


def _show(result: Structures, output_dir: str, *, verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from netweight.jobs.structure_text import spans

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
        if model.error:
            click.echo(f"{model.status}: {printable(model.name)}: {printable(model.error, 300)}")
        elif verbose:
            for note in model.notes:
                click.echo(f"note: {printable(model.name)}: {printable(note, 300)}")
    click.echo(f"written to {printable(output_dir)}")
