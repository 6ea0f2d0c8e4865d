"""Compares two scans by their numbers alone: for results read back from files, without the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netweight.checkpoint.tensor import Skipped
from netweight.errors import InputError, printable
from netweight.jobs.compare.result import Comparison, ParameterComparison
from netweight.measures.between import derive_between
from netweight.measures.change import derive_from_summaries, without_comparison
from netweight.params.role import classify_all

__all__ = ["compare_results", "mapping_of"]

_NO_WEIGHTS = "from the numbers of two scans: distances need the weights"
_SHAPES = (("basic_stats", "elements"), ("spectral", "total_rank"), ("tail", "N"))

Results = Mapping[str, Mapping[str, Any]]


def compare_results(
    a: Results, b: Results, methods: str | Sequence[str] = ("basic_stats",), *, names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """Compare two scan mappings {parameter: {measure: {field: value}}}: the changes from `a` to `b`.

    Only what follows from summary numbers: mean_diff, std_diff, l2_norm_ratio and the score from basic_stats, and the
    fields of measures.between.derive_between for the scan measures in `methods`; distances and shares are NaN. Raises
    InputError where a mapping is no scan's, or the two share no parameter.
    """
    from netweight.jobs.compare.plan import choose

    chosen = choose(methods)
    a, b = mapping_of(a), mapping_of(b)
    of_a, of_b = _measured(a), _measured(b)
    common = [name for name in of_a if name in of_b]
    if not common:
        shown = ["'" + "', '".join(printable(n, 60) for n in list(side)[:2]) + "'" for side in (a, b)]
        raise InputError(
            f"{' and '.join(printable(n) for n in names)} share no parameter: {' against '.join(shown)};"
            " give scans of two models of one family"
        )
    parameters = classify_all(dict.fromkeys(common, ()))
    compared = []
    for name in common:
        mismatch = _shape_mismatch(of_a[name], of_b[name])
        if mismatch:
            metrics = without_comparison(mismatch)
        else:
            basic = [side[name].get("basic_stats") or {} for side in (of_a, of_b)]
            metrics = derive_from_summaries(basic, _NO_WEIGHTS)
            metrics |= derive_between((of_a[name], of_b[name]), chosen)
        compared.append(ParameterComparison(parameters[name], name, metrics))
    skipped = [
        Skipped(name, f"not measured in {label}: {printable(str(fields.get('skipped')), 400)}")
        for label, side in zip(names, (a, b), strict=True)
        for name, fields in side.items()
        if "skipped" in fields
    ]
    return Comparison(
        *names,
        compared,
        methods=chosen,
        only_in_a=[name for name in of_a if name not in b],
        only_in_b=[name for name in of_b if name not in a],
        skipped=skipped,
        notes=[_NO_WEIGHTS],
    )


def mapping_of(results: Any) -> Results:
    """The scan mapping, also where `results` is what `scan --format json --health` prints; raises InputError for what
    is none.
    """
    expected = "expected the results of a scan, {parameter: {measure: {field: value}}}"
    if isinstance(results, Mapping) and set(results) == {"health", "parameters"}:
        results = results["parameters"]
    if not isinstance(results, Mapping) or not results:
        got = "an empty mapping" if isinstance(results, Mapping) else type(results).__name__
        raise InputError(f"{expected}, got {got}; give a scan of --format json, or `scan(...).to_dict()`")
    for name, fields in results.items():
        if not isinstance(fields, Mapping) or not all(isinstance(v, str | Mapping) for v in fields.values()):
            raise InputError(
                f"{expected}, got something else under '{printable(str(name))}'; give a scan of --format json, or"
                " `scan(...).to_dict()`"
            )
    return results


def _measured(results: Results) -> dict[str, Mapping[str, Any]]:
    """The entries of what was measured."""
    return {name: fields for name, fields in results.items() if "skipped" not in fields}


def _shape_mismatch(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Why two entries cannot be compared: their sizes differ; empty where they agree."""
    for measure, field in _SHAPES:
        sizes = [(side.get(measure) or {}).get(field) for side in (a, b)]
        if None not in sizes and sizes[0] != sizes[1]:
            return f"{field} {sizes[0]} in A, {sizes[1]} in B"
    return ""
