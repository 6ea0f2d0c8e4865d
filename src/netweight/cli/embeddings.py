"""`netweight embeddings`: the token embedding in clusters, tokens near a token, rows that look untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased, SpaceSeparated
from netweight.cli.options import (
    device_options,
    filter_options,
    format_option,
    low_memory_option,
    one_model,
    options_from,
    parse_size,
    remote_option,
    say_without_gpu,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.views.embeddings import show_embeddings, show_neighbours, show_plan
from netweight.views.text import print_json

__all__ = ["embeddings"]

_OUTPUT = "embedding_analysis"


@click.command(
    cls=Command, short_help="The token embedding in clusters, tokens near a token, rows that look untrained."
)
@click.argument("model", required=False)
@click.option("--model", "named", cls=Aliased, aliases=("--model_path", "--model-path"), hidden=True)
@click.option(
    "-o",
    "--output-dir",
    cls=Aliased,
    aliases=("--output_dir", "--outdir"),
    metavar="DIR",
    help=f"Where the results go. [default: ./{_OUTPUT}]",
)
@click.option("--out", "out_file", hidden=True, metavar="FILE", help="The CSV; everything else goes beside it.")
@click.option(
    "--max-k",
    cls=Aliased,
    aliases=("--max_k",),
    type=click.IntRange(min=2),
    default=30,
    show_default=True,
    metavar="K",
    help="The most clusters to try; the least are 2.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=3),
    default=20_000,
    show_default=True,
    metavar="ROWS",
    help="Rows to which k-means is fitted for each k. F, and the fit for the chosen k, are of all rows.",
)
@click.option(
    "--random-state",
    cls=Aliased,
    aliases=("--random_state", "--seed"),
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the sample and of the first centres.",
)
@click.option(
    "--n-representatives",
    cls=Aliased,
    aliases=("--n_representatives",),
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Tokens to name of each cluster, the nearest to its centre.",
)
@click.option(
    "--skip-representatives",
    cls=Aliased,
    aliases=("--skip_representatives",),
    is_flag=True,
    help="Name none; the tokenizer is not read.",
)
@click.option(
    "--nearest",
    cls=SpaceSeparated,
    metavar="TOKEN ...",
    help="Only show the nearest tokens to a text or an id (text:12: the text 12).",
)
@click.option(
    "--neighbours",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="How many, with --nearest.",
)
@filter_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. The results do not depend on it.")
@click.option(
    "--memory",
    type=parse_size,
    metavar="SIZE",
    help="At most, e.g. 1500MB or 2GiB. [default: 2GiB or 1/4 of RAM]",
)
@click.option("--dry-run", is_flag=True, help="Show what would be read, and the memory it takes; read no data.")
@remote_option
@device_options
@format_option
@verbose_option
@low_memory_option
def embeddings(model: str | None, named: str | None, output_dir: str | None, output_format: str, **rest: Any) -> None:
    """Put the rows of MODEL's token embedding into clusters by k-means, as many as one-way ANOVA's F speaks for.

    Writes the clusters with their sizes, silhouettes and the tokens nearest to their centres, the curve of F, a picture
    of the clusters, every token's cluster and norm, the embedding's row of a scan; says which rows look untrained, and
    how far the output embedding agrees with the input embedding. Needs scikit-learn and tokenizers: pip install
    'netweight[embeddings]'.
    """
    from contextlib import ExitStack

    from netweight.cli.progress.share import share_progress_for
    from netweight.jobs.embeddings.job import embeddings as cluster
    from netweight.jobs.embeddings.plan import Options, prepare

    ref = one_model(model, named)
    if rest["nearest"]:
        _show_nearest(ref, output_format, rest)
        return
    folder, scan_row = _output_paths(output_dir, rest["out_file"])
    options = options_from(Options, rest, remote=rest["remote"] or rest["dry_run"])
    if rest["dry_run"]:
        from netweight.jobs.embeddings.result import result_folder
        from netweight.jobs.inputs import locations

        with ExitStack() as stack:
            prepared = prepare(ref, options, stack)
            inputs, represented = locations([prepared.checkpoint]), not options.skip_representatives
            result_folder(folder, inputs, represented=represented, scan_row=scan_row).check()
            show_plan(prepared, options, output_format)
        return
    result = cluster(ref, folder, options=options, progress=share_progress_for(output_format), scan_row=scan_row)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_embeddings(result, verbose=rest["verbose"])
        click.echo(f"written to {printable(folder)}")


def _output_paths(output_dir: str | None, out_file: str | None) -> tuple[str, str | None]:
    """(folder, name of the CSV): the replaced tool's --out named the file."""
    if out_file is None:
        return output_dir or f"./{_OUTPUT}", None
    if output_dir is not None:
        raise OptionError("--out and --output-dir: both say where the results go; leave one out")
    if not out_file.lower().endswith(".csv"):
        return out_file, None
    return str(Path(out_file).parent), Path(out_file).name


def _show_nearest(ref: str, output_format: str, rest: dict[str, Any]) -> None:
    from netweight.jobs.embeddings.nearest import nearest_tokens

    say_without_gpu(rest, "neighbours are found", output_format)
    neighbours = nearest_tokens(
        ref,
        rest["nearest"],
        count=rest["neighbours"],
        include=rest["include"],
        exclude=rest["exclude"],
        workers=rest["workers"],
        remote=rest["remote"],
    )
    if output_format == "json":
        print_json(neighbours.to_dict())
    elif output_format == "human":
        show_neighbours(neighbours)
