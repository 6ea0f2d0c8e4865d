"""What the benchmark found, as a value, as JSON and as a table."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Measurement, median

DELTA, BASELINE, INFO = "netweight delta", "baseline (torch)", "netweight info"


@dataclass(frozen=True)
class Row:
    """One command, its measured runs, and what the last of them said of its stages."""

    label: str
    command: str
    runs: tuple[Measurement, ...]
    said: str = ""


@dataclass(frozen=True)
class Cold:
    """Reads with the page cache emptied before each: seconds of dd, runs of `netweight delta`, over the same bytes."""

    emptied_by: str
    input_bytes: int
    dd: tuple[float, ...]
    ours: tuple[Measurement, ...]

    @property
    def dd_rate(self) -> float:
        return self.input_bytes / statistics.median(self.dd)

    @property
    def our_rate(self) -> float:
        return self.input_bytes / median(self.ours).wall


@dataclass(frozen=True)
class Agreement:
    """How far both programs' results for one model lie apart."""

    model: str
    our_global_l2: float
    baseline_global_l2: float
    largest_quartile_error: float  # of a parameter's quartiles, relative to its maxabs


@dataclass(frozen=True)
class Report:
    """All figures of one shape."""

    date: str
    shape: str
    parameters: int
    fine_tunes: int
    input_bytes: int
    machine: dict[str, str | int | float | None]
    rows: tuple[Row, ...]
    cold: Cold | None
    agreement: tuple[Agreement, ...]

    def row(self, label: str) -> Row | None:
        return next((row for row in self.rows if row.label == label), None)


def ratios(report: Report) -> dict[str, float]:
    """Baseline over netweight: how many times faster, cheaper and smaller."""
    ours, theirs = report.row(DELTA), report.row(BASELINE)
    if ours is None or theirs is None:
        return {}
    a, b = median(ours.runs), median(theirs.runs)
    return {"wall": b.wall / a.wall, "cpu": b.cpu / a.cpu, "peak_rss": b.peak_rss / a.peak_rss}


def agreement(ours: Path, theirs: Path) -> tuple[Agreement, ...]:
    """Compare the two output folders, model by model."""
    found = []
    for folder in sorted(path for path in theirs.iterdir() if path.is_dir()):
        mine = ours / folder.name
        norms = [json.loads((d / "summary.json").read_text())["global_l2"] for d in (mine, folder)]
        our_rows, their_rows = _rows(mine / "per_param_stats.csv"), _rows(folder / "per_param_stats.csv")
        if our_rows.keys() != their_rows.keys():
            apart = sorted(our_rows.keys() ^ their_rows.keys())
            raise ValueError(f"{folder.name}: {len(apart)} parameters are in one table only, the first is {apart[0]}")
        errors = [
            abs(float(our_rows[name][column]) - float(row[column])) / (float(row["maxabs"]) or 1.0)
            for name, row in their_rows.items()
            for column in ("q25", "q50", "q75")
        ]
        found.append(Agreement(folder.name, norms[0], norms[1], max(errors)))
    return tuple(found)


def _rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["param"]: row for row in csv.DictReader(file)}


def as_json(report: Report) -> dict[str, object]:
    """Every figure of every run, with the medians and ratios that the table shows."""
    return {
        "schema": 1,
        **asdict(report),
        "medians": {row.label: asdict(median(row.runs)) for row in report.rows},
        "ratios": ratios(report),
        "cold_rates": report.cold
        and {
            "dd_bytes_per_s": report.cold.dd_rate,
            "netweight_bytes_per_s": report.cold.our_rate,
            "ratio": report.cold.our_rate / report.cold.dd_rate,
        },
    }


def machine_text(facts: Mapping[str, str | int | float | None]) -> str:
    """The machine in one sentence."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {float(facts['memory_bytes'] or 0) / 2**30:.0f} GiB, "
        f"{facts['system']}; Python {facts['python']}, netweight {facts['netweight']}, numpy {facts['numpy']}, "
        f"numba {facts['numba']}, torch {facts['torch']}."
    )


def as_markdown(report: Report) -> str:
    """Sections and tables for RESULTS.md."""
    models = (
        f"Base and {report.fine_tunes} fine-tune{'s' if report.fine_tunes > 1 else ''} of "
        f"{report.parameters / 1e9:.3f} G parameters, bfloat16, {report.input_bytes / 1e9:.1f} GB in all."
    )
    lines = [
        f"## {report.shape}, {report.date}",
        "",
        models,
        machine_text(report.machine),
        "",
        "| command | wall | CPU | peak memory | read from disk | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report.rows:
        m = median(row.runs)
        lines.append(
            f"| {row.label} | {m.wall:.2f} s | {m.cpu:.2f} s | {m.peak_rss / 1e9:.2f} GB "
            f"| {m.disk_read / 1e9:.1f} GB | {len(row.runs)} |"
        )
    if times := ratios(report):
        lines.append(
            f"| **baseline / netweight** | **{times['wall']:.1f}x** | **{times['cpu']:.1f}x** "
            f"| **{times['peak_rss']:.1f}x** | | |"
        )
    lines += [f"\nStages of {row.label}: {row.said}." for row in report.rows if row.said]
    if report.cold:
        cold = report.cold
        ours = median(cold.ours)
        reads = f"{cold.our_rate / 1e9:.2f} GB/s | **{cold.our_rate / cold.dd_rate:.0%}**"
        lines += [
            "",
            f"Cold (page cache emptied by {cold.emptied_by} before each of {len(cold.dd)} rounds, medians):",
            "",
            "| command | rate | of dd | peak memory | read from disk |",
            "| --- | ---: | ---: | ---: | ---: |",
            f"| dd bs=4M | {cold.dd_rate / 1e9:.2f} GB/s | | | |",
            f"| netweight delta | {reads} | {ours.peak_rss / 1e9:.2f} GB | {ours.disk_read / 1e9:.1f} GB |",
        ]
    if report.agreement:
        lines += [
            "",
            "| model | global_l2 netweight | global_l2 baseline | apart | quartiles apart (of maxabs) |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for a in report.agreement:
            apart = abs(a.our_global_l2 - a.baseline_global_l2) / (a.our_global_l2 or math.inf)
            lines.append(
                f"| {a.model} | {a.our_global_l2:.6g} | {a.baseline_global_l2:.6g} | {apart:.2%} "
                f"| {a.largest_quartile_error:.1e} |"
            )
    return "\n".join(lines) + "\n"
