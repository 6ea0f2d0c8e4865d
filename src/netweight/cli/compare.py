"""`netweight compare`: what differs between two models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from netweight.cli.bases import chosen_base, index_option
from netweight.cli.command import Command
from netweight.cli.options import (
    device_options,
    executor_options,
    filter_options,
    format_option,
    methods_option,
    options_from,
    parse_size,
    remote_option,
    report_option,
    seed_option,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.views.compare import show_comparison, show_plan
from netweight.views.text import print_json

if TYPE_CHECKING:
    from netweight.jobs.compare.plan import Options, Prepared

__all__ = ["compare"]


@click.command(cls=Command, short_help="What differs between two models, from their weights.")
@click.argument("models", nargs=-1, metavar="A B")
@click.option("--base", metavar="MODEL", help="With one model B: its base A, or auto.")
@index_option
@click.option("--model1", hidden=True, metavar="MODEL", help="The same as A.")
@click.option("--model2", hidden=True, metavar="MODEL", help="The same as B.")
@partial(methods_option, usual="basic_stats")
@click.option(
    "--top-changes",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many of the most changed parameters to list.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the result: .json, .csv or .parquet.")
@click.option("--plots", metavar="DIR", help="Draw pictures of what a quantisation did into DIR.")
@report_option
@click.option(
    "--to",
    "original",
    metavar="ORIGINAL",
    help="Compare each model with this one: several quantisations.",
)
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
@filter_options
@remote_option
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. The results do not depend on it.")
@click.option(
    "--memory",
    type=parse_size,
    metavar="SIZE",
    help="At most, e.g. 512MB or 2GiB. [default: 1GiB or 1/4 of RAM]",
)
@click.option("--dry-run", is_flag=True, help="Show what would be read, and the memory it takes; read no data.")
@executor_options
@device_options
@format_option
@verbose_option
@seed_option
def compare(
    models: tuple[str, ...],
    model1: str | None,
    model2: str | None,
    base: str | None,
    index: str | None,
    methods: tuple[str, ...],
    output: str | None,
    plots: str | None,
    original: str | None,
    output_format: str,
    **rest: Any,
) -> None:
    """Compare two models A and B, parameter by parameter, in one pass over the weights of both.

    Says how far B is from A, in one word what kind of fine-tune it is (for which a sample of matrices is read once
    more), which parameters changed most, which are the same, and which only one of them has. Models of different depth
    are aligned by name. With --methods spectral and others, also how what `scan` says of each matrix
    differs.

    Where a model is quantised, also what that did: SQNR by storage, role and block against bits for a weight, the worst
    parameters first (name the original first). With --to ORIGINAL several quantisations stand side by side.
    """
    from contextlib import ExitStack

    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.compare.job import compare as measure
    from netweight.jobs.compare.plan import ALWAYS, Options, prepare
    from netweight.jobs.pages import check_report

    if original is not None:
        if rest["dry_run"] or rest["report"] or model1 is not None or model2 is not None:
            idle = "--dry-run" if rest["dry_run"] else "--report" if rest["report"] else "--model1 and --model2"
            raise OptionError(f"{idle}: cannot be given with --to, which compares the models named as arguments")
        options = options_from(Options, rest)
        _side_by_side(original, models, methods, output, plots, options, output_format, verbose=rest["verbose"])
        return
    found = chosen_base(base, models, index)
    a, b = _references(models if found is None else (found, *models), model1, model2)
    methods = methods or (ALWAYS,)
    options = options_from(Options, rest, remote=rest["remote"] or rest["dry_run"])
    if rest["report"] is not None:
        check_report(rest["report"])
    if rest["dry_run"]:
        from netweight.jobs.inputs import locations
        from netweight.jobs.scan.result import check_file, check_output

        if output:
            check_output(output)
        with ExitStack() as stack:
            prepared = prepare(a, b, methods, options, stack)
            if output:
                check_file(output, locations((prepared.a, prepared.b)))
            _show_plan(prepared, output_format, verbose=rest["verbose"])
        return
    result = measure(
        a, b, methods=methods, output=output, plots=plots, options=options, progress=progress_for(output_format)
    )
    if rest["report"] is not None:
        result.report(rest["report"])
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_comparison(result, top_changes=rest["top_changes"], verbose=rest["verbose"])
        for place in (output, plots, rest["report"]):
            if place is not None:
                click.echo(f"written to {printable(place)}")
    if result.failed:
        raise SystemExit(1)


def _side_by_side(
    original: str,
    models: tuple[str, ...],
    methods: tuple[str, ...],
    output: str | None,
    plots: str | None,
    options: Options,
    output_format: str,
    *,
    verbose: bool,
) -> None:
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.compare.several import compare_to
    from netweight.views.quantisation import show_side_by_side

    if methods:
        raise OptionError("--methods: has no effect with --to, which compares the weights; leave it out")
    progress = progress_for(output_format)
    result = compare_to(original, models, output=output, plots=plots, options=options, progress=progress)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_side_by_side(result, verbose=verbose)
        for place in (output, plots):
            if place is not None:
                click.echo(f"written to {printable(place)}")
    if any(held.failed for held in result.models.values()):
        raise SystemExit(1)


def _references(models: tuple[str, ...], model1: str | None, model2: str | None) -> tuple[str, str]:
    named = [ref for ref in (model1, model2) if ref is not None]
    models_given = [*models, *named] if not models or not named else []
    if len(models_given) != 2:
        raise OptionError("compare takes two models, A and B: folders or files; see `netweight compare --help`")
    return models_given[0], models_given[1]


def _show_plan(prepared: Prepared, output_format: str, *, verbose: bool) -> None:
    if output_format == "human":
        show_plan(prepared, verbose=verbose)
    elif output_format == "json":
        pairing = prepared.pairing
        planned = {
            **prepared.plan.to_dict(),
            "bytes_to_read": prepared.nbytes,
            "read_again_at_most": {"matrices": prepared.sample.matrices, "bytes": prepared.sample.nbytes},
            "methods": list(prepared.methods),
            "tasks": [
                {"param": t.name, "start": t.start, "stop": t.stop, "bytes": t.nbytes} for t in prepared.plan.tasks
            ],
            "not_comparable": [{"name": p.name, "reason": p.reason} for p in pairing.pairs if p.reason],
            "only_in_model1": list(pairing.only_in_a),
            "only_in_model2": list(pairing.only_in_b),
            "skipped": [{"name": s.name, "reason": s.reason} for s in pairing.skipped],
            "notes": list(prepared.notes),
        }
        print_json(planned)
