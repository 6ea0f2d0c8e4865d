"""What the benchmarks of scan, compare and merge found, as a value, as JSON and as tables."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Measurement, median
from report import Row, machine_text

TAIL = ("alpha", "D", "xmin", "stable_rank", "log_norm", "spectral_norm", "entropy", "num_pl_spikes")
CHANGES = ("l2_distance", "cosine_similarity", "max_absolute_difference", "identical_percentage")


@dataclass(frozen=True)
class Part:
    """One table: `rows` are commands on the same models; the first is netweight's, the others are what it is against
    where they are `compared`.

    facts: sentences under the table, figures among them are in `figures` too.
    """

    key: str
    title: str
    rows: tuple[Row, ...]
    figures: dict[str, float]
    facts: tuple[str, ...] = ()
    compared: bool = True


@dataclass(frozen=True)
class ScanReport:
    date: str
    shape: str
    machine: dict[str, str | int | float | None]
    parts: tuple[Part, ...]
    title: str = "scan and compare"


def ratio(ours: Measurement, theirs: Measurement) -> dict[str, float]:
    """How many times longer and larger `theirs` is."""
    return {"wall": theirs.wall / ours.wall, "cpu": theirs.cpu / ours.cpu, "peak_rss": theirs.peak_rss / ours.peak_rss}


def as_json(report: ScanReport) -> dict[str, object]:
    """Every figure of every run, with the medians and ratios that the tables show."""
    found: dict[str, object] = {"schema": 1, **asdict(report)}
    found["medians"] = {part.key: {row.label: asdict(median(row.runs)) for row in part.rows} for part in report.parts}
    found["ratios"] = {
        part.key: {row.label: ratio(median(part.rows[0].runs), median(row.runs)) for row in part.rows[1:]}
        for part in report.parts
        if part.compared
    }
    return found


def as_markdown(report: ScanReport) -> str:
    """Sections and tables for RESULTS.md."""
    lines = [f"## {report.title}, {report.shape}, {report.date}", "", machine_text(report.machine)]
    for part in report.parts:
        lines += ["", f"### {part.title}", ""]
        lines += ["| command | wall | CPU | peak memory | runs |", "| --- | ---: | ---: | ---: | ---: |"]
        for row in part.rows:
            m = median(row.runs)
            cells = f"{m.wall:.2f} s | {m.cpu:.2f} s | {m.peak_rss / 1e9:.2f} GB | {len(row.runs)}"
            lines.append(f"| {row.label} | {cells} |")
        for row in part.rows[1:] if part.compared else ():
            times = ratio(median(part.rows[0].runs), median(row.runs))
            cells = f"**{times['wall']:.1f}x** | **{times['cpu']:.1f}x** | **{times['peak_rss']:.1f}x** | "
            lines.append(f"| **{row.label} / netweight** | {cells}|")
        lines += [f"\n{row.label}: {row.said}." for row in part.rows if row.said]
        lines += [f"\n{fact}" for fact in part.facts]
    return "\n".join(lines) + "\n"


def tail_differences(ours: Path, theirs: Path) -> dict[str, float]:
    """The largest relative difference of each column that both tables have of the same matrices, and `matrices`.

    ours: scan's JSON; theirs: the CSV of weightwatcher/analyze.py. Raises ValueError where no matrix is in both.
    """
    scanned = json.loads(ours.read_text(encoding="utf-8"))
    worst: dict[str, float] = {}
    matrices = 0
    with theirs.open(newline="", encoding="utf-8") as file:
        rows = {row["longname"]: row for row in csv.DictReader(file)}
    for name, measures in scanned.items():
        row = rows.get(name.replace(".", "_"))
        tail = measures.get("tail")
        if row is None or tail is None or row["status"] != "success":
            continue
        matrices += 1
        for column in TAIL:
            apart = abs(tail[column] - float(row[column])) / (abs(float(row[column])) or 1.0)
            worst[column] = max(worst.get(column, 0.0), apart)
    if not matrices:
        raise ValueError(f"{ours.name} and {theirs.name} have no matrix in common")
    return {"matrices": matrices, **worst}


def change_differences(ours: Path, theirs: Path) -> dict[str, float]:
    """The largest difference of each of CHANGES over the parameters that both files have, and `parameters`.

    Differences are relative, of percentages in points. Raises ValueError where no parameter is in both.
    """
    first, second = (json.loads(path.read_text(encoding="utf-8"))["layer_comparisons"] for path in (ours, theirs))
    common = [name for name in second if name in first]
    if not common:
        raise ValueError(f"{ours.name} and {theirs.name} have no parameter in common")
    worst: dict[str, float] = {"parameters": len(common)}
    for metric in CHANGES:
        pairs = [(first[name][metric], second[name][metric]) for name in common]
        worst[metric] = max(abs(a - b) / _unit(metric, a) for a, b in pairs)
    return worst


def _unit(metric: str, value: float) -> float:
    return 1.0 if metric.endswith("percentage") else abs(value) or 1.0
