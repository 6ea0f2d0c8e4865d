"""Reports of results: what of a table its page shows first, and the page's file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.columns import Column
from netweight.errors import OptionError, printable
from netweight.output.result_file import ResultFile
from netweight.page.html import page_of
from netweight.page.section import Section, Table
from netweight.page.small import small_form
from netweight.params.role import classify_all

__all__ = ["Reported", "as_table", "card_of", "check_report", "only_in", "section_of", "write_report"]

_NEVER = frozenset(
    {"rows", "cols", "elements", "layer", "expert", "update_above", "update_rows", "int8_mask", "layer_idx"}
)
"""Numbers that are no metric of a map."""

_FIRST: dict[str, tuple[str, ...]] = {
    "scan": (
        "spectral.stable_rank", "spectral.condition_number", "tail.alpha", "quantization.sqnr_db", "basic_stats.std",
        "basic_stats.l2", "basic_stats.zeros_percentage", "basic_stats.maxabs", "basic_stats.kurtosis_excess",
    ),
    "delta": ("relative_l2", "l2", "unchanged_percentage", "update_effective_rank", "maxabs", "stable_rank"),
    "compare": (
        "change_score", "relative_l2_distance", "sqnr_db", "identical_percentage", "cosine_similarity",
        "bits_per_weight_b", "update_effective_rank",
    ),
    "merge": (),
    "info": ("elements", "bits_per_weight"),
    "structure": ("elements",),
    "verify": ("differing",),
}  # fmt: skip
"""Metrics that come first, by the kind of result."""

_SHOWN = {
    "scan": ("param", "layer", "role", "dtype", "elements"),
    "delta": ("param", "layer", "role", "elements", "flag"),
    "compare": ("param", "layer", "role", "stored", "stored_b"),
    "merge": ("param", "layer", "role", "elements", "dtype", "method", "nonfinite"),
    "info": ("param", "layer", "role", "stored", "shape", "elements", "bytes"),
    "structure": ("param", "layer", "role", "elements", "original", "removed", "layer_idx"),
    "verify": ("param", "layer", "role", "verdict", "differing", "reason"),
}

_SAMPLED = ("conflicts", "moved")
_ORDER = {"delta": "relative_l2", "compare": "change_score", "verify": "differing"}
"""By what tables are sorted at first."""

_PICTURES = ("histogram.edges", "histogram.counts", "singular_values.ranks", "singular_values.values")
"""Columns that are drawn, and in no table."""


class Reported:
    """A result that has a page: `section` says what is on it, `inputs` identifies the models that it is of."""

    inputs: Sequence[Any]

    def section(self) -> Section:
        """The result as a page shows it."""
        raise NotImplementedError

    def locations(self) -> list[Path]:
        """What no page may replace."""
        return [Path(entry["path"]) for entry in self.inputs]

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the result as one HTML file; raises OptionError for another suffix, OutputError and JobError."""
        write_report([self.section()], path, self.locations())

    def _repr_html_(self) -> str:
        """The small form, for notebooks."""
        return small_form(self.section())


def section_of(
    kind: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Any]],
    *,
    first: Sequence[str] = (),
    stacks: Sequence[str] | None = None,
    **more: Any,
) -> Section:
    """The section of a table of this kind. `first` are metrics before the kind's own; `stacks` the towers of the rows,
    by their names where it is None; `more` are fields of Section.
    """
    at = {column.name: i for i, column in enumerate(columns)}
    pictures = {name: [row[at[name]] for row in rows] for name in _PICTURES if name in at}
    if pictures:
        kept = [i for i, column in enumerate(columns) if column.name not in pictures]
        columns, rows = [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
    if stacks is None:
        names = [row[at["param"]] for row in rows]
        known = classify_all(dict.fromkeys(names, ()))
        stacks = [known[name].stack for name in names]
    always = (*first, *_FIRST[kind])
    numbers = [
        c.name for c in columns if c.type in {"number", "integer"} and (c.name not in _NEVER or c.name in always)
    ]
    first = [name for name in always if name in numbers]
    metrics = [*first, *(name for name in numbers if name not in first)]
    if kind == "merge":  # weights before the method's own settings, and these before what is mostly 0
        metrics.sort(
            key=lambda name: (
                name not in _SAMPLED,
                not name.startswith("weight of "),
                " of " not in name,
                name == "nonfinite",
            )
        )
        first = metrics
    shown = [*_SHOWN[kind], *first[:5]]
    return Section(
        kind,
        title,
        columns,
        rows,
        "param",
        shown=list(dict.fromkeys(shown)),
        metrics=metrics,
        against=_bits_and_error(at, rows) if kind == "compare" else (),
        order=_ORDER.get(kind),
        stacks=stacks if any(stacks) else (),
        pictures=pictures,
        **more,
    )


def _bits_and_error(at: Mapping[str, int], rows: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """Bits of a quantised side against what differs; none where both sides are stored as what they are."""
    for side in ("_b", ""):
        if any(row[at[f"stored{side}"]] != row[at[f"dtype{side}"]] for row in rows):
            return f"bits_per_weight{side}", "relative_l2_distance"
    return ()


def card_of(inputs: Sequence[Any], device: str) -> list[tuple[str, str]]:
    """Lines on the models that were read: where, in what format, how large, and their digests."""
    lines = []
    for entry in inputs:
        files = entry["files"]
        size = sum(file["size"] for file in files)
        held = "1 file" if len(files) == 1 else f"{len(files)} files"
        lines.append((str(entry["ref"]), f"{entry['format']}, {size:,} bytes in {held}"))
        lines += [("revision", entry["revision"])] if entry.get("revision") else []
        lines += [(f"digest of the header of {file['name']}", str(file["header_digest"])) for file in files[:1]]
    return [*lines, ("computed on", device)]


def as_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """A table as text, without columns that have no value."""
    known = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return Table(title, [columns[i].name for i in known], [[_said(row[i]) for i in known] for row in rows])


def _said(cell: Any) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def only_in(ref: str) -> str:
    """Why a parameter that one of two models has is in no row."""
    return f"only in {ref}"


def check_report(path: str | os.PathLike[str], inputs: Sequence[Path] = (), option: str = "--report") -> Path:
    """`path`, which a page can be written to; raises OptionError, which names `option`, and OutputError otherwise."""
    target = Path(path)
    if target.suffix.lower() not in {".html", ".htm"}:
        raise OptionError(
            f"{option} {printable(str(path))}: expected a name that ends in .html, got {printable(repr(target.suffix))}"
        )
    ResultFile(target, inputs).check()
    return target


def write_report(sections: Sequence[Section], path: str | os.PathLike[str], inputs: Sequence[Path] = ()) -> None:
    """Write the page of these sections, in one step; raises as `check_report`, and JobError where the disk refuses."""
    from netweight.output.result_file import write_file

    target = check_report(path, inputs)
    text = page_of(sections)

    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8", newline="\n")

    write_file(target, write, inputs)
