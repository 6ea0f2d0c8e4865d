"""`netweight plan`: a format for every tensor, so that a model of a given size loses least."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased
from netweight.cli.options import complete_words, one_model, remote_option
from netweight.errors import printable
from netweight.views.text import print_json

__all__ = ["plan"]


def _backends() -> Collection[str]:
    from netweight.jobs.plan.backends import BACKENDS

    return [one.name for one in BACKENDS]


@click.command(cls=Command, short_help="Which tensor takes which number format, for a size.")
@click.argument("model")
@click.option("--size", required=True, metavar="SIZE", help="Of the model: 4.5bpw (bits for a parameter), or 8GB.")
@click.option(
    "--format",
    "backend",
    default="gguf",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_words(_backends),
    help="Who will quantise it: gguf (llama-quantize), compressed-tensors (llm-compressor), mlx.",
)
@click.option("--head", metavar="FORMAT", help="Least format of the head. [default: Q6_K; mlx: 6 bit]")
@click.option("--embedding", metavar="FORMAT", help="Least format of the token embedding. [default: any]")
@click.option("--imatrix", type=click.Path(), metavar="FILE", help="llama.cpp's importance of columns.")
@click.option("--exact", is_flag=True, help="Errors of all rows and experts, not of a sample.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. [default: one a core]")
@click.option("-o", "--output", cls=Aliased, aliases=("--out",), metavar="FILE", help="Write what the back end takes.")
@click.option("--plot", metavar="FILE.png", help="Draw the error against the size.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
@remote_option
def plan(model: str, *, as_json: bool, plot: str | None, **rest: Any) -> None:
    """Give every tensor of MODEL the format in which it loses least, in all of SIZE.

    What is kept small is the sum of the squared relative errors of the tensors. Only sampled rows are read. What that
    gains is measured on language models in docs/plan.md. With --json the result is printed as JSON.
    """
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.plan.job import plan as make
    from netweight.views.plan import show_plan

    ref = one_model(model, None)
    size = rest.pop("size")
    result = make(ref, size, progress=progress_for("json" if as_json else "human"), **rest)
    if plot is not None:
        result.draw(plot)
    if as_json:
        print_json(result.to_dict())
        return
    show_plan(result)
    for place in (rest["output"], plot):
        if place:
            click.echo(f"written to {printable(place)}")
