"""The fields of `compare`, against plain numpy in float64."""

from __future__ import annotations

import dataclasses
import json
import math
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.measures import change
from netweight.measures.between import between_columns, derive_between
from netweight.measures.change import COLUMNS
from netweight.measures.registry import COMPARED, SCANNED, find
from netweight.statistics.pairs import NOTHING, PairStatistics

PAIRS = CpuKernels().pairs()
NAMES = {"float32": "F32", "float64": "F64"}


def derived(a, b):
    a, b = np.asarray(a), np.asarray(b)
    PAIRS.start(DTYPES[NAMES[a.dtype.name]], DTYPES[NAMES[b.dtype.name]])
    for buffer, array in zip(PAIRS.buffers, (a, b), strict=True):
        buffer[: array.nbytes] = array.view(np.uint8)
    PAIRS.add(len(a))
    return change.derive(PairStatistics.of(PAIRS.partial()))


def restated(a, b):
    """The specification's definitions in plain numpy."""
    wide = np.result_type(a, b)
    d = (b.astype(wide) - a.astype(wide)).astype(np.float64)
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    return {
        "l2_distance": np.linalg.norm(d),
        "relative_l2_distance": np.linalg.norm(d) / norm_a,
        "cosine_similarity": a @ b / norm_a / norm_b,
        "mean_absolute_difference": np.abs(d).mean(),
        "max_absolute_difference": np.abs(d).max(),
        "significant_change_percentage": 100 * (np.abs(d) / (np.abs(a) + 1e-10) > 0.01).mean(),
        "mean_diff": b.mean() - a.mean(),
        "std_diff": b.std() - a.std(),
        "l2_norm_ratio": norm_b / norm_a,
        "max_abs_change": np.abs(d).max(),
        "identical_percentage": 100 * (a == b).mean(),
        "sign_flip_percentage": 100 * (np.sign(a) * np.sign(b) < 0).mean(),
        "stats": {"mean": d.mean(), "std": d.std(), "min": d.min(), "max": d.max()},
    }


def normal(n, seed, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


@pytest.mark.parametrize("types", [("float32", "float32"), ("float64", "float32"), ("float64", "float64")])
def test_every_field(types):
    a = normal(9001, 0, types[0])
    b = (a + 0.01 * normal(9001, 1)).astype(types[1])
    b[::7] = a[::7]
    found, want = derived(a, b), restated(a, b)
    stats = want.pop("stats")
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name
    assert found["difference_stats"] == pytest.approx(stats, rel=1e-11, abs=1e-14)
    expected = 10 * abs(want["mean_diff"]) + 10 * abs(want["std_diff"]) + abs(want["l2_norm_ratio"] - 1)
    assert found["change_score"] == pytest.approx(expected, rel=1e-10)
    assert (found["comparable"], found["comparable_reason"], found["n_nonfinite"], found["flag"]) == (True, "", 0, "")


def test_the_fields_are_the_columns():
    found = derived(normal(10, 0), normal(10, 1))
    flat = [
        f"{k}.{i}" if isinstance(v, dict) else k for k, v in found.items() for i in (v if isinstance(v, dict) else "-")
    ]
    quantised = {"clipped_percentage"}  # where b's codes have ends
    adapters = {"column_overlap", "row_overlap"}  # of two updates
    assert sorted(flat) == sorted(c.name for c in change.COLUMNS if c.name not in quantised | adapters)
    pairs = dataclasses.replace(NOTHING, n=1, looked_at=8, clipped=2)
    assert change.derive(pairs).keys() - found.keys() == quantised
    assert change.derive(pairs)["clipped_percentage"] == 25
    assert list(change.without_comparison("x")) == list(dict.fromkeys(c.name.partition(".")[0] for c in change.COLUMNS))
    assert all(type(v) in (bool, str, float, int, dict) for v in found.values())
    assert find("change").derive is change.derive


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e3, 1e3, width=32)), st.floats(-100, 100))
@settings(max_examples=200, deadline=None)
def test_the_cosine_is_never_above_one(a, factor):
    found = derived(a, (a * np.float32(factor)).astype("f4"))
    assert math.isnan(found["cosine_similarity"]) or -1 <= found["cosine_similarity"] <= 1


