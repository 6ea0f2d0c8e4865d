"""What `netweight embeddings` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from netweight.errors import printable
from netweight.views.console import stdout_console
from netweight.views.fitted_table import numbers, print_table
from netweight.views.fitted_table import text as text_column
from netweight.views.text import human_bytes, human_count, print_json, print_more, print_notes

if TYPE_CHECKING:
    from netweight.jobs.embeddings.nearest import Neighbours
    from netweight.jobs.embeddings.plan import Options, Prepared
    from netweight.jobs.embeddings.result import Embeddings

__all__ = ["show_embeddings", "show_neighbours", "show_plan"]

_LISTED = 40
_IDS = 12


def show_embeddings(result: Embeddings, *, verbose: bool) -> None:
    """Print the clusters as a table, untrained rows, and the agreement with the output."""
    click.echo(f"model      {printable(result.ref)}")
    click.echo(f"embedding  {printable(result.parameter)}: {result.rows} x {result.cols}, {result.dtype}")
    click.echo(f"clusters   {result.optimal_k}: {result.choice.reason}")
    click.echo(f"F          {_short(result.f)} over {human_count(result.rows - len(result.left_out))} rows")
    click.echo(f"silhouette {_short(result.silhouette_score)}, of a sample of {result.silhouettes.rows} rows")
    click.echo()
    shown = result.clusters if verbose else result.clusters[:_LISTED]
    rows = [
        (
            str(cluster.cluster_id),
            str(cluster.size),
            f"{cluster.percentage:.1f}",
            _short(cluster.avg_distance),
            _short(cluster.silhouette_score),
            _texts(cluster),
        )
        for cluster in shown
    ]
    columns = [*numbers("cluster", "rows", "%", "distance", "silhouette"), text_column("nearest to the centre")]
    print_table(stdout_console(), columns, rows)
    print_more(len(result.clusters) - len(shown), "clusters")
    click.echo()
    _show_untrained(result)
    _show_output(result)
    print_notes(result.notes)


def show_neighbours(neighbours: Neighbours) -> None:
    """Print the neighbours as a table."""
    shown = []
    token_id = None
    for row in neighbours.rows:
        first = f"{row.token_id} {_text(row.text)}".rstrip() if row.token_id != token_id else ""
        token_id = row.token_id
        shown.append((first, f"{row.cosine:.4f}", str(row.neighbour_id), _text(row.neighbour_text)))
    columns = [text_column("token", right=True), *numbers("cosine", "id"), text_column("neighbour")]
    print_table(stdout_console(), columns, shown)
    print_notes(neighbours.notes)


def show_plan(prepared: Prepared, options: Options, output_format: str) -> None:
    """Print what a run would read, for --dry-run."""
    tensor = prepared.embedding.tensor
    if output_format == "json":
        plan: dict[str, Any] = {
            "parameter": tensor.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
            "bytes": tensor.nbytes,
            "max_k": options.max_k,
            "sample": prepared.sampled,
            "workers": prepared.workers,
            "memory": prepared.memory,
            "tokenizer": prepared.tokenizer,
            "output": prepared.embedding.output.to_dict() | {"rows": None},
            "notes": list(prepared.notes),
        }
        print_json(plan)
    elif output_format == "human":
        click.echo(f"model      {printable(prepared.checkpoint.ref)}")
        click.echo(f"embedding  {printable(tensor.name)}: {tensor.shape[0]} x {tensor.shape[1]}, {tensor.dtype}")
        click.echo(f"tokenizer  {printable(prepared.tokenizer, 300)}")
        click.echo(
            f"output     {printable(prepared.embedding.output.reason or str(prepared.embedding.output.output), 300)}"
        )
        click.echo(f"k-means    k from 2 to {options.max_k} on {prepared.sampled} rows, the chosen k on all")
        click.echo(f"to read    {human_bytes(tensor.file_bytes)}, once in each iteration over all rows")
        click.echo(f"memory     about {human_bytes(prepared.memory)} with {prepared.workers} workers")
        print_notes(prepared.notes)
        click.echo("nothing was computed or written; leave out --dry-run to run it")


def _show_untrained(result: Embeddings) -> None:
    poor = result.untrained
    click.echo(
        f"untrained  {len(poor.reasons)} rows look it"
        + (f", {len(poor.unused)} are known to be unused" if poor.unused else "")
    )
    for name, ids in poor.to_dict()["ids_by_reason"].items():
        if ids:
            more = f" and {len(ids) - _IDS} more" if len(ids) > _IDS else ""
            named = ", ".join(_named(result, i) for i in ids[:_IDS])
            click.echo(f"  {name.replace('_', ' ')}: {len(ids)}: {named}{more}")
    if poor.note:
        click.echo(f"  {poor.note}")


def _show_output(result: Embeddings) -> None:
    output = result.output
    if output.state != "compared":
        click.echo(f"output     {output.state}: {printable(output.reason, 300)}")
        return
    cosine, norms = _short(output.mean_cosine), _short(output.norm_correlation)
    click.echo(
        f"output     {printable(output.output or '')}: mean cosine of rows {cosine}, correlation of norms {norms}"
    )
    for label, rows in (("least", output.least), ("most", output.most)):
        if rows:
            click.echo(f"  {label} alike: " + ", ".join(f"{_named(result, i)} {c:.3f}" for i, c in rows[:5]))
    if output.reason:
        click.echo(f"  {printable(output.reason, 300)}")


def _named(result: Embeddings, number: int) -> str:
    text = result.texts[number] if result.texts is not None else None
    return f"{number} {_text(text)}" if text is not None else str(number)


def _texts(cluster: Any) -> str:
    texts = [_text(r.text) if r.text is not None else str(r.token_id) for r in cluster.representatives[:6]]
    return " ".join(texts)


def _text(text: str | None) -> str:
    """A token in quotes, harmless: it is the checkpoint's text."""
    return "" if text is None else printable(repr(text), 40)


def _short(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.4g}"  # noqa: PLR0124 - only NaN differs from itself
