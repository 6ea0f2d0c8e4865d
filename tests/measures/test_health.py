"""Health: every threshold from both sides, nothing judged that was not measured, and no score."""

import math

import pytest

from netweight.measures.health import assess, number, topics
from netweight.measures.health_checks import CHECKS, LEVELS, judge
from netweight.measures.siblings import whole_of

GOOD = {
    "basic_stats": {"n_nan": 0, "n_inf": 0, "zeros_percentage": 0.1},
    "spectral": {"condition_number": 50.0, "singular": False, "stable_rank": 40.0, "total_rank": 100},
    "quantization": {"sqnr_db": 44.0, "extreme_outlier_percentage": 0.01},
    "sparsity": {"zeros_percentage": 0.1, "dead_rows_percentage": 0.0, "dead_columns_percentage": 0.0},
    "tail": {"alpha": 3.5},
    "within": {"code_group": "", "significant_bits": 8},
}


def tensor(**changes):
    """GOOD with fields changed: spectral__condition_number=1e4."""
    found = {measure: dict(fields) for measure, fields in GOOD.items()}
    for key, value in changes.items():
        measure, field = key.split("__")
        found[measure][field] = value
    return found


def test_nothing_found():
    health = assess([("a", GOOD), ("b", GOOD)], {"a": (100, 100), "b": (100, 200)})
    assert (health.findings, health.unmeasured, health.judged) == ((), (), 2)
    assert health.counts() == {"critical": 0, "warning": 0, "info": 0}
    assert dict(health.thresholds) == {
        "NaN or infinite values": "any is critical",
        "tensors that are all zero": "any is critical",
        "significant bits": "below 5 info",
        "condition number": "above 1e3, 1e4, 1e5: info",
        "SQNR in int8 per tensor": "below 40 dB, 30 dB: info",
        "extreme outliers": "above 0.1%, 1%, 10%: info",
        "stable rank / full rank": "below 0.3, 0.1: info",
        "dead rows": "above 0% info, 1% warning, 10% critical",
        "dead columns": "above 0% info, 1% warning, 10% critical",
        "power-law exponent alpha": "below 2 info; above 6 info",
    }


@pytest.mark.parametrize(
    ("field", "value", "level", "what"),
    [
        ("spectral__condition_number", 1000.0, None, None),
        ("spectral__condition_number", 1000.1, "info", "condition number above 1e3"),
        ("spectral__condition_number", 1e4, "info", "condition number above 1e3"),
        ("spectral__condition_number", 1.01e4, "info", "condition number above 1e4"),
        ("spectral__condition_number", 1.01e5, "info", "condition number above 1e5"),
        ("spectral__condition_number", math.inf, "info", "singular: no condition number"),
        ("spectral__singular", True, "info", "singular: no condition number"),
        ("quantization__sqnr_db", 40.0, None, None),
        ("quantization__sqnr_db", 39.9, "info", "SQNR in int8 per tensor below 40 dB"),
        ("quantization__sqnr_db", 29.9, "info", "SQNR in int8 per tensor below 30 dB"),
        ("quantization__extreme_outlier_percentage", 0.1, None, None),
        ("quantization__extreme_outlier_percentage", 0.11, "info", "extreme outliers above 0.1%"),
        ("quantization__extreme_outlier_percentage", 1.1, "info", "extreme outliers above 1%"),
        ("quantization__extreme_outlier_percentage", 10.1, "info", "extreme outliers above 10%"),
        ("spectral__stable_rank", 30.0, None, None),
        ("spectral__stable_rank", 29.0, "info", "stable rank / full rank below 0.3"),
        ("spectral__stable_rank", 9.0, "info", "stable rank / full rank below 0.1"),
        ("within__significant_bits", 4, "info", "significant bits below 5"),
        ("within__significant_bits", 5, None, None),
        ("within__zero_heads", 0, None, None),
        ("within__zero_heads", 1, "warning", "heads that are all zero"),
        ("within__head_scale", 20.1, "warning", "root mean square of a head off the others' above 20x"),
        ("within__head_scale", 20.0, None, None),
        ("within__untrained_percentage", 0.0, None, None),
        ("within__untrained_percentage", 0.1, "info", "token rows that training did not make"),
        ("sparsity__dead_rows_percentage", 0.01, "info", "dead rows above 0%"),
        ("sparsity__dead_rows_percentage", 1.5, "warning", "dead rows above 1%"),
        ("sparsity__dead_columns_percentage", 11.0, "critical", "dead columns above 10%"),
        ("tail__alpha", 2.0, None, None),
        ("tail__alpha", 1.9, "info", "power-law exponent alpha below 2"),
        ("tail__alpha", 6.1, "info", "power-law exponent alpha above 6"),
        ("basic_stats__n_nan", 1, "critical", "NaN or infinite values"),
        ("basic_stats__n_inf", 3, "critical", "NaN or infinite values"),
        ("basic_stats__zeros_percentage", 100.0, "critical", "tensors that are all zero"),
        ("basic_stats__zeros_percentage", 99.99, None, None),
    ],
)
def test_thresholds_from_both_sides(field, value, level, what):
    findings = assess([("w", tensor(**{field: value}))]).findings
    assert [(f.level, f.what, f.parameter) for f in findings] == ([(level, what, "w")] if level else [])
    assert all(f.advice and f.threshold == judged_at(f) for f in findings)


