"""`netweight structure`: what models are made of, one or a folder of them, and what is left of their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netweight.cli.bases import chosen_base, index_option
from netweight.cli.command import Command
from netweight.cli.lists import Aliased
from netweight.cli.options import (
    device_options,
    format_option,
    parse_size,
    remote_option,
    report_option,
    say_without_gpu,
    seed_option,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.views.structure import report as tell
from netweight.views.structure import show_models, show_plan, show_structure, show_structures
from netweight.views.text import print_json

__all__ = ["structure"]

_OUTPUT = "baselines_analysis"


def _refuse_filter(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:  # noqa: ARG001 - click's signature
    if value:
        raise OptionError(
            "structure counts whole models: --include and --exclude do not go with it; leave them out, or use"
            " `netweight scan`, which takes them"
        )


@click.command(cls=Command, short_help="What models are made of, and what is left of their base, from headers.")
@click.argument("model", required=False)
@click.option(
    "--base",
    cls=Aliased,
    aliases=("--base-model", "--base_model"),
    metavar="MODEL",
    help="The model before pruning, or auto.",
)
@index_option
@click.option("--models-dir", cls=Aliased, aliases=("--models_dir",), metavar="DIR", help="Analyse every model in DIR.")
@click.option(
    "-o",
    "--output-dir",
    cls=Aliased,
    aliases=("--output_dir", "--outdir"),
    metavar="DIR",
    help=f"For results. [default with --models-dir: ./{_OUTPUT}]",
)
@click.option(
    "--merge-results",
    cls=Aliased,
    aliases=("--merge_results",),
    is_flag=True,
    help="Only gather what earlier runs left.",
)
@click.option("--reanalyze", is_flag=True, help="Analyse again what an earlier run has done.")
@report_option
@click.option("--deep", is_flag=True, help="Read the weights too: exact zeros, rows and columns of zeros.")
@remote_option
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Models at a time; of one, threads of --deep. [default: cores, up to 8]",
)
@click.option(
    "--memory",
    type=parse_size,
    metavar="SIZE",
    help="At most: fewer workers where it is short; headers take 64 MiB each.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be analysed and read; write nothing.")
@click.option("--resume", is_flag=True, help="Accepted: what an earlier run has done is always kept.")
@click.option("--model", "model_option", cls=Aliased, aliases=("--model_path", "--model-path"), hidden=True)
@click.option("--include", "--exclude", "filters", multiple=True, hidden=True, callback=_refuse_filter)
@device_options
@format_option
@verbose_option
@seed_option
def structure(
    model: str | None,
    model_option: str | None,
    models_dir: str | None,
    base: str | None,
    index: str | None,
    output_dir: str | None,
    output_format: str,
    **rest: Any,
) -> None:
    """Say what MODEL is made of, layer by layer, and with --base what was taken from it; or do so for every model in
    a folder.

    Headers are read and the first weights of each layer, and some 20 kB of each where layers were removed; all weights
    with --deep, or where they are zero. With --models-dir, each model's folder gets analysis/model_structure.json,
    model_comparison.json and structure_summary.txt, and --output-dir gets batch_analysis_results.json,
    models_summary.json and .csv, structure.csv and .parquet, and two pictures. Models that an earlier run has done are
    kept. Where a model cannot be read, it is reported, the others go on, and the exit code is 1.
    """
    reference = model if model is not None else model_option
    say_without_gpu(rest, "headers and zeros are read", output_format)
    if rest["report"] is not None:
        from netweight.jobs.pages import check_report

        check_report(rest["report"])
    if base == "auto" and models_dir is not None:
        raise OptionError("--base auto: goes with one MODEL; name the base of a folder of models")
    base = chosen_base(base, [reference] if reference is not None else [], index)
    if models_dir is not None and reference is not None:
        raise OptionError("structure takes one MODEL or --models-dir DIR, not both; leave one out")
    if models_dir is not None:
        _analyse_many(models_dir, base, output_dir or f"./{_OUTPUT}", output_format, rest)
    elif reference is None or (model is not None and model_option is not None):
        raise OptionError(
            "structure takes one MODEL (a folder or a file), or --models-dir DIR; see `netweight structure --help`"
        )
    else:
        for option in ("merge_results", "reanalyze"):
            if rest[option]:
                raise OptionError(f"--{option.replace('_', '-')}: goes with --models-dir, got one MODEL; leave it out")
        _analyse_one(reference, base, output_dir, output_format, rest)


def _analyse_one(ref: str, base: str | None, output_dir: str | None, output_format: str, rest: dict[str, Any]) -> None:
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.structure.files import model_folder
    from netweight.jobs.structure.job import structure as describe

    if output_dir is not None:
        model_folder(Path(output_dir), compared=base is not None).check()
    if rest["dry_run"]:
        show_plan(ref, base, output_format, deep=rest["deep"])
        return
    result = describe(
        ref,
        base,
        deep=rest["deep"],
        remote=rest["remote"],
        count_tied_twice=rest["count_tied_twice"],
        workers=rest["workers"],
        memory=rest["memory"],
        progress=progress_for(output_format),
    )
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_structure(result)
    if output_dir is not None:
        for note in result.write(output_dir):
            click.echo(f"note: {note}", err=True)
        if output_format == "human":
            click.echo(f"written to {printable(output_dir)}")
    _report(result, rest["report"], output_format)


def _report(result: Any, report: str | None, output_format: str) -> None:
    """Write the page, where one was asked for."""
    if report is not None:
        result.report(report)
        if output_format == "human":
            click.echo(f"written to {printable(report)}")


def _analyse_many(models_dir: str, base: str | None, output_dir: str, output_format: str, rest: dict[str, Any]) -> None:
    if rest["dry_run"]:
        show_models(models_dir, base, output_dir, output_format)
        return
    from netweight.cli.progress.model import model_progress_for
    from netweight.jobs.structure.many import structure_many

    result = structure_many(
        models_dir,
        base,
        output_dir,
        merge_results=rest["merge_results"],
        reanalyze=rest["reanalyze"],
        deep=rest["deep"],
        count_tied_twice=rest["count_tied_twice"],
        workers=rest["workers"],
        memory=rest["memory"],
        progress=model_progress_for(output_format),
    )
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_structures(result, output_dir, verbose=rest["verbose"])
    tell(result, verbose=rest["verbose"])
    _report(result, rest["report"], output_format)
    if any(model.status == "failed" for model in result.models):
        raise SystemExit(1)
