"""What a terminal shows of a scan: the layers, the worst matrices, the health."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netweight.errors import OptionError, printable
from netweight.jobs.scan.result import assess_rows
from netweight.measures.health import number, topics
from netweight.measures.health_checks import LEVELS, Level, judge
from netweight.views.console import print_trimmed, stdout_console
from netweight.views.fitted_table import Column, print_table
from netweight.views.fitted_table import name as name_column
from netweight.views.scan_formats import show_formats
from netweight.views.scan_layers import LEVEL_STYLES, numbers, show_layers, small
from netweight.views.short_names import left_out_lines
from netweight.views.text import human_bytes, print_json, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.checkpoint.tensor import Skipped
    from netweight.jobs.scan.plan import Prepared
    from netweight.jobs.scan.result import ScanRow
    from netweight.measures.health import Finding, Health, Topic

__all__ = ["show_health", "show_plan", "show_scan"]

_PATTERNS = 3
_NAME_LIMIT = 2000
_WIDE = 120


def show_scan(
    rows: Sequence[ScanRow],
    *,
    top_issues: int,
    skipped: Sequence[Skipped] = (),
    notes: Sequence[str] = (),
    health: Health | None = None,
    differences: bool = False,
    verbose: bool = False,
) -> None:
    """Print the layers, the `top_issues` worst matrices by condition number, quantization and sparsity, what was left
    out and why, notes, and the health where it is given. Of `differences` the first note, which says so, is first.

    On stdout; lines fit a terminal, or COLUMNS where it is set, and are as long as they need elsewhere. Colours follow
    NO_COLOR, and every level is also a word or a letter.
    """
    console = stdout_console()
    if differences:
        _say(console, printable(notes[0], 400))
        console.print()
    if rows:
        assessed = health if health is not None else assess_rows(() if differences else rows)
        show_layers(console, rows, assessed.worst(), verbose=verbose)
    else:
        console.print("nothing was measured")
    if top_issues > 0:
        _show_conditions(console, rows, top_issues)
        _show_quantization(console, rows, top_issues)
        _show_sparsity(console, rows, top_issues)
    show_formats(console, rows)
    for line in left_out_lines(skipped, verbose=verbose):
        _say(console, line)
    for note in notes[differences:]:
        _say(console, f"note: {printable(note, 400)}")
    if health is not None:
        if skipped or notes:
            console.print()
        show_health(health, verbose=verbose)


def show_plan(prepared: Prepared, output_format: str, *, verbose: bool) -> None:
    """Print what a scan would read, for --dry-run; raises OptionError for CSV."""
    plan = prepared.plan
    if output_format == "json":
        skipped = [{"name": s.name, "reason": s.reason} for s in prepared.skipped]
        tasks = [{"param": t.name, "elements": t.stop, "bytes": t.nbytes} for t in plan.tasks]
        print_json({**plan.to_dict(), "tasks": tasks, "skipped": skipped, "notes": list(prepared.notes)})
    elif output_format == "human":
        click.echo(f"model      {printable(prepared.checkpoint.ref)}")
        click.echo(f"measures   {', '.join(m.name for m in prepared.measures)}")
        click.echo(f"matrices   {plan.tensors} to measure, {plan.skipped} tensors left out")
        click.echo(f"to read    {human_bytes(plan.nbytes)}")
        click.echo(f"memory     about {human_bytes(plan.memory)} with {plan.workers} workers")
        click.echo(f"device     {plan.device}: {plan.device_reason}")
        if verbose:
            for task in plan.tasks:
                click.echo(f"  {printable(task.name)}  {human_bytes(task.nbytes)}")
        for line in left_out_lines(prepared.skipped, verbose=verbose):
            click.echo(line)
        print_notes(prepared.notes)
        click.echo("nothing was read or written; leave out --dry-run to run it")
    elif output_format == "csv":
        raise OptionError("--dry-run has no CSV form; use --format human or json")


def show_health(health: Health, *, verbose: bool = False) -> None:
    """Print the findings (those over many layers as one), what was not measured, and the thresholds.

    `verbose` also explains findings of the level info.
    """
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    counts = ", ".join(f"{count} {level}" for level, count in health.counts().items())
    found = f"{counts}, in {health.judged} tensor{'s' * (health.judged != 1)}"
    print_trimmed(console, Text.assemble(("health  ", "bold"), found if health.judged else "nothing was judged"))
    if health.training is not None:
        print_trimmed(console, Text(health.training.said))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for topic in topics(health.findings):
        table.add_row(Text(topic.level, style=LEVEL_STYLES[topic.level]), _topic(topic, verbose=verbose))
    if health.findings:
        print_trimmed(console, table)
    for sentence in health.unmeasured:
        _say(console, f"not judged: {sentence}")
    if health.thresholds:
        console.print(Text("thresholds", style="dim"))
    for quantity, bounds in health.thresholds:
        print_trimmed(console, Text(f"  {quantity}: {bounds}", style="dim"))


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _topic(topic: Topic, *, verbose: bool) -> str:
    worst = topic.worst
    if topic.count == 1:
        lines = [f"{worst.said} in {_name(worst)}"]
    else:
        value = _value(worst)
        lines = [f"{topic.what}: {topic.count} tensors, {'the worst' if value else 'such as'} {value}{_name(worst)}"]
        shown = [f"{count} x {printable(name, _NAME_LIMIT)}" for name, count in topic.patterns[:_PATTERNS]]
        more = topic.count - sum(count for _, count in topic.patterns[:_PATTERNS])
        if topic.level != "info" or verbose:
            lines.append(", ".join(shown) + (f", and {more} more" if more else ""))
    if topic.level != "info" or verbose:
        lines.append(worst.advice)
    return "\n".join(lines)


def _name(finding: Finding) -> str:
    return printable(finding.parameter, _NAME_LIMIT)


def _value(finding: Finding) -> str:
    value = finding.said.removeprefix(finding.what).removeprefix(": ")
    return f"{value} in " if value else ""


def _show_conditions(console: Console, rows: Sequence[ScanRow], most: int) -> None:
    measured = [(row, numbers(row)) for row in rows if row.matrix]
    known = sorted(
        ((row, values["condition"], values) for row, values in measured if "condition" in values),
        key=lambda entry: -entry[1],
    )
    if not known:
        return
    lines = [
        (
            judge("condition", value),
            ["singular" if math.isinf(value) else small(value), _ranks(values)],
            row.name,
        )
        for row, value, values in known[:most]
    ]
    _table(console, "largest condition numbers", len(known), ["condition", "rank"], lines)


def _show_quantization(console: Console, rows: Sequence[ScanRow], most: int) -> None:
    known: list[tuple[ScanRow, Level | None, float | None, float | None]] = []
    for row in rows:
        values = numbers(row)
        broken = row.measures.get("quantization", {}).get("risk_level") == "broken"
        if row.matrix and (broken or "sqnr" in values or "outliers" in values):
            sqnr, outliers = values.get("sqnr"), values.get("outliers")
            level = "critical" if broken else _worse(judge("sqnr", sqnr), judge("outliers", outliers))
            known.append((row, level, sqnr, outliers))
    if not known:
        return
    known.sort(key=lambda k: (_severity(k[1]), math.inf if k[2] is None else k[2], -(k[3] or 0.0)))
    lines = [
        (
            level,
            [
                "-" if sqnr is None else f"{sqnr:.1f}",
                "-" if outliers is None else _share(outliers),
                _advice(row, whole=console.width >= _WIDE),
            ],
            row.name,
        )
        for row, level, sqnr, outliers in known[:most]
    ]
    _table(
        console,
        "most sensitive to int8: by SQNR and extreme outliers",
        len(known),
        ["SQNR dB", "extreme", "advice"],
        lines,
    )


def _show_sparsity(console: Console, rows: Sequence[ScanRow], most: int) -> None:
    fields = [("dead rows", "dead_rows_percentage"), ("dead cols", "dead_columns_percentage")]
    fields += [("2:4", "two_four_compliance")]
    known = []
    for row in rows:
        share = numbers(row).get("sparsity")
        if row.matrix and share is not None:
            dead = [number(row.measures, "sparsity", field) for _, field in fields]
            level = _worse(judge("dead_rows", dead[0]), judge("dead_columns", dead[1]))
            known.append((row, share, level, dead))
    if not known:
        return
    sparse = [entry for entry in known if entry[1] > 0 or entry[2] is not None]
    if not sparse:
        _say(console, f"sparsity: no zeros in {len(known)} matri{'x' if len(known) == 1 else 'ces'}")
        console.print()
        return
    sparse.sort(key=lambda entry: (-entry[1], _severity(entry[2])))
    there = [i for i in range(len(fields)) if any(dead[i] is not None for *_, dead in sparse)]
    lines = [
        (level, [_share(100 * share), *("-" if dead[i] is None else _cell(i, dead[i]) for i in there)], row.name)
        for row, share, level, dead in sparse[:most]
    ]
    _table(console, "sparsest", len(known), ["sparsity", *(fields[i][0] for i in there)], lines)


def _cell(field: int, value: float | None) -> str:
    if value is None:
        return "-"
    return _share(100 * value if field == 2 else value)  # the compliance is a share of 1


def _table(
    console: Console,
    title: str,
    total: int,
    heads: Sequence[str],
    lines: Sequence[tuple[Level | None, Sequence[str], str]],
) -> None:
    """A table of the worst: level, numbers, and the name in the room that is left, its ends kept."""
    from rich.text import Text

    print_trimmed(console, Text(f"{title} ({len(lines)} of {total} matrices)", style="bold"))
    rows: list[list[str | Text]] = []
    for level, values, name in lines:
        style = LEVEL_STYLES.get(level or "", "")
        rows.append([*(Text(v, style=style) for v in (level or "fine", *values)), printable(name, _NAME_LIMIT)])
    columns = [Column("level"), *(Column(head, right=head != "advice") for head in heads), name_column("parameter")]
    print_table(console, columns, rows, header="dim")
    console.print()


def _ranks(values: dict[str, float]) -> str:
    if "rank" not in values or "full" not in values:
        return "-"
    return f"{values['rank']:.0f}/{values['full']:.0f}"


def _share(percent: float) -> str:
    """A percentage in three figures, small ones not as 0."""
    return "0%" if percent == 0 else f"{percent:.3g}%" if percent >= 0.001 else "<0.001%"


def _advice(row: ScanRow, *, whole: bool) -> str:
    """The recommendation, or its first words: `keep 16 bit, or smooth ...` is `keep 16 bit`."""
    recommendation = row.measures.get("quantization", {}).get("recommendation")
    if not isinstance(recommendation, str) or not recommendation:
        return "-"
    return printable(recommendation if whole else re.split(r"[,:(]", recommendation)[0].strip(), 60)


def _worse(a: Level | None, b: Level | None) -> Level | None:
    return min(a, b, key=_severity)


def _severity(level: Level | None) -> int:
    return len(LEVELS) if level is None else LEVELS.index(level)