def judged_at(finding):
    check = next(c for c in CHECKS if c.key == finding.check)
    value = finding.value
    return next(bound for _, bound in check.limits if (value > bound if check.worse == "above" else value < bound))


@pytest.mark.parametrize("value", [None, math.nan, "text", True])
@pytest.mark.parametrize(
    "field",
    [
        "spectral__condition_number",
        "quantization__sqnr_db",
        "spectral__stable_rank",
        "spectral__total_rank",
        "tail__alpha",
        "sparsity__dead_rows_percentage",
    ],
)
def test_undefined_numbers_are_no_findings(field, value):
    assert assess([("w", tensor(**{field: value}))]).findings == ()


def test_vectors_are_judged_for_non_finite_values_alone():
    bad = tensor(
        quantization__sqnr_db=3.0, spectral__condition_number=1e9, basic_stats__zeros_percentage=100.0, tail__alpha=0.5
    )
    for shape in ((1, 64), (64, 1), (1, 1)):
        assert assess([("b", bad)], {"b": shape}).findings == ()
    by_rank = tensor(spectral__total_rank=1, spectral__condition_number=1e9, quantization__sqnr_db=3.0)
    assert assess([("b", by_rank)]).findings == ()
    broken = assess([("b", tensor(basic_stats__n_nan=2)), ("w", GOOD)], {"b": (1, 8), "w": (100, 100)})
    assert [f.said for f in broken.findings] == ["NaN or infinite values: 2"]


def test_an_all_zero_matrix_is_one_finding():
    zero = tensor(basic_stats__zeros_percentage=100.0, spectral__singular=True, sparsity__dead_rows_percentage=100.0)
    assert [f.what for f in assess([("w", zero)]).findings] == ["tensors that are all zero"]


def test_only_what_was_measured_is_judged_and_the_rest_is_said():
    health = assess([("w", {"basic_stats": GOOD["basic_stats"]})])
    assert [what for what, _ in health.thresholds] == ["NaN or infinite values", "tensors that are all zero"]
    assert health.unmeasured == (
        "likeness to noise, condition numbers and stable ranks were not measured: add --methods spectral",
        "quantization risks and outliers were not measured: add --methods quantization",
        "dead rows and dead columns were not measured: add --methods sparsity",
        "exponents alpha were not measured: add --methods tail",
        "codes, heads and token rows were not measured: add --methods within",
    )
    reasons = ["only the 5 largest of 9 singular values were asked for", "only the 5 largest of 8 singular values"]
    leading = [tensor(spectral__condition_number=math.nan, spectral__spectrum_reason=reason) for reason in reasons]
    broken = tensor(
        spectral__condition_number=math.nan,
        spectral__spectrum_reason="elements that are NaN or infinite",
        basic_stats__n_nan=1,
    )
    assert assess([("a", leading[0]), ("b", leading[1]), ("c", GOOD), ("d", broken)]).unmeasured == (
        "the condition numbers of 2 matrices are not known: only the largest singular values were asked for",
        "the condition number of 1 matrix is not known: elements that are NaN or infinite",
    )


