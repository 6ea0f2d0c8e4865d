"""`netweight estimate`: what a job would take, before it is run."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from netweight.cli.options import SpaceSeparated, device_options, filter_options, format_option, parse_size

__all__ = ["estimate"]


@click.command(short_help="How long a job would take on this machine, and what it reads.")
@click.argument("model")
@click.option(
    "--job",
    default="scan",
    show_default=True,
    metavar="NAME",
    help="scan, delta, compare, merge, structure, embeddings or info.",
)
@click.option(
    "--methods",
    cls=SpaceSeparated,
    metavar="METHOD ...",
    help="Those of scan and compare, or the one method of a merge. [default: the job's]",
)
@click.option("--base", metavar="MODEL", help="What MODEL was fine-tuned or pruned from: delta, merge, structure.")
@click.option(
    "--models",
    cls=SpaceSeparated,
    metavar="MODEL ...",
    help="Further models beside MODEL: delta, merge; the other one of compare.",
)
@click.option("--deep", is_flag=True, help="structure --deep: the weights too.")
@click.option("--output", metavar="DIR", help="Where a merge would go: its disk is what is measured. [default: .]")
@click.option(
    "--rates",
    metavar="FILE",
    help="JSON: rates that FILE holds are not measured again, those that it lacks are added.",
)
@filter_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads, as the job would be told.")
@click.option("--memory", type=parse_size, metavar="SIZE", help="Memory to stay within, as the job would be told.")
@device_options
@format_option
def estimate(model: str, output_format: str, **rest: Any) -> None:
    """Say what a job would read, write, compute and hold, and how long it would take on this machine.

    Bytes, workers and memory are those of the job's own plan, which is made from headers. Its passes are timed on made
    tensors, and up to 256 MiB of MODEL's files are read to see how fast they come: some seconds in all. The time is the
    start and then the longest of reading, computing and writing, which go on side by side.

    For a merge, MODEL may be a recipe.
    """
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.estimate.job import estimate as reckon
    from netweight.views.estimate import show_estimate

    found = reckon(model, progress=progress_for(output_format), **rest)
    if output_format == "json":
        json.dump(found.to_dict(), sys.stdout, indent=2, allow_nan=False, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        show_estimate(found)
