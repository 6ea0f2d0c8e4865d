"""Health: what the measures of a scan find fault with.

The thresholds are those of `health_checks`, and printed with the findings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netweight.measures.health_checks import CHECKS, LEVELS, Level
from netweight.measures.registry import SCANNED
from netweight.measures.siblings import (
    UNLIKE,
    Beside,
    Training,
    beside_siblings,
    noise_ratio,
    pattern_of,
    training_of,
    whole_of,
)

__all__ = [
    "Finding",
    "Health",
    "Topic",
    "assess",
    "number",
    "topics",
]

Measures = Mapping[str, Mapping[str, Any]]
"""{measure: {field: value}} of one tensor, as `scan` gives them; any of them may be absent."""


_BY_KEY = {check.key: check for check in CHECKS}
_MANY = 4096  # elements: fewer may well have few values
_OF_PARTS = frozenset({"scale", "noise", "copy", "zero_heads", "head_scale", "head_noise"})  # of a fused projection
_GROUPS = {"row": "each row", "tile": "each tile of 128 x 128", "matrix": "all of it"}


@dataclass(frozen=True)
class Finding:
    """One tensor, one fault: `what` in words, its `value`, the `threshold` it passed, and what to do.

    `value` is inf for the condition number of a singular matrix, and for NaN and infinite values that no measure
    counted. `check` is the key of the row of CHECKS; `other` what belongs to the finding: a tensor, a group, a head.
    """

    level: Level
    parameter: str
    what: str
    value: float
    threshold: float
    advice: str
    check: str
    other: str = ""

    @property
    def said(self) -> str:
        """What was found, with its value: `condition number above 1e4: 27300`."""
        if self.check == "copy":
            return f"{self.what} ({self.other})"
        if self.check == "all_zero" or not math.isfinite(self.value):
            return self.what
        if self.check in ("non_finite", "zero_heads"):
            return f"{self.what}: {self.value:.0f}"
        return f"{self.what}: {_BY_KEY[self.check].value(self.value)}" + (f", {self.other}" if self.other else "")


@dataclass(frozen=True)
class Topic:
    """Findings of one kind and level: the worst of them, and how many under each pattern of names (`*`: a number)."""

    level: Level
    what: str
    check: str
    worst: Finding
    count: int
    patterns: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Health:
    """What was found, worst first. `thresholds` are (what, the thresholds in words) of what was judged, `unmeasured`
    sentences on what was not; `judged` is the number of tensors; `training`: whether the model is told from one that
    was never trained, None where too few matrices say so.
    """

    findings: tuple[Finding, ...]
    thresholds: tuple[tuple[str, str], ...]
    unmeasured: tuple[str, ...]
    judged: int
    training: Training | None = None

    def counts(self) -> dict[Level, int]:
        """{level: number of findings}, every level."""
        return {level: sum(finding.level == level for finding in self.findings) for level in LEVELS}

    def worst(self) -> dict[str, Level]:
        """{parameter: the worst level found in it}."""
        worst: dict[str, Level] = {}
        for finding in self.findings:  # worst first
            worst.setdefault(finding.parameter, finding.level)
        return worst

    def to_dict(self) -> dict[str, Any]:
        """JSON without NaN and infinities: an infinite value is null, with `singular` true for a singular matrix."""
        return {
            "judged": self.judged,
            "training": None
            if self.training is None
            else {
                "trained": self.training.trained,
                "noise_ratio": self.training.ratio,
                "matrices": self.training.matrices,
                "said": self.training.said,
            },
            "counts": self.counts(),
            "findings": [
                {
                    "level": f.level,
                    "parameter": f.parameter,
                    "what": f.what,
                    "value": f.value if math.isfinite(f.value) else None,
                    **({"singular": True} if f.check == "condition" and math.isinf(f.value) else {}),
                    "threshold": f.threshold,
                    "advice": f.advice,
                    **({"other": f.other} if f.other else {}),
                }
                for f in self.findings
            ],
            "thresholds": dict(self.thresholds),
            "unmeasured": list(self.unmeasured),
        }


def assess(
    rows: Sequence[tuple[str, Measures]],
    shapes: Mapping[str, tuple[int, int]] | None = None,
    parts: Collection[str] = (),
) -> Health:
    """Judge the tensors of one model: (name, measures) each.

    `parts` are the names among them of projections inside fused ones, which are judged beside their siblings alone.
    `shapes` gives (rows, cols) by name, and tells vectors, which are judged for non-finite values alone, from matrices;
    a tensor that it does not name is a matrix unless its spectral `total_rank` is at most 1. What was not measured is
    not judged, and said in `unmeasured`.
    """
    findings: list[Finding] = []
    judged_keys: set[str] = set()
    judged = 0
    unknown: Counter[str] = Counter()
    sides = _sides(rows, shapes)
    beside = beside_siblings(rows, sides)
    whole = [(name, measures) for name, measures in rows if name not in parts]
    ratios = [r for name, measures in whole if name in sides and (r := noise_ratio(measures, sides[name])) is not None]
    for name, measures in rows:
        shape = None if shapes is None else shapes.get(name)
        matrix = _is_matrix(shape, measures)
        near = beside.get(name, Beside())
        values = _values(measures, near, matrix=matrix)
        if name in parts:
            values = {key: value for key, value in values.items() if key in _OF_PARTS}
        elif measures.get("spectral") and matrix and "condition" not in values and not values.get("all_zero"):
            unknown[_spectrum_reason(measures)] += 1
        judged += bool(values) and name not in parts
        judged_keys |= values.keys()
        found = [_finding(name, key, value, _other(key, measures, near)) for key, value in values.items()]
        findings += [finding for finding in found if finding is not None]
    findings = _once(findings, parts)
    order = {name: place for place, (name, _) in enumerate(rows)}
    findings.sort(key=lambda f: (LEVELS.index(f.level), _check_place(f.check), -_badness(f), order[f.parameter]))
    thresholds: dict[str, str] = {}
    for check in CHECKS:
        if check.key in judged_keys:
            before = thresholds.get(check.label)
            thresholds[check.label] = f"{before}; {check.thresholds()}" if before else check.thresholds()
    return Health(
        findings=tuple(findings),
        thresholds=tuple(thresholds.items()),
        unmeasured=_unmeasured(whole, judged_keys, unknown),
        judged=judged,
        training=training_of(ratios),
    )


def topics(findings: Iterable[Finding]) -> tuple[Topic, ...]:
    """Findings grouped by level and kind, in the order given, so that 28 layers with one fault make one entry."""
    grouped: dict[tuple[Level, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.level, finding.what), []).append(finding)
    topics_of_kind = []
    for (level, what), members in grouped.items():
        patterns: dict[str, int] = {}
        for member in members:
            pattern = pattern_of(member.parameter)
            patterns[pattern] = patterns.get(pattern, 0) + 1
        ordered = tuple(sorted(patterns.items(), key=lambda item: -item[1]))
        topics_of_kind.append(Topic(level, what, members[0].check, max(members, key=_badness), len(members), ordered))
    return tuple(topics_of_kind)


def number(measures: Measures, measure: str, field: str) -> float | None:
    """A field as a float, inf included; None where it is absent, null, NaN or not a number."""
    value = measures.get(measure, {}).get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def _sides(
    rows: Sequence[tuple[str, Measures]], shapes: Mapping[str, tuple[int, int]] | None
) -> Mapping[str, tuple[int, int]]:
    """(rows, cols) of what is a matrix."""
    known = shapes or {}
    return {name: known[name] for name, measures in rows if name in known and _is_matrix(known[name], measures)}


def _is_matrix(shape: tuple[int, int] | None, measures: Measures) -> bool:
    if shape is not None:
        return shape[0] > 1 and shape[1] > 1
    full = number(measures, "spectral", "total_rank")
    return full is None or full > 1


def _values(measures: Measures, near: Beside, *, matrix: bool) -> dict[str, float]:
    """{key of a check: value} of what was measured of one tensor, in the order of CHECKS."""
    values: dict[str, float] = {}
    _take(values, "non_finite", _non_finite(measures))
    if not matrix:
        return values
    if (zero := _all_zero(measures)) is not None:
        values["all_zero"] = float(zero)
        if zero:
            return values  # everything else follows from it
    _take(values, "scale", near.scale)
    _take(values, "noise", near.noise)
    if near.copy is not None:
        values["copy"] = 1.0
    distinct = number(measures, "basic_stats", "distinct_values") or 0
    within = measures.get("within", {})
    if within.get("code_group"):
        known = [n for key in ("code_values", "code_effective") if (n := number(measures, "within", key)) is not None]
        _take(values, "code", max(known, default=None))
    elif not within and distinct > 1 and (number(measures, "basic_stats", "elements") or 0) >= _MANY:
        values["grid"] = distinct
    _take(values, "bits", number(measures, "within", "significant_bits"))
    if none := number(measures, "within", "zero_heads"):
        values["zero_heads"] = none
    else:
        _take(values, "head_scale", number(measures, "within", "head_scale"))
    if (number(measures, "within", "head_noise_median") or 0) >= UNLIKE:
        _take(values, "head_noise", number(measures, "within", "head_noise"))
    _take(values, "tokens", number(measures, "within", "untrained_percentage"))
    if measures.get("spectral", {}).get("singular") is True:
        values["condition"] = math.inf
    else:
        _take(values, "condition", number(measures, "spectral", "condition_number"))
    _take(values, "sqnr", number(measures, "quantization", "sqnr_db"))
    _take(values, "outliers", number(measures, "quantization", "extreme_outlier_percentage"))
    stable, full = number(measures, "spectral", "stable_rank"), number(measures, "spectral", "total_rank")
    _take(values, "stable_rank", stable / full if stable is not None and full else None)
    if not values.get("non_finite"):  # which count as zeros there
        _take(values, "dead_rows", number(measures, "sparsity", "dead_rows_percentage"))
        _take(values, "dead_columns", number(measures, "sparsity", "dead_columns_percentage"))
    alpha = number(measures, "tail", "alpha")
    _take(values, "alpha_low", alpha)
    _take(values, "alpha_high", alpha)
    return values


def _take(values: dict[str, float], key: str, value: float | None) -> None:
    if value is not None:
        values[key] = value


def _non_finite(measures: Measures) -> float | None:
    """How many elements are NaN or infinite: inf where it is only known that some are, None where not even that is."""
    if number(measures, "basic_stats", "elements") == 0:
        return None
    counted = [n for field in ("n_nan", "n_inf") if (n := number(measures, "basic_stats", field)) is not None]
    if counted:
        return sum(counted)
    risk = measures.get("quantization", {}).get("risk_level", "unknown")
    reason = str(measures.get("spectral", {}).get("spectrum_reason", ""))
    if risk == "broken" or "NaN" in reason:
        return math.inf
    return 0.0 if risk != "unknown" or number(measures, "spectral", "max_singular_value") is not None else None


def _all_zero(measures: Measures) -> bool | None:
    """Whether all elements are zero, by whichever measure tells; None where none does."""
    for measure in ("basic_stats", "sparsity"):
        share = number(measures, measure, "zeros_percentage")
        if share is not None:
            return share == 100.0
    for measure, field in (("spectral", "max_singular_value"), ("tail", "sv_max")):
        largest = number(measures, measure, field)
        if largest is not None:
            return largest == 0.0
    return None


def _spectrum_reason(measures: Measures) -> str:
    said = measures["spectral"].get("spectrum_reason")
    if not isinstance(said, str) or not said:
        return "no reason is given"
    return "only the largest singular values were asked for" if said.startswith("only the") else said


def _once(findings: Sequence[Finding], parts: Collection[str]) -> list[Finding]:
    """Without the whole's finding where one of its parts has it, and without the parts' where all of them do."""
    of_whole = Counter(whole_of(name) for name in parts)
    of_parts = Counter((whole_of(f.parameter), f.check) for f in findings if f.parameter in parts)
    every = {key for key, count in of_parts.items() if count == of_whole[key[0]]}
    some = of_parts.keys() - every
    wholes = {(f.parameter, f.check) for f in findings if f.parameter not in parts}
    hidden = every & wholes

    def said(f: Finding) -> bool:
        if f.parameter in parts:
            return (whole_of(f.parameter), f.check) not in hidden
        return (f.parameter, f.check) not in some

    return [finding for finding in findings if said(finding)]


def _other(key: str, measures: Measures, near: Beside) -> str:
    """What belongs to a finding: the tensor that it is a copy of, the group that has one scale, the head."""
    within = measures.get("within", {})
    if key == "code":
        group = str(within.get("code_group"))
        return f"one scale for {_GROUPS.get(group, f'{group} of a row')}"
    if key in ("head_scale", "head_noise"):
        return f"head {within.get(f'{key}_at')}"
    return near.copy or "" if key == "copy" else ""


def _finding(name: str, key: str, value: float, other: str) -> Finding | None:
    check = _BY_KEY[key]
    limit = check.limit(value)
    if limit is None:
        return None
    level, threshold = limit
    flag = key in {"non_finite", "all_zero", "copy", "code", "zero_heads"} or (key == "tokens" and threshold == 0)
    what = check.label if flag else f"{check.label} {check.worse} {check.bound(threshold)}"
    if key == "condition" and math.isinf(value):
        what = "singular: no condition number"
    return Finding(level, name, what, value, threshold, check.advice[level], key, other)


def _check_place(key: str) -> int:
    return list(_BY_KEY).index(key)


def _badness(finding: Finding) -> float:
    return finding.value if _BY_KEY[finding.check].worse == "above" else -finding.value


def _unmeasured(
    rows: Sequence[tuple[str, Measures]], judged: Collection[str], unknown: Counter[str]
) -> tuple[str, ...]:
    """What no tensor was measured for, by the scan method that would do it, and the condition numbers not known.

    `judged`: keys of checks for which another method had the answer; `unknown`: matrices by the reason.
    """
    said = []
    if any(measures.get("within") for _, measures in rows):
        judged = {*judged, "grid"}  # codes are told by it, too
    for method in SCANNED:
        if not any(measures.get(method) for _, measures in rows):
            missing = [check for check in CHECKS if check.method == method and check.key not in judged]
            nouns = list(dict.fromkeys(check.noun for check in missing))
            text = " and ".join(part for part in (", ".join(nouns[:-1]), *nouns[-1:]) if part)
            said += [f"{text} were not measured: add --methods {method}"] if text else []
    for reason, count in unknown.items():
        what = f"the condition numbers of {count} matrices are" if count > 1 else "the condition number of 1 matrix is"
        said.append(f"{what} not known: {reason}")
    return tuple(said)
