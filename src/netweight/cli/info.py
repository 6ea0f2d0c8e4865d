"""`netweight info MODEL`: what is in a checkpoint, from its headers alone."""

from __future__ import annotations

import click

from netweight.cli.command import Command
from netweight.cli.options import format_option, report_option
from netweight.errors import OptionError, UnsafeFileError, printable
from netweight.views.info import show_info
from netweight.views.text import print_json

__all__ = ["info"]


@click.command(cls=Command, short_help="What is in a checkpoint, from its headers alone.")
@click.argument("model", required=False)
@click.option("--model_path", "--model", "model_option", hidden=True, metavar="MODEL", help="The same as MODEL.")
@format_option
@click.option("--tree", is_flag=True, help="Show the tensors as a tree, equal layers folded into one branch.")
@click.option("--depth", type=click.IntRange(min=1), metavar="N", help="Levels of the tree to show. Implies --tree.")
@report_option
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
@click.option(
    "--strict", is_flag=True, help="Exit with 2 where a pickle names what is not on the list of harmless names."
)
def info(
    model: str | None,
    model_option: str | None,
    output_format: str,
    tree: bool,  # noqa: FBT001 - click passes by name
    depth: int | None,
    count_tied_twice: bool,  # noqa: FBT001
    strict: bool,  # noqa: FBT001
    report: str | None,
) -> None:
    """Say what is in MODEL without reading its weights.

    Format, files, parameters, bytes, dtypes, layers, heads, sizes, tied weights, and a table per role. MODEL is a
    folder, a file, a model of a hub or a URL: of these too only headers are read.
    """
    if (model is None) == (model_option is None):
        raise OptionError("info takes one MODEL: a folder or a file; see `netweight info --help`")
    from netweight.jobs.info.job import info as describe
    from netweight.jobs.pages import check_report

    ref = model if model is not None else str(model_option)
    if report is not None:
        check_report(report)
    result = describe(ref, count_tied_twice=count_tied_twice, tree=tree or depth is not None, listed=report is not None)
    if report is not None:
        result.report(report)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_info(result, depth=depth)
        if report is not None:
            click.echo(f"written to {printable(report)}")
    if strict and result.outside:
        listed = ", ".join(printable(name, 200) for name in result.outside)
        raise UnsafeFileError(f"{printable(ref)}: --strict: its pickle names what may not be harmless: {listed}")