@pytest.mark.parametrize(
    ("changes", "methods", "what"),
    [
        ({"sparsity__zeros_percentage": 100.0}, ["sparsity"], "tensors that are all zero"),
        ({"spectral__max_singular_value": 0.0}, ["spectral"], "tensors that are all zero"),
        ({"tail__sv_max": 0.0}, ["tail"], "tensors that are all zero"),
        ({"quantization__risk_level": "broken"}, ["quantization"], "NaN or infinite values"),
        ({"spectral__spectrum_reason": "elements that are NaN or infinite"}, ["spectral"], "NaN or infinite values"),
    ],
)
def test_faults_that_another_measure_tells_need_no_basic_stats(changes, methods, what):
    rows = [("w", {m: tensor(**changes)[m] for m in methods}), ("v", {m: GOOD[m] for m in methods})]
    health = assess(rows, {"w": (100, 100), "v": (100, 100)})
    assert [f.said for f in health.findings] == [what]
    assert what in dict(health.thresholds)
    missing = {"tensors that are all zero": "zero tensors", "NaN or infinite values": "non-finite values"}[what]
    assert not any(missing in sentence for sentence in health.unmeasured)
    assert health.to_dict()["findings"][0]["value"] == (None if what.startswith("NaN") else 1.0)


def test_dead_rows_of_nan_are_not_called_dead():
    broken = tensor(basic_stats__n_nan=50, sparsity__dead_rows_percentage=50.0, sparsity__dead_columns_percentage=20.0)
    assert [f.said for f in assess([("w", broken)]).findings] == ["NaN or infinite values: 50"]


@pytest.mark.parametrize("rows", [[], [("w", {})]])
def test_nothing_judged(rows):
    health = assess(rows)
    assert (health.judged, health.findings, health.thresholds) == (0, (), ())
    nouns = "non-finite values, zero tensors, scales, copies and different values"
    assert health.unmeasured[0] == f"{nouns} were not measured: add --methods basic_stats"


def test_findings_are_sorted_and_grouped():
    rows = [(f"model.layers.{i}.q_proj.weight", tensor(spectral__condition_number=2e4 + i)) for i in range(28)]
    rows += [(f"experts.w[{i}]", tensor(spectral__condition_number=1.5e4)) for i in range(3)]
    rows += [("head", tensor(spectral__singular=True, tail__alpha=9.0))]
    rows += [("dead", tensor(sparsity__dead_rows_percentage=50.0))]
    health = assess(rows)
    assert health.findings[0].parameter == "dead"
    levels = [LEVELS.index(f.level) for f in health.findings]
    assert levels == sorted(levels)
    assert health.worst() == {row: "critical" if row == "dead" else "info" for row, _ in rows}
    dead, singular, condition, alpha = topics(health.findings)
    assert (dead.level, dead.count, dead.patterns) == ("critical", 1, (("dead", 1),))
    assert (singular.level, singular.count, singular.patterns) == ("info", 1, (("head", 1),))
    assert (condition.what, condition.count) == ("condition number above 1e4", 31)
    assert condition.worst.parameter == "model.layers.27.q_proj.weight"
    assert condition.worst.said == "condition number above 1e4: 2.00e4"
    assert condition.patterns == (("model.layers.*.q_proj.weight", 28), ("experts.w[*]", 3))
    assert alpha.worst.said == "power-law exponent alpha above 6: 9"


def test_json_has_no_infinity():
    import json

    found = assess([("w", tensor(spectral__singular=True)), ("v", tensor(quantization__sqnr_db=-math.inf))]).to_dict()
    text = json.dumps({**found, "findings": [f for f in found["findings"] if "singular" in f]}, allow_nan=False)
    assert '"singular": true' in text
    assert set(found) == {"judged", "training", "counts", "findings", "thresholds", "unmeasured"}
    assert found["training"] is None
    assert found["counts"] == {"critical": 0, "warning": 0, "info": 2}
    assert all(f["value"] is None or math.isfinite(f["value"]) for f in found["findings"])


