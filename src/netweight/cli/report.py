"""`netweight report`: a page of results."""

from __future__ import annotations

import click

from netweight.cli.command import Command
from netweight.errors import OptionError, printable

__all__ = ["report"]


@click.command(cls=Command, short_help="One HTML page of results, to look at and to send.")
@click.argument("results", nargs=-1, required=True, metavar="RESULT ...")
@click.option("-o", "--output", metavar="FILE", help="The page: one .html file.")
def report(results: tuple[str, ...], output: str | None) -> None:
    """Write one page of RESULTs that are there already: Parquet files of scan, compare and delta, JSON of scan, info,
    structure and verify, folders of delta and structure, and merged models.

    The file holds all that it shows, and loads nothing from elsewhere. The commands that measure write the same page
    with --report, and then with histograms and spectra.
    """
    from netweight.jobs.report.job import report as write

    if output is None:
        raise OptionError("--output: expected the page to write, a name that ends in .html, got none")
    write(results, output)
    click.echo(f"written to {printable(output)}")
