"""`netweight lineage`: which models descend from which, with evidence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.options import format_option, report_option, verbose_option
from netweight.errors import OptionError, printable
from netweight.views.text import print_json

__all__ = ["lineage"]


@click.command(cls=Command, short_help="Which models descend from which, with evidence.")
@click.argument("models", nargs=-1, metavar="[index] MODEL...")
@click.option("--index", metavar="DIR", help="Look at the models of this index, too.")
@click.option("--base-of", metavar="MODEL", help="Only what MODEL was made from.")
@click.option("--check", is_flag=True, help="Whether the weights bear out what cards claim; says so by the exit code.")
@click.option("--confirm", is_flag=True, help="The full test of two models, A and B, read whole but for norms.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the units that --confirm takes.")
@click.option("-o", "--output", metavar="DIR", help="Write .json, .parquet, .dot and .graphml; the index.")
@report_option
@click.option("--workers", type=click.IntRange(min=1), default=4, metavar="N", help="Reads at a time. [default: 4]")
@format_option
@verbose_option
def lineage(
    models: tuple[str, ...],
    index: str | None,
    base_of: str | None,
    output: str | None,
    report: str | None,
    output_format: str,
    **rest: Any,
) -> None:
    """Say how MODELs are related: which is a fine-tune, a merge, a cast, quantised, pruned, stacked or narrowed copy of
    which, and which are not related. A folder of models stands for all of them.

    A small part of each model is read (by ranges where it is far away), so any number of models takes seconds each. A
    relation has the p-value of an exact test that the two began independently; "unrelated" is only said where that
    test would have found a relation. docs/lineage.md says what each relation means, and what is not told.

    `netweight lineage index MODEL... --output DIR` keeps what was read, a few MB a model; --index DIR looks at all of
    them. --confirm A B reads the embedding, MLPs and attention of two models, and finds a copy whose units, heads and
    dimensions were reordered, rescaled or rotated. --check ends with 0 where all claims of cards are supported, 3 where
    one is contradicted, 4 where one cannot be decided.
    """
    given = {"--index": index, "--base-of": base_of, "--check": rest["check"], "--report": report}
    if models[:1] == ("index",):
        _refuse("lineage index", given | {"--confirm": rest["confirm"]})
        _index(models[1:], output, output_format, rest)
        return
    if rest["confirm"]:
        _refuse("--confirm", given)
        _confirm(models, output, output_format, rest["seed"])
        return
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.lineage.job import lineage as find
    from netweight.views.lineage import show_lineage

    if report is not None:
        from netweight.jobs.pages import check_report

        check_report(report)
    processes = min(os.cpu_count() or 1, 8)
    result = find(
        models,
        index=index,
        base_of=base_of,
        progress=progress_for(output_format),
        workers=rest["workers"],
        processes=processes,
    )
    if output is not None:
        result.write(output)
    if report is not None:
        result.report(report)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_lineage(result, verbose=rest["verbose"])
        for place in (output, report):
            if place:
                click.echo(f"written to {printable(place)}")
    if rest["check"]:
        from netweight.jobs.lineage.checks import EXIT_CODES

        # of a model that could not be read nothing is known
        verdict = "undecided" if result.failed and result.verdict == "supported" else result.verdict
        click.get_current_context().exit(EXIT_CODES[verdict])
    if result.failed:
        click.get_current_context().exit(1)


def _refuse(what: str, given: Mapping[str, Any]) -> None:
    """Raises OptionError for an option that has no effect with `what`."""
    for option, value in given.items():
        if value:
            raise OptionError(f"{option}: has no effect with {what}; leave it out")


def _index(models: tuple[str, ...], output: str | None, output_format: str, rest: dict[str, Any]) -> None:
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.lineage.job import index_models
    from netweight.views.lineage import show_index

    if output is None:
        raise OptionError("lineage index: expected --output DIR, the folder of the index")
    held, done, failed = index_models(models, output, progress=progress_for(output_format), workers=rest["workers"])
    if output_format == "json":
        print_json({"models": len(held), "read": done, "failed": [vars(one) for one in failed]})
    elif output_format == "human":
        show_index(held, done, output)
    if failed:
        click.get_current_context().exit(1)


def _confirm(models: tuple[str, ...], output: str | None, output_format: str, seed: int) -> None:
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.lineage.confirm import confirm
    from netweight.views.lineage import show_confirmation

    if len(models) != 2:
        raise OptionError(f"--confirm: expected two models, got {len(models)}")
    result = confirm(*models, seed=seed, progress=progress_for(output_format), output=output)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_confirmation(result)
        if output:
            click.echo(f"written to {printable(output)}")