def test_judge_and_number():
    assert [judge("condition", v) for v in (None, math.nan, 1.0, 2e3, math.inf)] == [
        None,
        None,
        None,
        "info",
        "info",
    ]
    assert [judge("dead_rows", v) for v in (0.0, 0.5, 5.0, 50.0)] == [None, "info", "warning", "critical"]
    assert number({"m": {"a": 3}}, "m", "a") == 3.0
    assert number({"m": {"a": math.inf}}, "m", "a") == math.inf
    assert [number({"m": {"a": v}}, "m", "a") for v in (None, math.nan, "1", False)] == [None] * 4
    assert number({}, "m", "a") is None


def test_values_of_a_code():
    """At most 256 of them in many elements."""
    for elements, distinct, said in (
        (4096, 256, True),
        (4096, 1, False),
        (4096, 0, False),
        (4096, 257, False),
        (4095, 3, False),
        (4096, None, False),
    ):
        row = tensor(basic_stats__elements=elements, basic_stats__distinct_values=distinct)
        assert assess([("w", row)]).findings == ()  # where `within` was measured, it tells
        del row["within"]
        assert [f.said for f in assess([("w", row)]).findings] == (["different values below 257: 256"] if said else [])


def test_a_code_is_said_with_its_group_once():
    row = tensor(
        within__code_group="32 columns", within__code_values=16, within__code_effective=10.0,
        basic_stats__distinct_values=200, basic_stats__elements=9999,
    )  # fmt: skip
    (finding,) = assess([("w", row)]).findings
    assert finding.said == "rounded to the values of a code: 16 values, one scale for 32 columns of a row"
    of_rows = tensor(within__code_group="row", within__code_values=99, within__code_effective=120.4)
    (finding,) = assess([("w", of_rows)]).findings
    assert finding.said == "rounded to the values of a code: 120 values, one scale for each row"


def test_a_head_like_noise_is_one_among_heads_that_are_not():
    for least, usual, said in ((1.04, 1.3, True), (1.04, 1.2, False), (1.06, 1.3, False), (1.04, math.nan, False)):
        row = tensor(within__head_noise=least, within__head_noise_median=usual, within__head_noise_at=7)
        found = [f.said for f in assess([("w", row)]).findings]
        assert [text.endswith("1.04x, head 7") for text in found] == ([True] if said else [])
    scaled = tensor(within__head_scale=100.0, within__head_scale_at=2)
    assert [f.said for f in assess([("w", scaled)]).findings] == [
        "root mean square of a head off the others' above 20x: 100x, head 2"
    ]


def fused(scales):
    """Five layers of a fused projection, whose parts have these norms in the last one."""
    names = {f"h.{i}.c_attn.weight": {"l2": 10.0} for i in range(5)}
    for i in range(5):
        for part, scale in scales.items():
            names[f"h.{i}.c_attn.weight[{part}]"] = {"l2": 5.0 * (scale if i == 4 else 1.0)}
    names["h.4.c_attn.weight"] = {"l2": 10.0 * max(scales.values())}
    return [
        (name, {"basic_stats": {"n_nan": 0, "n_inf": 0, "zeros_percentage": 0.0, **held}})
        for name, held in names.items()
    ]


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ({"q_proj": 1.0, "v_proj": 100.0}, ["h.4.c_attn.weight[v_proj]"]),
        ({"q_proj": 100.0, "v_proj": 100.0}, ["h.4.c_attn.weight"]),
        ({"q_proj": 1.0, "v_proj": 1.0}, []),
    ],
)
def test_parts_of_a_fused_projection_are_beside_their_siblings(scales, said):
    """The part at fault is named, not the whole; the whole where all of it is."""
    rows = fused(scales)
    parts = {name for name, _ in rows if "[" in name}
    health = assess(rows, {name: (64, 64) for name, _ in rows}, parts)
    assert [f.parameter for f in health.findings if f.check == "scale"] == said
    assert health.judged == 5


def test_where_a_part_lies():
    assert whole_of("c_attn.weight[q_proj]") == "c_attn.weight"
    assert whole_of("gate_up_proj[3.gate_proj]") == "gate_up_proj[3]"
