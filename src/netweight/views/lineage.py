"""What `netweight lineage` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netweight.errors import printable
from netweight.views.console import print_folded, print_trimmed, stdout_console
from netweight.views.fitted_table import labels, name, numbers, print_table, text
from netweight.views.text import human_bytes, one_line, print_more, print_notes

if TYPE_CHECKING:
    from netweight.jobs.lineage.confirm import Confirmation
    from netweight.jobs.lineage.index import Index
    from netweight.jobs.lineage.result import LineageResult
    from netweight.jobs.lineage.tree import Edge

__all__ = ["show_checks", "show_confirmation", "show_index", "show_lineage"]

_LISTED = 60


def show_lineage(result: LineageResult, *, verbose: bool) -> None:
    """Print families as trees, the evidence of every edge, merges, and what is related to nothing."""
    from rich.text import Text

    console = stdout_console()
    read = sum(sketch.about.read_bytes for sketch in result.sketches)
    tested = sum(bool(relation.evidence.blocks) for relation in result.relations)
    click.echo(
        f"models: {len(result.sketches)}, pairs tested: {tested}, on a part of each: {human_bytes(read)} of weights;"
        " --confirm A B is the full test of two"
    )
    if result.base_of is not None:
        _show_base(result)
    alone = [family[0] for family in result.families if len(family) == 1]
    for number, family in enumerate([family for family in result.families if len(family) > 1], 1):
        console.print()
        print_trimmed(console, Text(f"family {number}: {len(family)} models", style="bold"))
        held = [edge for edge in result.edges if edge.a in family]
        lines = [_edge(edge) for edge in held]
        print_table(console, [name("from"), name("to"), text("relation"), *numbers("drift", "log10 p")],
                    lines[:_LISTED], header="dim")  # fmt: skip
        print_more(len(lines) - _LISTED, "edges")
    if alone:
        console.print()
        print_trimmed(console, Text("related to none of the others", style="bold"))
        print_table(console, [name("model"), text("why")], [_alone(result, one) for one in alone], header="dim")
    if result.checks:
        console.print()
        show_checks(result, verbose=verbose)
    console.print()
    notes = [note for sketch in result.sketches for note in sketch.about.notes]
    print_notes(notes if verbose else notes[:5])
    if any(not edge.directed for edge in result.edges):
        click.echo("-- no arrow: nothing in the weights says which came first")


def _edge(edge: Edge) -> list[str]:
    drift = "" if edge.drift is None else f"{edge.drift:.3g}"
    p = "" if edge.log10_p is None else f"{edge.log10_p:.0f}"
    return [printable(edge.a), f"{'->' if edge.directed else '--'} {printable(edge.b)}", edge.label, drift, p]


def _alone(result: LineageResult, model: str) -> list[str]:
    """Why a model has no family: the pair that says least of it."""
    held = [relation for relation in result.relations if model in (relation.a, relation.b)]
    if not held:
        return [printable(model), "no model looks like it at a first look"]
    undecided = [relation for relation in held if relation.relation == "undecided"]
    if undecided:
        other = undecided[0].b if undecided[0].a == model else undecided[0].a
        return [printable(model), one_line(f"undecided, of {other}: {'; '.join(undecided[0].reasons)}")]
    least = max(relation.evidence.detectable for relation in held)
    lowest = min(relation.evidence.log10_p for relation in held)
    said = f"unrelated: least p {10**lowest:.2g} of {len(held)}; a correlation of {least:.2g} would have been found"
    return [printable(model), said]


def _show_base(result: LineageResult) -> None:
    base = result.base()
    asked = printable(str(result.base_of))
    if base is None:
        click.echo(f"base    {asked}: no model of these is one that it could have been made from")
        return
    other = base.b if base.a == result.base_of else base.a
    known = base.direction.reason if base.direction.known else "which came first is open"
    click.echo(f"base    {asked}: {printable(other)} ({base.relation}, {base.sure}; {known})")


def show_checks(result: LineageResult, *, verbose: bool) -> None:
    """Print what cards claim, and what the weights say of it: those that are not supported, or all."""
    from rich.text import Text

    console = stdout_console()
    counts = Counter(check.verdict for check in result.checks)
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    print_trimmed(console, Text(f"claims of cards and configs: {said}", style="bold"))
    shown = [check for check in result.checks if verbose or check.verdict != "supported"]
    for check in shown:
        click.echo(
            f"{check.verdict}: {printable(check.model)} says {printable(check.named)} ({printable(check.where)})"
        )
        print_folded(f"    {one_line(check.reason)}")
    if len(shown) < len(result.checks):
        print_more(len(result.checks) - len(shown), "claims that are supported")


def show_index(index: Index, done: Sequence[str], folder: str) -> None:
    """Print what was added to an index."""
    size = sum(file.stat().st_size for file in index.folder.rglob("*") if file.is_file())
    click.echo(f"{printable(folder)}: {len(index)} models, {human_bytes(size)}; {len(done)} were read now")


def show_confirmation(result: Confirmation) -> None:
    """Print the full test of two models, block by block."""
    from rich.text import Text

    console = stdout_console()
    click.echo(f"{printable(result.a)} and {printable(result.b)}: {result.verdict}, log10 p = {result.log10_p:.4g}")
    flipped = f", {result.signs_flipped} signs flipped" if result.signs_flipped else ""
    click.echo(f"tokens    {result.pairing}")
    click.echo(f"stream    {result.how}{flipped}; likeness of the embeddings after that {result.likeness:.3f}")
    click.echo(f"units     {100 * result.share:.3g}% of them matched alike by both kinds of weights (median of blocks)")
    if result.how == "rotated":
        click.echo(
            "note: the rotation is fitted to the tokens, which models of one text place alike: p is too small for"
        )
        click.echo("      independent ones, and the verdict asks for 30% of the units, too")
    for said in result.narrowed:
        click.echo(f"narrower  {said}")
    console.print()
    print_trimmed(console, Text("blocks of units, and the heads beside them", style="bold"))
    slots = ("q_proj", "k_proj", "v_proj", "o_proj")
    rows = []
    for layer in result.layers:
        likeness = " ".join(f"{value:.2f}" for value in layer.cosine.values())
        heads = " ".join("-" if layer.alignment.get(s) is None else f"{layer.alignment[s]:.2f}" for s in slots)
        rows.append(
            [layer.b, layer.a if layer.found else "none", f"{layer.agreed}/{layer.units}", f"{layer.expected:.1f}",
             f"{layer.log10_p:.0f}", "" if layer.rho is None else f"{layer.rho:.2f}", likeness, heads]
        )  # fmt: skip
    headings = ("agreed", "by chance", "log10 p", "rank", "cosine g u d", "CKA q k v o")
    print_table(console, [*labels(printable(result.b), printable(result.a)), *numbers(*headings)], rows, header="dim")
    console.print()
    print_notes(result.notes)
    click.echo(f"again: netweight lineage --confirm A B --seed {result.seed}")
