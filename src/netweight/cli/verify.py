"""`netweight verify`: whether a merged model is what its recipe gives."""

from __future__ import annotations

import click

from netweight.cli.command import Command
from netweight.cli.options import (
    device_options,
    executor_options,
    filter_options,
    format_option,
    parse_size,
    remote_option,
    report_option,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.views.text import print_json, print_more

__all__ = ["verify"]

_LISTED = 10


@click.command(cls=Command, short_help="Compute a merged model again, and compare it with its files.")
@click.argument("merged", metavar="MERGED")
@click.option(
    "--moved",
    multiple=True,
    metavar="OLD=NEW",
    help="An input's name in the recipe, and where it is now; may be repeated.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. The results do not depend on it.")
@click.option(
    "--memory",
    type=parse_size,
    metavar="SIZE",
    help="At most, e.g. 512MB or 2GiB. [default: 1GiB or 1/4 of RAM]",
)
@report_option
@filter_options
@remote_option
@device_options
@executor_options
@format_option
@verbose_option
def verify(
    merged: str,
    moved: tuple[str, ...],
    workers: int | None,
    memory: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    output_format: str,
    remote: bool,  # noqa: FBT001 - click's way
    device: str,
    multi_gpu: bool,  # noqa: FBT001 - click's way
    executor_name: str,
    ray_address: str | None,
    verbose: bool,  # noqa: FBT001 - click's way
    report: str | None,
) -> int:
    """Compute the parameters of the folder MERGED, which merge, convert or extract-lora made, once more from the inputs
    that it names, and compare them with its files, bit for bit. --include and --exclude choose parameters.

    Returns 0 where all are what the recipe gives, 1 where some are not.
    """
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.pages import check_report
    from netweight.jobs.verify.job import verify as run

    if report is not None:
        check_report(report)
    places = {}
    for pair in moved:
        old, equals, new = pair.rpartition("=")
        if not equals or not old or not new:
            raise OptionError(
                f"--moved {printable(pair)}: expected OLD=NEW, the input's name in the recipe and its place"
            )
        places[old] = new
    result = run(
        merged,
        include=include,
        exclude=exclude,
        moved=places,
        workers=workers,
        memory=memory,
        remote=remote,
        device=device,
        multi_gpu=multi_gpu,
        progress=progress_for(output_format),
        executor_name=executor_name,
        ray_address=ray_address,
    )
    if report is not None:
        result.report(report)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        bad = [v for v in result.verdicts if v.verdict != "same"]
        listed = bad if verbose else bad[:_LISTED]
        for v in listed:
            count = f", {v.differing} elements" if v.differing else ""
            reason = f": {printable(v.reason)}" if v.reason else ""
            click.echo(f"{printable(v.name)}: {v.verdict}{count}{reason}")
        print_more(len(bad) - len(listed))
        of = "" if len(result.verdicts) == result.planned else f" (of {result.planned})"
        same = len(result.verdicts) - len(bad)
        click.echo(f"{same} of {len(result.verdicts)} parameters{of} are what the recipe gives, bit for bit")
        if report is not None:
            click.echo(f"written to {printable(report)}")
    return 0 if result.good else 1
