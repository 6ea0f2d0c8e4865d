"""How `netweight compare` shows its result: a summary, the most changed parameters, and a row for each block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import click

from netweight.checkpoint.tensor import Skipped
from netweight.errors import printable
from netweight.measures.registry import find
from netweight.views.console import print_folded, stdout_console
from netweight.views.fitted_table import name as name_column
from netweight.views.fitted_table import numbers, print_pairs, print_table
from netweight.views.kind import again, show_modules
from netweight.views.quantisation import show_quantisation
from netweight.views.short_names import left_out_lines
from netweight.views.text import apart_lines, human_bytes, human_count, share

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.compare.plan import Prepared
    from netweight.jobs.compare.result import Comparison
    from netweight.params.pairing import Coverage

__all__ = ["show_comparison", "show_plan"]

_LISTED = 6
_COMPARED = 3  # fields of a method without a table of its own
_SHOWN = {
    "spectral": (
        ("condition", "condition_number_ratio"),
        ("sigma_1", "max_singular_value_ratio"),
        ("stable rank", "stable_rank_diff"),
    ),
    "quantization": (
        ("sqnr dB", "sqnr_db_diff"),
        ("outliers %", "outlier_percentage_diff"),
        ("extreme %", "extreme_outlier_percentage_diff"),
    ),
    "sparsity": (("sparsity", "sparsity_diff"), ("dead rows", "dead_rows_diff"), ("columns", "dead_columns_diff")),
    "tail": (("alpha", "alpha_diff"), ("weighted", "alpha_weighted_diff"), ("rank loss", "rank_loss_diff")),
}
"""(heading, field) of what the console has room for; files hold all. Of other methods: their first fields."""


def show_plan(prepared: Prepared, *, verbose: bool) -> None:
    """What a dry run says."""
    plan, pairing = prepared.plan, prepared.pairing
    _share_line(pairing.coverage)
    click.echo(f"A          {printable(prepared.a.ref)}")
    click.echo(f"B          {printable(prepared.b.ref)}")
    click.echo(f"methods    {', '.join(prepared.methods)}")
    click.echo(
        f"tensors    {plan.tensors} to compare, {plan.skipped} left out, {len(pairing.only_in_a)} only in A,"
        f" {len(pairing.only_in_b)} only in B"
    )
    more = again(prepared.sample, human_bytes(prepared.sample.nbytes))
    click.echo(f"to read    {human_bytes(prepared.nbytes)} in {len(plan.tasks)} tasks{more}")
    click.echo(f"memory     about {human_bytes(plan.memory)} with {plan.workers} workers")
    click.echo(f"device     {plan.device}: {plan.device_reason}")
    if verbose:
        for task in plan.tasks:
            click.echo(f"  {printable(task.name)} [{task.start}:{task.stop}]  {human_bytes(task.nbytes)}")
    unlike = [Skipped(p.name, p.reason) for p in pairing.pairs if p.reason]
    for line in left_out_lines([*unlike, *pairing.skipped], verbose=verbose):
        click.echo(line)
    _one_sided(pairing.only_in_a, pairing.only_in_b, verbose=verbose)
    for note in prepared.notes:
        click.echo(f"note: {printable(note, 400)}")
    click.echo("nothing was read or written; leave out --dry-run to run it")


def show_comparison(result: Comparison, *, top_changes: int, verbose: bool = False) -> None:
    """Print the result for people."""
    console = stdout_console()
    _share_line(result.coverage)
    _summary(result, console)
    if verbose and result.kind is not None:
        show_modules(result.kind, console)
    if result.quantisation is not None:
        show_quantisation(result, result.quantisation, console, top_changes)
    elif top_changes:
        _most_changed(result, console, top_changes)
    _blocks(result, console)
    click.echo()
    _named("identical", "every value is the same", result.identical, verbose=verbose)
    same = set(result.identical)
    _named("with the norm within 1%", "not identical", [n for n in result.frozen if n not in same], verbose=verbose)
    _named("adapted", "norm beyond 10%", result.adapted, verbose=verbose)
    _one_sided(result["only_in_model1"], result["only_in_model2"], verbose=verbose)
    for line in left_out_lines([*result.failed, *result.skipped], verbose=verbose):
        click.echo(line)
    changes = [(p, _value(p.metrics, "max_absolute_difference")) for p in result.apart]
    for line in apart_lines([(p.name, p.parameter.state, None if isnan(c) else c) for p, c in changes]):
        click.echo(line)
    flagged = [(p.name, p.metrics["flag"]) for p in result.parameters if p.metrics["flag"]]
    _listed("flagged", (f"{printable(name)}: {flag}" for name, flag in flagged), verbose=verbose)
    for note in result.notes:
        click.echo(f"note: {printable(note, 400)}")


def _share_line(coverage: Coverage | None) -> None:
    """The line that says how much was compared, where it is not all of both models."""
    if coverage is not None and not coverage.complete:
        line = f"compared {share(coverage.a)} of A's parameters, {share(coverage.b)} of B's"
        print_folded(f"{line}; the rest is left out")


def _compared(result: Comparison) -> str:
    """How many parameters and values; of how many, where that is all that the models have."""
    t = result.totals
    number, values = t["parameters"], f"{human_count(t['elements'])} values"
    if result.coverage is None or result.coverage.complete:
        return f"{number} of {len(result.parameters)} parameters, {values}"
    held = len(result.parameters) + len(result["only_in_model1"])
    alone = len(result["only_in_model2"])
    return f"{number} of A's {held} parameters, {values}{f'; {alone} more in B alone' if alone else ''}"


def _summary(result: Comparison, console: Console) -> None:
    t = result.totals
    of_norm = t["relative_l2_distance"]
    values = (
        f"{_percent(t['identical_percentage'])} identical,"
        f" {_percent(t['significant_change_percentage'])} changed by more than 1%,"
        f" {_percent(t['sign_flip_percentage'])} changed sign"
    )
    rows = [
        ("A", printable(result.refs[0])),
        ("B", printable(result.refs[1])),
        ("compared", _compared(result)),
        (
            "l2 distance",
            _number(t["l2_distance"]) + (f", {_percent(100 * of_norm)} of A's norm" if not isnan(of_norm) else ""),
        ),
        ("cosine", _cosine(t["cosine_similarity"])),
        ("norm ratio", _number(t["l2_norm_ratio"])),
        ("largest change", _number(t["max_absolute_difference"])),
        ("values", values),
        *_overlaps(result),
    ]
    if result.kind is not None:
        rows.append(("B is", printable(str(result.kind), 1000)))
    print_pairs(console, rows)


def _overlaps(result: Comparison) -> Iterable[tuple[str, str]]:
    """How far two adapters change the same directions, as means over their matrices."""
    means = []
    for space in ("column", "row"):
        known = [v for p in result.parameters if not isnan(v := _value(p.metrics, f"{space}_overlap"))]
        if known:
            means.append(f"{space} spaces {sum(known) / len(known):.3f}")
    if means:
        yield "overlap", f"{', '.join(means)} (1: the same directions, 0: orthogonal ones)"


def _most_changed(result: Comparison, console: Console, top: int) -> None:
    from netweight.jobs.compare.result import find_most_changed_layers

    changed = [entry for entry in find_most_changed_layers(result, top) if entry[1] > 0]
    click.echo()
    if not changed:
        distance = result.totals["l2_distance"]
        # a permutation of the weights keeps mean, spread and norm
        click.echo("no parameter changed in mean, spread or norm" if distance > 0 else _unchanged(result))
        return
    rows = [
        (
            printable(name),
            _number(score, 4),
            _percent(100 * _value(m, "relative_l2_distance")),
            _cosine(_value(m, "cosine_similarity")),
            _percent(_value(m, "identical_percentage")),
            _number(_value(m, "l2_norm_ratio"), 4),
            _number(_value(m, "max_absolute_difference"), 3),
            _percent(_value(m, "sign_flip_percentage")),
        )
        for name, score, m in changed
    ]
    headings = ("score", "of norm", "cosine", "same", "norm B/A", "largest", "signs")
    print_table(console, [name_column("most changed"), *numbers(*headings)], rows)
    _between(result, console, top)


def _unchanged(result: Comparison) -> str:
    left_out = result.totals["n_nonfinite"]
    more = f", but {left_out} with NaN or infinity on either side were not compared" if left_out else ""
    return f"no parameter changed{more}"


def _between(result: Comparison, console: Console, top: int) -> None:
    """How the most changed matrices differ in what the scan measures say: a table for each."""
    from netweight.jobs.compare.result import find_most_changed_layers

    matrices = {p.name for p in result.parameters if len(p.shape or ()) > 1}
    ranked = find_most_changed_layers(result, len(result.parameters))
    changed = [entry for entry in ranked if entry[0] in matrices][:top]
    for method in result.methods:
        shown = _SHOWN.get(method) or [(name, name) for name in find(method).compared[:_COMPARED]]
        if not shown or not changed:
            continue
        click.echo()
        columns = [name_column(f"{method}, from A to B"), *numbers(*(heading for heading, _ in shown))]
        rows = [(printable(name), *(_step(_value(m, field), field) for _, field in shown)) for name, _, m in changed]
        print_table(console, columns, rows)


def _step(value: float, field: str) -> str:
    """A ratio as x1.2, a difference with its sign."""
    if isnan(value):
        return "-"
    return f"x{value:.4g}" if field.endswith("_ratio") else f"{value:+.3g}" if value else "0"


def _blocks(result: Comparison, console: Console) -> None:
    if not result.totals["parameters"]:
        return
    click.echo()
    rows = [
        (
            printable(name),
            str(t["parameters"]),
            _number(t["l2_distance"], 4),
            _percent(100 * t["relative_l2_distance"]),
            _cosine(t["cosine_similarity"]),
            _percent(t["identical_percentage"]),
            _percent(t["significant_change_percentage"]),
            _percent(t["sign_flip_percentage"]),
        )
        for name, t in result.groups.items()
        if t["parameters"]
    ]
    headings = ("tensors", "l2", "of norm", "cosine", "same", "> 1%", "signs")
    print_table(console, [name_column("block"), *numbers(*headings)], rows)


def _named(what: str, why: str, names: Sequence[str], *, verbose: bool) -> None:
    if not names:
        return
    shown = names if verbose else names[:3]
    more = f" and {len(names) - len(shown)} more (--verbose lists them)" if len(names) > len(shown) else ""
    line = f"{len(names)} {what} ({why}): {', '.join(printable(n) for n in shown)}{more}"
    print_folded(line)


def _one_sided(only_in_a: Sequence[str], only_in_b: Sequence[str], *, verbose: bool) -> None:
    _named("only in A", "missing in B", only_in_a, verbose=verbose)
    _named("only in B", "missing in A", only_in_b, verbose=verbose)


def _listed(label: str, lines: Iterable[str], *, verbose: bool) -> None:
    held = list(lines)
    shown = held if verbose else held[:_LISTED]
    for line in shown:
        click.echo(f"{label}: {line}")
    if len(held) > len(shown):
        click.echo(f"{label}: {len(held) - len(shown)} more (--verbose lists them)")


def _value(metrics: Mapping[str, Any], field: str) -> float:
    value = metrics.get(field)
    return float(value) if isinstance(value, int | float) else float("nan")


def _number(value: float, digits: int = 6) -> str:
    return f"{value:.{digits}g}" if not isnan(value) else "-"


def _percent(value: float) -> str:
    """Three figures."""
    return f"{value:.3g}%" if not isnan(value) else "-"


def _cosine(value: float) -> str:
    """Six places, but 1 only where it is 1."""
    if isnan(value):
        return "-"
    if abs(value) == 1 or abs(value) < 0.9999995:
        return f"{value:.6f}"
    return ">.999999" if value > 0 else "<-.999999"
