"""What a terminal shows of a delta: its plan, or its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from netweight.errors import printable
from netweight.views.console import print_folded, stdout_console
from netweight.views.fitted_table import labels, numbers, print_table
from netweight.views.fitted_table import name as name_column
from netweight.views.fitted_table import text as text_column
from netweight.views.kind import again, show_kind, show_modules
from netweight.views.text import apart_lines, human_bytes, print_json, print_notes, share

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.delta.plan import Prepared
    from netweight.jobs.delta.result import Delta
    from netweight.params.pairing import Coverage

__all__ = ["show_delta", "show_plan"]

_LISTED = 6


def show_plan(prepared: Prepared, output_format: str, *, verbose: bool) -> None:
    """Print what a run would read, for --dry-run."""
    plan = prepared.plan
    if output_format == "json":
        skipped = {
            name: [{"name": s.name, "reason": s.reason} for s in entries]
            for name, entries in zip(prepared.names, prepared.alignment.skipped, strict=True)
        }
        tasks = [{"param": t.name, "start": t.start, "stop": t.stop, "bytes": t.nbytes} for t in plan.tasks]
        again_at_most = {"matrices": prepared.sample.matrices, "bytes": prepared.sample.nbytes}
        fields = {
            **plan.to_dict(),
            "read_again_at_most": again_at_most,
            "tasks": tasks,
            "skipped": skipped,
            "notes": list(prepared.notes),
        }
        print_json(fields)
    elif output_format == "human":
        _show_shares(prepared.names, prepared.alignment.coverage)
        click.echo(f"base       {printable(prepared.base.ref)}")
        for name, model in zip(prepared.names, prepared.models, strict=True):
            click.echo(f"model      {printable(model.ref)} as {printable(name)}")
        click.echo(f"tensors    {plan.tensors} to measure, {plan.skipped} left out")
        more = again(prepared.sample, human_bytes(prepared.sample.nbytes))
        click.echo(f"to read    {human_bytes(plan.nbytes)} in {len(plan.tasks)} tasks{more}")
        click.echo(f"memory     about {human_bytes(plan.memory)} with {plan.workers} workers")
        click.echo(f"device     {plan.device}: {plan.device_reason}")
        if verbose:
            for task in plan.tasks:
                span = f"[{task.start}:{task.stop}]"
                click.echo(f"  {printable(task.name)} {span}  {human_bytes(task.nbytes)}")
        _show_skipped(prepared.names, prepared.alignment.skipped, verbose=verbose)
        print_notes(prepared.notes)
        click.echo("nothing was read or written; leave out --dry-run to run it")


def _show_shares(names: Sequence[str], coverage: Sequence[Coverage]) -> None:
    """A line for each model that is measured in part; none where all of it is, and of the base."""
    for name, shares in zip(names, coverage, strict=True):
        if not shares.complete:
            line = f"measured {share(shares.a)} of the base's parameters, {share(shares.b)} of {printable(name)}'s"
            print_folded(f"{line}; the rest is left out")


def _show_skipped(names: Any, skipped: Any, *, verbose: bool) -> None:
    for name, entries in zip(names, skipped, strict=True):
        shown = entries if verbose else entries[:_LISTED]
        for entry in shown:
            click.echo(f"left out of {printable(name)}: {printable(entry.name)}: {printable(entry.reason)}")
        if len(entries) > len(shown):
            click.echo(f"left out of {printable(name)}: {len(entries) - len(shown)} more (--verbose lists them)")


def show_delta(result: Delta, outdir: str, *, verbose: bool = False) -> None:
    """Print the tables for people."""
    console = stdout_console()
    _show_shares([m.name for m in result.models], result.coverage)
    _show_models(result, console)
    for model in result.models:
        show_kind(model.name, model.kind)
        if verbose:
            show_modules(model.kind, console)
    if len(result.models) > 1:
        _show_cosines(result, console)
    _show_skipped([m.name for m in result.models], [m.skipped for m in result.models], verbose=verbose)
    for model in result.models:
        apart = [(e["name"], e["state"], e["maxabs"]) for e in model.summary.get("not_weights", ())]
        for line in apart_lines(apart):
            click.echo(f"{printable(model.name)}: {line}")
    print_notes(result.notes)
    for model in result.models:
        if model.summary["flagged"]:
            first = model.summary["flagged"][0]
            click.echo(
                f"flagged in {printable(model.name)}: {len(model.summary['flagged'])} parameters, first"
                f" {printable(first['name'])}: {first['flag']}"
            )
    click.echo(f"written to {printable(outdir)}")


def _show_models(result: Delta, console: Console) -> None:
    rows = []
    for number, model in enumerate(result.models):
        s = model.summary
        blocks = {k: g for k, g in s["groups"].items() if g["relative_l2"] and k != "layer"}
        most = max(blocks, key=lambda k: blocks[k]["relative_l2"], default="")
        row = (
            printable(model.name),
            _number(s["global_l2"]),
            "" if s["relative_l2"] is None else f"{100 * s['relative_l2']:.3g}%",
            _unchanged(result, number),
            str(s["n_params_considered"]),
            f"{printable(most)} {100 * blocks[most]['relative_l2']:.3g}%" if most else "",
        )
        rows.append(row)
    columns = [name_column("model"), *numbers("l2", "of base", "unchanged", "tensors"), *labels("changed most")]
    print_table(console, columns, rows)


def _unchanged(result: Delta, number: int) -> str:
    """Share of elements of one model that are exactly the base's."""
    rows = [(p.aligned.base.size, row) for p in result.parameters if (row := p.rows[number]) is not None]
    total = sum(size for size, _ in rows)
    if all(row["unchanged_percentage"] is None for _, row in rows):
        return ""
    same = sum(size * (row["unchanged_percentage"] or 0.0) for size, row in rows)
    return f"{same / total:.1f}%" if total else ""


def _number(value: float | None) -> str:
    return "beyond float64" if value is None else f"{value:.6g}"


def _show_cosines(result: Delta, console: Console) -> None:
    pairs = [
        (cosine, a.name, result.models[j].name)
        for i, a in enumerate(result.models)
        for j, cosine in enumerate(result.cosines[i][:i])
        if cosine is not None
    ]
    if not pairs:
        return
    pairs.sort(key=lambda pair: -abs(pair[0]))
    click.echo()
    rows = [(f"{cosine:+.4f}", f"{printable(b)} and {printable(a)}") for cosine, a, b in pairs[:_LISTED]]
    print_table(console, [*numbers("cosine"), text_column("between the task vectors of")], rows)
    if len(pairs) > _LISTED:
        click.echo(f"        and {len(pairs) - _LISTED} more pairs in pairwise_cosines.csv")
    click.echo()
