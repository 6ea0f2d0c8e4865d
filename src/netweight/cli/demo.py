"""`netweight demo`: what the commands do, on models that are made in seconds."""

from __future__ import annotations

import click

from netweight.cli.command import Command
from netweight.cli.options import seed_option
from netweight.views.text import human_count, one_line

__all__ = ["demo"]


@click.command(cls=Command, short_help="Make small models, and run the other commands on them.")
@click.argument("folder", metavar="[DIR]", default="demo")
@seed_option
def demo(folder: str, seed: int) -> None:
    """Make a small Llama-shaped base, five fine-tunes and two pruned copies in DIR (default: ./demo), run delta, scan,
    compare and structure on them, merge the fine-tunes, verify the merge, and say where to look.
    """
    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.demo.job import demo as make
    from netweight.views.delta import show_delta

    result = make(folder, seed=seed, progress=progress_for("human"))
    show_delta(result.result, str(result.outdir))
    first = result.models.fine_tunes[0]
    counts = result.scanned.health().counts()
    found = ", ".join(f"{count} {level}" for level, count in counts.items()) + " findings of health"
    changed = result.compared.totals
    pruned_summary = result.pruned[-1] / "analysis" / "structure_summary.txt"
    lost = {m.name: m.row.total for m in result.structures.models if m.row is not None}
    weights = [f"{one_line(m['model'].rpartition('/')[2])} {m['weight']:.6f}" for m in result.merged.weights["models"]]
    same = sum(v.verdict == "same" for v in result.verified.verdicts)
    click.echo(
        f"""
The five task vectors have norms in the proportion of a published example (182.6, 31.9, 0, 0.53, 9.3).
The base: {found}. {first.name} against it: cosine {changed["cosine_similarity"]:.6f}.
Merged by mode exp: {", ".join(weights)}; {same} of {len(result.verified.verdicts)} parameters verified.
Pruned copies: {", ".join(f"{one_line(name)} {human_count(count)} parameters" for name, count in lost.items())}.
Look at
  {one_line(str(result.folder / "report.html"))}   all of it as a page, in a browser
  {one_line(str(result.outdir / "pairwise_cosines.png"))}   which fine-tunes pull the same way
  {one_line(str(result.outdir / first.name / "group_l2_bar.png"))}   where in the model the first one changed
  {one_line(str(result.outdir / first.name / "per_param_stats.csv"))}   every parameter's norms, moments and quantiles
  {one_line(str(result.outdir / "delta.parquet"))}   all of it in one table
  {one_line(str(result.folder / "scan_plots" / "health.png"))}   the base's condition numbers, quantization risk, ranks
  {one_line(str(result.folder / "scan.json"))}   every measure of every matrix of the base
  {one_line(str(result.folder / "compare.json"))}   what differs between the base and the first fine-tune
  {one_line(str(pruned_summary))}   what pruning left, and which blocks are gone
  {one_line(str(result.merged.output))}   the merged model; netweight_merge.json in it says how it was made
Then try it on models of your own:
  netweight info MODEL
  netweight scan MODEL --methods all --health --plots pictures
  netweight compare A B
  netweight structure --models-dir DIR --base-model BASE --output-dir results
  netweight delta --base BASE --models MODEL1 MODEL2 --outdir results
  netweight merge --base BASE --models MODEL1 MODEL2 --mode exp --output MERGED"""
    )
