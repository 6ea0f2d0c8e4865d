"""`netweight demo`: everything that the commands do, on models that are made in seconds."""

from __future__ import annotations

import click

from netweight.cli.options import seed_option
from netweight.cli.text import one_line

__all__ = ["demo"]


@click.command(short_help="Make a small base and five fine-tunes, and measure them.")
@click.argument("folder", metavar="[DIR]", default="demo")
@seed_option
def demo(folder: str, seed: int) -> None:
    """Make a small Llama-shaped base and five fine-tunes in DIR (default: ./demo), measure them, say where to look."""
    from netweight.cli.delta import show_delta
    from netweight.cli.progress import progress_for
    from netweight.jobs.demo import demo as make

    found = make(folder, seed=seed, progress=progress_for("human"))
    show_delta(found.result, str(found.outdir))
    first = found.models.fine_tunes[0]
    click.echo(
        f"""
The five task vectors have norms in the proportion of a published example (182.6, 31.9, 0, 0.53, 9.3).
Look at
  {one_line(str(found.outdir / "pairwise_cosines.png"))}   which fine-tunes pull the same way
  {one_line(str(found.outdir / first.name / "group_l2_bar.png"))}   where in the model the first one changed
  {one_line(str(found.outdir / first.name / "per_param_stats.csv"))}   every parameter's norms, moments and quantiles
  {one_line(str(found.outdir / "delta.parquet"))}   all of it in one table
Then try it on models of your own:
  netweight info MODEL
  netweight delta --base BASE --models MODEL1 MODEL2 --outdir results"""
    )