@pytest.mark.parametrize(("factor", "cosine"), [(2, 1), (1, 1), (-1, -1), (1024, 1)])
def test_parallel_tensors(factor, cosine):
    a = normal(1003, 2)
    found = derived(a, a * np.float32(factor))
    assert found["cosine_similarity"] == pytest.approx(cosine, abs=1e-15)
    assert found["l2_norm_ratio"] == pytest.approx(abs(factor), rel=1e-15)
    assert found["sign_flip_percentage"] == (100 if factor < 0 else 0)


def test_equal_tensors():
    a = normal(1003, 2)
    found = derived(a, a.copy())
    zero = ["l2_distance", "relative_l2_distance", "mean_absolute_difference", "mean_diff", "std_diff", "change_score"]
    assert [found[name] for name in zero] == [0] * len(zero)
    assert (found["cosine_similarity"], found["l2_norm_ratio"], found["identical_percentage"]) == (1, 1, 100)
    assert found["difference_stats"] == {"mean": 0, "std": 0, "min": 0, "max": 0}
    assert change.is_frozen(found)
    assert not change.is_adapted(found)


def test_zero_tensors():
    zero, some = np.zeros(10, "f4"), np.ones(10, "f4")
    both = derived(zero, zero)
    assert math.isnan(both["cosine_similarity"])
    assert math.isnan(both["l2_norm_ratio"])
    assert (both["change_score"], both["identical_percentage"], both["flag"]) == (0, 100, "both are zero")
    assert change.is_frozen(both)
    appeared, gone = derived(zero, some), derived(some, zero)
    assert (appeared["flag"], gone["flag"]) == ("a is zero", "b is zero")
    assert math.isnan(appeared["relative_l2_distance"])
    assert appeared["change_score"] == gone["change_score"] == 11
    assert (gone["relative_l2_distance"], gone["l2_norm_ratio"]) == (1, 0)
    assert change.is_adapted(gone)


def test_what_is_not_finite():
    a, b = normal(10, 3), normal(10, 4)
    a[2], b[5] = nan, inf
    found = derived(a, b)
    good = np.isfinite(a) & np.isfinite(b)
    assert (found["n_nonfinite"], found["flag"]) == (2, "non-finite")
    assert found["l2_distance"] == pytest.approx(restated(a[good], b[good])["l2_distance"], rel=1e-13)
    nothing = derived(np.full(3, nan, "f4"), b[:3])
    assert (nothing["flag"], nothing["n_nonfinite"]) == ("nothing finite", 3)
    assert math.isnan(nothing["l2_distance"])
    assert math.isnan(nothing["change_score"])
    assert math.isnan(nothing["difference_stats"]["min"])
    empty = derived(np.zeros(0, "f4"), np.zeros(0, "f4"))
    assert (empty["flag"], empty["n_nonfinite"]) == ("empty", 0)
    assert not change.is_frozen(empty)


def test_squares_beyond_float64():
    found = derived(np.array([1e300, -1e300, 3e250]), np.array([1e299, 1e300, 0.0]))
    assert found["flag"] == "overflow"
    assert found["max_absolute_difference"] == 2e300
    assert found["sign_flip_percentage"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("ratio", "identical", "frozen", "adapted"),
    [
        (1.0, 0, True, False),
        (1.009, 0, True, False),
        (1.011, 0, False, False),
        (0.989, 0, False, False),
        (1.2, 0, False, True),
        (0.89, 0, False, True),
        (nan, 0, False, False),
        (nan, 100, True, False),
        (None, None, False, False),
    ],
)
def test_frozen_and_adapted(ratio, identical, frozen, adapted):
    metrics = {"l2_norm_ratio": ratio, "identical_percentage": identical}
    assert (change.is_frozen(metrics), change.is_adapted(metrics)) == (frozen, adapted)


def test_the_score_of_what_a_file_holds():
    assert change.change_score({"change_score": 2.5, "mean_diff": 1}) == 2.5
    assert change.change_score({"mean_diff": -0.1, "std_diff": 0.2, "l2_norm_ratio": 0.5}) == pytest.approx(3.5)
    assert change.change_score({"mean_diff": -0.1, "std_diff": 0.2, "l2_norm_ratio": None}) == pytest.approx(3)
    assert math.isnan(change.change_score({"comparable": False, "change_score": 1.0}))
    assert math.isnan(change.change_score({"change_score": None}))


