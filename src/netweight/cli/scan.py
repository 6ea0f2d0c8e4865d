"""`netweight scan`: every matrix's statistics, spectrum, quantization risk and sparsity."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased, SpaceSeparated
from netweight.cli.options import (
    device_options,
    executor_options,
    filter_options,
    format_option,
    low_memory_option,
    methods_option,
    one_model,
    options_from,
    remote_option,
    report_option,
    run_options,
    seed_option,
    verbose_option,
)
from netweight.errors import OptionError, printable
from netweight.measures.registry import BY_NAME, SCANNED, find
from netweight.views.text import print_json

if TYPE_CHECKING:
    from netweight.jobs.scan.result import ScanResults

__all__ = ["scan"]


class _Scan(Command):
    """The command with a list of what it can measure below its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and every measure with what it is."""
        super().format_options(ctx, formatter)
        with formatter.section("Methods"):
            formatter.write_dl([(name, find(name).doc) for name in (*SCANNED, *BY_NAME)])


@click.command(cls=_Scan, short_help="Statistics, spectrum, quantization risk and sparsity of every matrix.")
@click.argument("model", required=False)
@click.option("--model", "named", cls=Aliased, aliases=("--model_path", "--model-path"), hidden=True)
@click.option("--base", metavar="MODEL", help="Measure what this base has not: the fine-tuning.")
@partial(methods_option, usual="basic_stats; in CSV also spectral", by_name=True)
@click.option(
    "-o",
    "--output",
    cls=Aliased,
    aliases=("--out",),
    metavar="FILE",
    help="Write the results: .json, .csv or .parquet.",
)
@click.option("--plots", metavar="DIR", help="Draw pictures of what was measured into DIR.")
@report_option
@click.option(
    "--plot-tensors",
    cls=SpaceSeparated,
    metavar="GLOB ...",
    help="Matrices to draw one by one. [default: the four most telling]",
)
@click.option("--health", is_flag=True, help="What is worth a look: findings, with the thresholds behind them.")
@click.option(
    "--top-issues", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="Rows of each table."
)
@click.option(
    "--rank-k",
    cls=Aliased,
    aliases=("--rank_k",),
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the N leading singular values. [default: all]",
)
@click.option("--exact", is_flag=True, help="Formats of all rows, not of a sample.")
@click.option("--weights-only", is_flag=True, help="Leave out vectors: norms, biases, scales.")
@click.option("--no-split", is_flag=True, help="Not also the projections inside fused ones.")
@click.option("--count-tied-twice", is_flag=True, help="Measure tied weights under each of their names.")
@click.option("--model-id", cls=Aliased, aliases=("--model_id",), metavar="ID", help="Recorded in the results.")
@click.option("--revision", metavar="REV", help="Recorded in the results.")
@click.option("--parallel", is_flag=True, hidden=True)
@click.option("--no-gpu", cls=Aliased, aliases=("--no_gpu",), is_flag=True, hidden=True)
@partial(format_option, further=["csv"])
@filter_options
@remote_option
@run_options
@executor_options
@device_options
@verbose_option
@seed_option
@low_memory_option
def scan(model: str | None, named: str | None, output_format: str, **rest: Any) -> None:
    """Measure every matrix of MODEL, read once, and exactly: `formats`, and codes `within`, sample."""
    from contextlib import ExitStack

    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.pages import check_report
    from netweight.jobs.scan.job import scan as measure
    from netweight.jobs.scan.plan import Options, choose, prepare

    ref = one_model(model, named)
    if rest["base"] and rest["health"]:
        raise OptionError(
            "--health: judges weights, and with --base differences are measured; leave one of the two out"
        )
    options = options_from(
        Options,
        rest,
        split=not rest["no_split"],
        remote=rest["remote"] or rest["dry_run"],
        device=_device(rest["device"], no_gpu=rest["no_gpu"]),
        pictured=rest["report"] is not None,
    )
    methods = rest["methods"] or None
    if methods is None and output_format == "csv":
        methods = ("basic_stats", "spectral")
    if rest["report"] is not None:
        check_report(rest["report"])
    if rest["dry_run"]:
        from netweight.jobs.inputs import locations
        from netweight.jobs.scan.plots import plots_folder
        from netweight.jobs.scan.result import check_file, check_output
        from netweight.views.scan import show_plan

        if rest["output"]:
            check_output(rest["output"])
        with ExitStack() as stack:
            prepared = prepare(ref, choose(methods, rest["output"]), options, stack, rest["base"])
            inputs = locations(prepared.inputs)
            if rest["output"]:
                check_file(rest["output"], inputs)
            if rest["plots"]:
                plots_folder(rest["plots"], inputs, prepared.measures).check()
            show_plan(prepared, output_format, verbose=rest["verbose"])
        return
    result = measure(
        ref,
        base=rest["base"],
        methods=methods,
        output=rest["output"],
        plots=rest["plots"],
        plot_tensors=rest["plot_tensors"],
        options=options,
        resume=rest["resume"],
        progress=progress_for(output_format),
        model_id=rest["model_id"],
        revision=rest["revision"],
    )
    if rest["report"] is not None:
        result.report(rest["report"])
    _show(result, output_format, **rest)
    if result.failed:
        raise SystemExit(1)


def _device(name: str, *, no_gpu: bool) -> str:
    """What another tool's --no_gpu means."""
    if no_gpu and name not in ("auto", "cpu"):
        raise OptionError(f"--no-gpu and --device {name}: leave one of the two out")
    return "cpu" if no_gpu else name


def _show(result: ScanResults, output_format: str, **rest: Any) -> None:
    if output_format == "json":
        content = result.to_dict()
        if rest["health"]:
            content = {"health": result.health().to_dict(), "parameters": content}
        print_json(content)
    elif output_format == "csv":
        from netweight.jobs.scan.result import print_csv

        print_csv(result, sys.stdout)
    elif output_format == "human":
        from netweight.views.scan import show_scan

        show_scan(
            result.rows,
            top_issues=rest["top_issues"],
            skipped=[*result.failed, *(s for s in result.skipped if s not in result.failed)],
            notes=result.notes,
            health=result.health() if rest["health"] else None,
            differences=result.differences,
            verbose=rest["verbose"],
        )
        for place in (rest["output"], rest["plots"], rest["report"]):
            if place:
                click.echo(f"written to {printable(place)}")
