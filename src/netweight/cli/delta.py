"""`netweight delta`: what fine-tunes changed in their base."""

from __future__ import annotations

from typing import Any

import click

from netweight.cli.bases import chosen_base, index_option
from netweight.cli.command import Command
from netweight.cli.lists import SpaceSeparated
from netweight.cli.options import (
    device_options,
    executor_options,
    filter_options,
    format_option,
    options_from,
    remote_option,
    report_option,
    run_options,
    seed_option,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.views.delta import show_delta, show_plan
from netweight.views.text import print_json

__all__ = ["delta"]


@click.command(cls=Command, short_help="What fine-tunes changed: task vectors, and how alike they are.")
@click.option(
    "--base",
    metavar="MODEL",
    help="What they were fine-tuned from, or auto; adapters can do without.",
)
@index_option
@click.option(
    "--models",
    cls=SpaceSeparated,
    paths=True,
    required=True,
    metavar="MODEL ...",
    help="One or more fine-tuned models.",
)
@click.option("-o", "--outdir", default="./tv_stats", show_default=True, metavar="DIR", help="Where the results go.")
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
@report_option
@filter_options
@remote_option
@run_options
@executor_options
@device_options
@format_option
@verbose_option
@seed_option
def delta(
    base: str | None,
    index: str | None,
    models: tuple[str, ...],
    outdir: str,
    output_format: str,
    **rest: Any,
) -> None:
    """Measure the task vectors of fine-tuned MODELs: fine-tuned - base, for every parameter, in one pass.

    Says in one word what each fine-tune is (an adapter and its rank, a mask, one module, full ...); a sample of the
    matrices that changed is read once more for it.

    Writes into DIR, for each model: per_param_stats.csv, top50_by_l2.csv, top50_by_maxabs.csv, summary.json and
    group_l2_bar.png; for all of them: pairwise_cosines.csv and .png, and delta.parquet. An earlier result in DIR is
    replaced at the end, in one step; a file of others that has such a name ends the run before it begins.
    """
    from contextlib import ExitStack

    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.delta.job import delta as measure
    from netweight.jobs.delta.plan import Options, prepare
    from netweight.jobs.pages import check_report

    base = chosen_base(base, models, index)
    options = options_from(Options, rest, remote=rest["remote"] or rest["dry_run"], pictured=rest["report"] is not None)
    if rest["report"] is not None:
        check_report(rest["report"])
    if rest["dry_run"] and base is None:
        raise OptionError(
            "--dry-run: without --base adapters are read whole, and there is nothing to plan; leave it out"
        )
    if rest["dry_run"] and base is not None:
        from netweight.jobs.delta.result import result_folder

        with ExitStack() as stack:
            prepared = prepare(base, models, options, stack)
            result_folder(outdir, prepared.locations(), prepared.names).check()
            show_plan(prepared, output_format, verbose=rest["verbose"])
        return
    result = measure(base, models, outdir, options=options, resume=rest["resume"], progress=progress_for(output_format))
    if rest["report"] is not None:
        result.report(rest["report"])
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_delta(result, outdir, verbose=rest["verbose"])
        if rest["report"] is not None:
            click.echo(f"written to {printable(rest['report'])}")