def test_between_scans():
    one = {"spectral": {"condition_number": 10.0, "stable_rank": 3.5, "max_singular_value": 2.0, "effective_rank": 7}}
    other = {"spectral": {"condition_number": 25.0, "stable_rank": 3.0, "max_singular_value": 3.0, "effective_rank": 9}}
    one["spectral"]["entropy_rank"] = other["spectral"]["entropy_rank"] = 4.0
    assert derive_between((one, other), ["basic_stats", "spectral"]) == {
        "condition_number_ratio": 2.5,
        "stable_rank_diff": -0.5,
        "max_singular_value_ratio": 1.5,
        "effective_rank_diff": 2,
        "entropy_rank_diff": 0,
        "spectral_diff_reason": "",
    }


def test_between_scans_that_do_not_know():
    known = {"condition_number": 10.0, "stable_rank": 3.5, "max_singular_value": 2.0, "effective_rank": 7}
    one = {"spectral": {**known, "condition_number": inf, "spectrum_reason": "sigma_r is zero"}}
    found = derive_between((one, {"spectral": {**known, "condition_number": inf}}), ["spectral"])
    assert math.isnan(found["condition_number_ratio"])
    assert found["spectral_diff_reason"] == "a: sigma_r is zero"
    found = derive_between(({"spectral": known}, one), ["spectral"])
    assert found["condition_number_ratio"] == inf
    found = derive_between(({}, {"tail": {"alpha": None, "tail_reason": "no tail"}}), ["tail"])
    assert math.isnan(found["alpha_diff"])
    assert found["tail_diff_reason"] == "a: not measured; b: no tail"
    zero = {"spectral": {**known, "max_singular_value": 0.0}}
    assert derive_between((zero, {"spectral": known}), ["spectral"])["max_singular_value_ratio"] == inf
    assert math.isnan(derive_between((zero, zero), ["spectral"])["max_singular_value_ratio"])
    columns = [c.name for c in between_columns(["basic_stats", "spectral", "tail"])]
    assert columns == [*derive_between((one, one), ["spectral", "tail"])]


def test_what_is_compared_is_what_scans_say():
    """No field of a scan measure is named that it does not have."""
    nothing = {name: {c.name: 1.0 for c in find(name).columns} for name in COMPARED}
    found = derive_between((nothing, nothing), COMPARED)
    assert [k for k, v in found.items() if v not in (0, 1, "")] == []
    assert {"condition_number_ratio", "sqnr_db_diff", "dead_rows_diff", "alpha_diff"} <= found.keys()


def test_no_two_measures_have_a_compared_field_of_one_name():
    names = [c.name for c in (*COLUMNS, *between_columns(COMPARED))]
    assert len(set(names)) == len(names)
    assert all(name.endswith(("_diff", "_ratio")) for method in SCANNED for name in find(method).compared)


def test_every_measure_of_a_scan_says_what_it_takes():
    for name in SCANNED:
        takes = find(name).takes
        assert takes
        assert {*takes} <= {"values", "channels", "spectrum", "within"}


def test_from_summaries():
    a, b = normal(500, 5, "float64") + 0.1, 1.5 * normal(500, 6, "float64")
    sides = [{"mean": float(x.mean()), "std": float(x.std())} for x in (a, b)]
    found = change.derive_from_summaries(json.loads(json.dumps(sides)), "no weights")
    want = restated(a, b)
    for name in ("mean_diff", "std_diff", "l2_norm_ratio"):
        assert found[name] == pytest.approx(want[name], rel=1e-12)
    assert (found["comparable"], found["comparable_reason"]) == (True, "no weights")
    assert math.isnan(found["l2_distance"])
    assert found["change_score"] == pytest.approx(derived(a, b)["change_score"], rel=1e-12)
    sides[0]["l2"], sides[1]["l2"] = 2.0, 3.0
    assert change.derive_from_summaries(sides, "")["l2_norm_ratio"] == 1.5
    unknown = change.derive_from_summaries(({}, {"mean": None}), "no weights")
    assert math.isnan(unknown["mean_diff"])
    assert math.isnan(unknown["change_score"])
