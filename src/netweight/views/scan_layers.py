"""The layer-by-layer view of a scan: a heading for each layer, a line for each matrix."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.errors import printable
from netweight.measures.health import number
from netweight.measures.registry import find
from netweight.params.role import ROLES
from netweight.views.console import gap_sign, is_fitted, print_trimmed
from netweight.views.fitted_table import left_out_line
from netweight.views.short_names import cells, shorten_names
from netweight.views.text import wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.scan.result import ScanRow
    from netweight.measures.health_checks import Level

__all__ = ["LEVEL_STYLES", "numbers", "shape_text", "show_layers", "small"]

LEVEL_STYLES: dict[str, str] = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_MARKS = {"critical": "C", "warning": "W"}
_MOST_EXPERTS = 4
_LONGEST_LABEL = 22
_EXPERT = re.compile(r"\[([0-9]+)(?:\.([^\]]+))?\]$")

Numbers = Mapping[str, float]
"""What is known of a matrix, by the keys of `_FIELDS` and `measure.column`; what is not has no key."""

_Shorten = Callable[[Sequence[str], int], list[str]]
"""Names in so many columns, where there is a width to fit."""

_FIELDS = {
    "rank": ("spectral", "actual_rank"),
    "full": ("spectral", "design_rank"),
    "ninety": ("spectral", "svd_90_percent_rank"),
    "at_least": ("spectral", "svd_90_percent_rank_at_least"),
    "mean": ("basic_stats", "mean"),
    "std": ("basic_stats", "std"),
    "condition": ("spectral", "condition_number"),
    "sqnr": ("quantization", "sqnr_db"),
    "outliers": ("quantization", "extreme_outlier_percentage"),
    "alpha": ("tail", "alpha"),
}
_FORMED = {
    "sparsity",
    "formats",
    *(measure for measure, _ in _FIELDS.values()),
}  # measures with a form of their own here


@dataclass(frozen=True)
class _Column:
    """A column: its text in a wide and in a narrow form. Those that are not `needed` are shown where there is room."""

    title: str
    wide: Callable[[Numbers], str]
    narrow: Callable[[Numbers], str]
    needed: bool = True


@dataclass(frozen=True)
class _Line:
    """A line under a heading: `values` is None for one without numbers; `note` runs over all columns."""

    label: str
    shape: str = ""
    values: Numbers | None = None
    level: Level | None = None
    note: str = ""


def numbers(row: ScanRow) -> dict[str, float]:
    """The numbers of a matrix that were measured and are defined; `sparsity` is a share of 1."""
    values = {key: v for key, (m, field) in _FIELDS.items() if (v := number(row.measures, m, field)) is not None}
    for measure in ("basic_stats", "sparsity"):
        share = number(row.measures, measure, "sparsity")
        if share is not None:
            values["sparsity"] = share
            break
    if row.measures.get("spectral", {}).get("singular") is True:
        values["condition"] = math.inf
    for measure in row.measures:
        for field in () if measure in _FORMED else find(measure).shown_columns():
            if (v := number(row.measures, measure, field)) is not None:
                values[f"{measure}.{field}"] = v
    return values


def shape_text(row: ScanRow) -> str:
    """The tensor's shape, or the matrix's where it is a part of a tensor."""
    whole = math.prod(row.shape) == row.rows * row.cols
    return "x".join(map(str, row.shape if whole and row.shape else (row.rows, row.cols)))


def small(value: float, digits: int = 3) -> str:
    """A number in a few figures: 0.0201, -1.2e-5, 8.6e4."""
    if value == 0 or 1e-3 <= abs(value) < 10**digits - 0.5 or not math.isfinite(value):
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def show_layers(console: Console, rows: Sequence[ScanRow], worst: Mapping[str, Level], *, verbose: bool) -> None:
    """Print the layers by number, the main stack first, and last what is outside of them.

    Columns that no row has are left out. Vectors are one line per layer, experts of one stack, where they are more than
    four, their least, middle and greatest values; `verbose` lists them all. Where a line does not fit the console, its
    numbers go onto a second one; columns left out for want of room are named. `worst` are the levels of findings,
    marked C and W.
    """
    from rich.text import Text

    def shorten(names: Sequence[str], limit: int) -> list[str]:
        return shorten_names(names, limit, gap_sign(console)) if is_fitted(console) else list(names)

    sections = [
        (heading, list(_lines(members, worst, shorten, verbose=verbose)))
        for heading, members in _sections(rows, shorten)
    ]
    lines = [line for _, section in sections for line in section]
    known = dict.fromkeys(key for line in lines for key in line.values or ())
    further = [_Column(key, _plain(key, 3), _plain(key, 2), needed=False) for key in known if "." in key]
    columns = [c for c in (*_COLUMNS, *further) if any(line.values and c.wide(line.values) for line in lines)]
    label = max(
        [cells(heading) for heading, _ in sections] + [cells(line.label) + 2 for line in lines if not line.note]
    )
    shape = max((len(line.shape) for line in lines), default=0)
    layout = _layout(columns, lines, console.width - 2 - label - shape)
    for heading, section in sections:
        text = Text()
        text.append(_padded(heading, label + 2), style="bold")
        if layout is not None:
            text.append(" " * layout.gap + "shape".rjust(shape), style="dim")
            for (title, _), width in zip(layout.columns, layout.widths, strict=True):
                text.append(" " * layout.gap + title.rjust(width), style="dim")
        text.rstrip()
        console.print(text, soft_wrap=True)
        for line in section:
            if line.note:
                print_trimmed(console, Text(f"  {line.label} {line.note}", style="dim"))
            else:
                _print_line(console, line, layout, columns, (label, shape))
        console.print()
    if layout is not None and layout.lost:
        print_trimmed(console, Text(left_out_line(layout.lost), style="dim"))
        console.print()
    if any(line.level in _MARKS for line in lines):
        print_trimmed(console, Text("C critical, W warning: a finding of --health", style="dim"))
        console.print()


@dataclass(frozen=True)
class _Layout:
    columns: list[tuple[str, Callable[[Numbers], str]]]
    widths: list[int]
    gap: int
    lost: list[str]


def _layout(columns: Sequence[_Column], lines: Sequence[_Line], room: int) -> _Layout | None:
    """The form that loses the fewest of the optional columns in `room`, the widest of those; None where none fits."""
    known = [line.values for line in lines if line.values is not None]
    fitting: list[_Layout] = []
    for wide, gap in ((True, 2), (False, 2), (False, 1)):
        chosen: list[tuple[str, Callable[[Numbers], str]]] = []
        widths: list[int] = []
        lost: list[str] = []
        for column in sorted(columns, key=lambda c: not c.needed):
            form = column.wide if wide else column.narrow
            width = max([len(column.title), *(len(form(values)) for values in known)])
            if not column.needed and sum(widths) + width + gap * (len(widths) + 2) > room:
                lost.append(column.title)
                continue
            chosen.append((column.title, form))
            widths.append(width)
        if sum(widths) + gap * (len(widths) + 1) <= room and (gap > 1 or not fitting):
            fitting.append(_Layout(chosen, widths, gap, lost))
    return min(fitting, key=lambda layout: len(layout.lost), default=None)


def _print_line(
    console: Console, line: _Line, layout: _Layout | None, columns: Sequence[_Column], sizes: tuple[int, int]
) -> None:
    from rich.text import Text

    label, shape = sizes
    style = LEVEL_STYLES.get(line.level or "", "")
    mark = _MARKS.get(line.level or "", " ")
    text = Text()
    text.append(f"{mark} ", style=style)
    text.append(_padded(line.label, label))
    gap = layout.gap if layout is not None else 1
    text.append(" " * gap + line.shape.rjust(shape))
    if line.values is not None and layout is not None:
        for (_, form), width in zip(layout.columns, layout.widths, strict=True):
            text.append(" " * gap + (form(line.values) or "-").rjust(width))
    text.rstrip()
    if layout is None:
        print_trimmed(console, text)
    else:
        console.print(text, soft_wrap=True)
    if line.values is not None and layout is None:
        said = [f"{c.title} {c.narrow(line.values)}" for c in columns if c.narrow(line.values)]
        for part in wrapped(said, console.width - 4):
            print_trimmed(console, Text(f"    {part}"))


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _sections(rows: Sequence[ScanRow], shorten: _Shorten) -> list[tuple[str, list[ScanRow]]]:
    """(heading, rows), layers in order, what is outside of them last."""
    stacks = list(dict.fromkeys(["", *(row.parameter.stack for row in rows if row.parameter.layer is not None)]))
    groups: dict[tuple[int, int], list[ScanRow]] = {}
    outside = []
    for row in rows:
        layer = row.parameter.layer
        if layer is None:
            outside.append(row)
        else:
            groups.setdefault((stacks.index(row.parameter.stack), layer), []).append(row)
    sections = []
    for (stack, layer), members in sorted(groups.items()):
        name = shorten([printable(stacks[stack])], 14)[0]
        sections.append((f"{name} layer {layer}".strip(), members))
    if outside:
        sections.append(("outside", outside))
    return sections


def _lines(rows: Sequence[ScanRow], worst: Mapping[str, Level], shorten: _Shorten, *, verbose: bool) -> Iterator[_Line]:
    ordered = _ordered(rows)
    listed = [row for row in ordered if verbose or row.matrix]
    stacks: dict[tuple[str, bool, str], list[ScanRow]] = {}
    for row in listed:
        if not verbose and (slot := _expert_slot(row)) is not None:
            stacks.setdefault((slot, row.fused, row.parameter.stack), []).append(row)
    condensed = {row.name: members for members in stacks.values() if len(members) > _MOST_EXPERTS for row in members}
    alone = [row for row in listed if row.name not in condensed]
    labels = dict(zip((row.name for row in alone), _labels(alone, shorten), strict=True))
    for row in listed:
        if row.name in labels:
            yield _Line(labels[row.name], shape_text(row), numbers(row), worst.get(row.name))
        elif condensed[row.name][0] is row:
            yield from _condensed(condensed[row.name], worst, shorten)
    if not verbose:
        empty = [row for row in ordered if not row.elements]
        vectors = [row for row in ordered if not row.matrix and row.elements]
        if vectors:
            yield _vectors(vectors)
        if empty:
            yield _Line(f"{len(empty)} without elements", note="(--verbose lists them)")


def _ordered(rows: Sequence[ScanRow]) -> list[ScanRow]:
    """By role in the order of ROLES, a part of a fused matrix behind the whole."""
    ranks = {row.name: ROLES.index(row.parameter.role) for row in rows if not row.fused}

    def key(row: ScanRow) -> int:
        if not row.fused:
            return ranks[row.name]
        base = row.name.rpartition("[")[0]
        expert = _EXPERT.search(row.name)
        whole = f"{base}[{expert[1]}]" if expert else base
        return ranks.get(whole, ROLES.index(row.parameter.role))

    return sorted(rows, key=key)


def _expert_slot(row: ScanRow) -> str | None:
    """Which projection of an expert this is; None for everything else."""
    p = row.parameter
    match = _EXPERT.search(row.name) if p.role == "moe_expert" else None
    if match is None and p.expert is None:
        return None
    return printable((match[2] if match else None) or p.slot or p.role)


def _labels(rows: Sequence[ScanRow], shorten: _Shorten) -> list[str]:
    """What each row is called among those of its layer: its role where that is enough, else the end of its name."""
    first = [_label(row) for row in rows]
    plain = [label if label and first.count(label) == 1 else _tail(row) for row, label in zip(rows, first, strict=True)]
    return shorten(plain, _LONGEST_LABEL)


def _label(row: ScanRow) -> str:
    p = row.parameter
    match = _EXPERT.search(row.name)
    if p.role == "moe_expert" or (match is not None and match[2]):
        expert = p.expert if match is None else int(match[1])
        return "" if expert is None else f"{_expert_slot(row)}[{expert}]"
    return "" if p.role in {"other", "bias", "norm"} else p.role


def _tail(row: ScanRow) -> str:
    """The name behind the number of the layer, without `weight`."""
    p = row.parameter
    name = row.name.removesuffix(".weight")
    if p.layer is None:
        return printable(name)
    segments = name.split(".")
    at = next((i for i, segment in enumerate(segments) if segment == str(p.layer)), -1)
    return printable(".".join(segments[at + 1 :]) or name)


def _condensed(rows: Sequence[ScanRow], worst: Mapping[str, Level], shorten: _Shorten) -> Iterator[_Line]:
    values = [numbers(row) for row in rows]
    levels = [worst[row.name] for row in rows if row.name in worst]
    level = next((level for level in ("critical", "warning", "info") if level in levels), None)
    slot = shorten([_expert_slot(rows[0]) or ""], _LONGEST_LABEL - 7)[0]
    yield _Line(f"{slot} x{len(rows)}", shape_text(rows[0]), None, level)
    keys = dict.fromkeys(key for one in values for key in one)
    for label, of in (("min", min), ("median", statistics.median), ("max", max)):
        yield _Line(f"  {label}", "", {key: of([one[key] for one in values if key in one]) for key in keys})


def _vectors(rows: Sequence[ScanRow]) -> _Line:
    kinds: dict[str, int] = {}
    for row in rows:
        kinds[row.parameter.role] = kinds.get(row.parameter.role, 0) + 1
    label = ", ".join(f"{count} {role}" for role, count in kinds.items())
    values = [numbers(row) for row in rows]
    said = []
    for key in ("mean", "std"):
        known = [one[key] for one in values if key in one]
        ends = dict.fromkeys(small(of(known), 2) for of in (min, max)) if known else ()
        said += [f"{key} {' to '.join(ends)}"] if ends else []
    word = "vector" if len(rows) == 1 else "vectors"
    return _Line(label, note=f"{word}: {', '.join(said)}" if said else word)


def _percent(part: float, full: float, digits: int) -> str:
    """100% only where it is all."""
    share = 100 * part / full
    return f"{min(share, 100 - 10**-digits) if part < full else share:.{digits}f}%"


def _rank(values: Numbers, pattern: str, digits: int) -> str:
    if "rank" not in values or not values.get("full"):
        return ""
    share = _percent(values["rank"], values["full"], digits)
    return pattern.format(f"{values['rank']:.0f}/{values['full']:.0f}", share)


def _ninety(values: Numbers, pattern: str, digits: int) -> str:
    if "ninety" not in values:
        # of a matrix of which nothing is known, or of any
        return f">={values['at_least']:.0f}" if values.get("at_least", 0) > 1 else ""
    if not values.get("full"):
        return f"{values['ninety']:.0f}"
    return pattern.format(f"{values['ninety']:.0f}", _percent(values["ninety"], values["full"], digits))


def _sparsity(values: Numbers) -> str:
    share = values.get("sparsity")
    if share is None:
        return ""
    return "<0.01%" if 0 < share < 0.00005 else _percent(share, 1.0, 2)


def _plain(key: str, digits: int) -> Callable[[Numbers], str]:
    return lambda values: small(values[key], digits) if key in values else ""


def _condition(values: Numbers) -> str:
    value = values.get("condition")
    return "" if value is None else "singular" if math.isinf(value) else small(value)


def _sqnr(values: Numbers) -> str:
    return f"{values['sqnr']:.1f}" if "sqnr" in values else ""


def _alpha(values: Numbers) -> str:
    return f"{values['alpha']:.2f}" if "alpha" in values else ""


_COLUMNS = (
    _Column("rank", lambda f: _rank(f, "{} ({})", 1), lambda f: _rank(f, "{} {}", 0)),
    _Column("90% rank", lambda f: _ninety(f, "{} ({})", 1), lambda f: _ninety(f, "{} {}", 0)),
    _Column("sparsity", _sparsity, _sparsity),
    _Column("mean", _plain("mean", 3), _plain("mean", 2)),
    _Column("std", _plain("std", 3), _plain("std", 3)),
    _Column("condition", _condition, _condition, needed=False),
    _Column("SQNR dB", _sqnr, _sqnr, needed=False),
    _Column("alpha", _alpha, _alpha, needed=False),
)
