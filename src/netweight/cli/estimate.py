"""`netweight estimate`: what a job would take, before it is run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import SpaceSeparated
from netweight.cli.options import complete_words, device_options, format_option, parse_size
from netweight.measures.registry import BY_NAME, SCANNED
from netweight.views.text import print_json

__all__ = ["estimate"]


def _jobs() -> Collection[str]:
    from netweight.jobs.estimate.plan import JOBS

    return JOBS


def _methods() -> Collection[str]:
    from netweight.merging.registry import METHODS

    return (*SCANNED, *BY_NAME, "all", *METHODS)


@click.command(cls=Command, short_help="How long a job would take on this machine, and what it reads.")
@click.argument("model")
@click.option(
    "--job", default="scan", show_default=True, metavar="NAME", shell_complete=complete_words(_jobs), help="Which job."
)
@click.option(
    "--methods",
    cls=SpaceSeparated,
    words=_methods,
    metavar="METHOD ...",
    shell_complete=complete_words(_methods),
    help="Of scan, compare, or the one of a merge.",
)
@click.option("--base", metavar="MODEL", help="What MODEL was fine-tuned from: delta, merge.")
@click.option(
    "--models", cls=SpaceSeparated, paths=True, metavar="MODEL ...", help="Beside MODEL: delta, merge, compare."
)
@click.option("--deep", is_flag=True, help="structure --deep: the weights too.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads, as the job would be told.")
@click.option("--memory", type=parse_size, metavar="SIZE", help="Memory to stay within, as the job would be told.")
@device_options
@format_option
def estimate(model: str, output_format: str, **rest: Any) -> None:
    """Say what a job would read, write, compute and hold, and how long it would take on this machine.

    Bytes, workers and memory are those of the job's own plan, made from headers. The time is the start, the bytes and
    the FLOPs at rates that are measured now: the job runs on made models of some 100 MB. NAME is scan, delta, compare,
    merge, structure, embeddings or info; what is merged may be a recipe.
    """
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.estimate.job import estimate as forecast
    from netweight.views.estimate import show_estimate

    result = forecast(model, progress=progress_for(output_format), **rest)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_estimate(result)
