"""What `netweight merge` prints."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from netweight.cli.text import human_bytes, human_count
from netweight.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netweight.jobs.merge import Prepared
    from netweight.jobs.merge_plan import MergePlan
    from netweight.jobs.merge_result import Merged
    from netweight.jobs.merge_weights import Weighting

__all__ = ["show_merged", "show_plan"]

_LISTED = 8


def show_plan(
    prepared: Prepared,
    weighting: Weighting | None,
    plan: MergePlan,
    output: str | None,
    output_format: str,
    *,
    verbose: bool,
) -> None:
    """Print what the merge will do: weights, norms, cosines, bytes."""
    from netweight.jobs.merge_record import weighting_record
    from netweight.merging.recipe import write_recipe

    weights = weighting_record(prepared, weighting)
    passes = 2 if prepared.measures else 1
    if output_format == "json":
        found = {
            "job": "merge",
            "method": plan.recipe.method,
            "models": list(plan.references),
            "parameters": len(plan.targets),
            "bytes_to_read": passes * prepared.read,
            "bytes_to_write": prepared.written,
            "files": [{"name": s.name, "bytes": s.size} for s in prepared.shards],
            "workers": prepared.workers,
            "expected_memory": prepared.memory,
            "weights": weights,
            "recipe": write_recipe(plan.recipe),
            "dropped": [{"name": s.name, "reason": s.reason} for s in plan.dropped],
            "notes": list(plan.notes),
        }
        json.dump(found, sys.stdout, indent=2, allow_nan=False, ensure_ascii=True)
        click.echo()
    elif output_format == "human":
        click.echo(f"method     {plan.recipe.method}")
        if plan.recipe.base is not None:
            click.echo(f"base       {printable(plan.recipe.base)}")
        if weights:
            _show_weights(weights)
        else:
            for reference in plan.references:
                if reference != plan.recipe.base:
                    click.echo(f"model      {printable(reference)}")
        click.echo(f"parameters {len(plan.targets)}, {human_count(sum(t.size for t in plan.targets))} elements")
        again = ", and once more to measure the norms" if prepared.measures else ""
        click.echo(f"to read    {human_bytes(prepared.read)}{again}")
        where = f" to {printable(output)}" if output else ""
        click.echo(f"to write   {human_bytes(prepared.written)} in {len(prepared.shards)} file(s){where}")
        click.echo(f"memory     about {human_bytes(prepared.memory)} with {prepared.workers} workers")
        if verbose:
            for target in plan.targets:
                click.echo(
                    f"  {printable(target.name)} {list(target.shape)} {target.dtype} {target.method or 'copied'}"
                )
        _show_findings(plan.dropped, plan.notes, verbose=verbose)
        click.echo("nothing was written; leave out --dry-run to run it")


def show_merged(result: Merged, *, verbose: bool = False) -> None:
    """Print what was done."""
    record = result.record
    if result.weights:
        _show_weights(result.weights)
    parameters = record["parameters"]
    elements = sum(p["elements"] for p in parameters.values())
    files = len({p["file"] for p in parameters.values()})
    click.echo(f"{len(parameters)} parameters, {human_count(elements)} elements in {files} file(s)")
    dropped = record["dropped"]
    shown = dropped if verbose else dropped[:_LISTED]
    for entry in shown:
        click.echo(f"left out: {printable(entry['name'])}: {printable(entry['reason'])}")
    if len(dropped) > len(shown):
        click.echo(f"left out: {len(dropped) - len(shown)} more (--verbose lists them)")
    click.echo(f"written to {printable(str(result.output))}")


def _show_findings(dropped: Any, notes: Any, *, verbose: bool) -> None:
    shown = dropped if verbose else dropped[:_LISTED]
    for entry in shown:
        click.echo(f"left out: {printable(entry.name)}: {printable(entry.reason)}")
    if len(dropped) > len(shown):
        click.echo(f"left out: {len(dropped) - len(shown)} more (--verbose lists them)")
    for note in notes:
        click.echo(f"note: {printable(note, 400)}")


def _show_weights(weights: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    about = [f"{key} {value}" for key, value in weights.items() if key in ("mode", "alpha", "beta", "granularity")]
    click.echo(f"weights    {', '.join(about)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("L2", justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    for model in weights["models"]:
        weight = "by parameter" if model["weight"] is None else f"{model['weight']:.6f}"
        table.add_row(printable(model["model"]), "" if model["l2"] is None else f"{model['l2']:.6g}", weight)
    console.print(table)
    by_layer = weights.get("by_layer") or {}
    for label, found in list(by_layer.items())[:_LISTED]:
        click.echo(f"  {label}: {' '.join(f'{w:.4f}' for w in found)}")
    if len(by_layer) > _LISTED:
        click.echo(f"  and {len(by_layer) - _LISTED} more layers")
    cosines = weights.get("cosines")
    if cosines and len(cosines) > 1:
        pairs = [
            (cosines[i][j], weights["models"][j]["model"], weights["models"][i]["model"])
            for i in range(len(cosines))
            for j in range(i)
            if cosines[i][j] is not None
        ]
        for cosine, a, b in sorted(pairs, key=lambda pair: -abs(pair[0]))[:_LISTED]:
            click.echo(f"cosine {cosine:+.4f} between {printable(a, 60)} and {printable(b, 60)}")
        if len(pairs) > _LISTED:
            click.echo(f"and {len(pairs) - _LISTED} more pairs (--format json lists them)")
    if weights.get("merged_l2") is not None:
        click.echo(f"L2 of the weighted sum of the task vectors: {weights['merged_l2']:.6g}")
