"""The fields of the spectral measure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.measures import spectral
from netweight.measures.registry import find
from netweight.statistics.spectrum import Spectrum


def row_of(w, leading=None):
    rows, cols = w.shape
    accumulator = CpuKernels().spectrum(DTYPES["F64"], rows, cols, leading)
    raw = np.ascontiguousarray(w).view(np.uint8).reshape(-1) if w.size else np.zeros(0, np.uint8)
    accumulator.add(raw, rows)
    if accumulator.look_again():
        accumulator.add(raw, rows)
    row = spectral.derive(Spectrum.of(accumulator))
    assert list(row) == [c.name for c in spectral.COLUMNS]
    assert all(type(v) in (int, float, bool, str, list, type(None)) for v in row.values())
    return row


def undefined(row):
    return {k for k, v in row.items() if v is None or v == [] or (isinstance(v, float) and math.isnan(v))}


FIELDS = {
    "condition_number": "number", "singular": "boolean", "condition_number_error": "number", "stable_rank": "number",
    "stable_rank_ratio": "number", "effective_rank": "integer", "entropy_rank": "number", "total_rank": "integer",
    "design_rank": "integer", "actual_rank": "integer", "rank_ratio": "number", "matrix_rank": "integer",
    "svd_90_percent_rank": "integer", "svd_90_percent_ratio": "number", "svd_90_percent_rank_at_least": "integer",
    "max_singular_value": "number", "min_singular_value": "number", "singular_value_ratio": "number",
    "top_singular_values": "numbers", "nuclear_norm": "number", "frobenius_norm": "number", "spectrum_method": "text",
    "spectrum_error": "number", "spectrum_reason": "text",
}  # fmt: skip
"""Every field of a row and the type of its cells, in the order of the tables."""

OF_TYPE = {"number": (float,), "integer": (int, float), "boolean": (bool,), "text": (str,), "numbers": (list,)}
"""Whole numbers are nan where they are not known."""


def test_registered():
    """The row is what the registry's own measure makes, with the fields and types of the tables."""
    measure = find("spectral")
    assert (measure.name, measure.needs, measure.takes) == ("spectral", {"spectrum"}, ("spectrum",))
    assert [(column.name, column.type) for column in measure.columns] == list(FIELDS.items())
    assert all(column.doc and column.unit == "" for column in measure.columns)
    assert measure.compared == (
        "condition_number_ratio", "stable_rank_diff", "max_singular_value_ratio", "effective_rank_diff",
        "entropy_rank_diff",
    )  # fmt: skip
    assert (measure.axes, measure.shown_columns()) == ((), ("condition_number",))
    w = np.random.default_rng(3).standard_normal((6, 4))
    accumulator = CpuKernels().spectrum(DTYPES["F64"], 6, 4, None)
    accumulator.add(w.view(np.uint8).reshape(-1), 6)
    assert not accumulator.look_again()
    row = measure.derive(Spectrum.of(accumulator))
    assert row["condition_number"] == pytest.approx(np.linalg.cond(w), rel=1e-10)
    assert [name for name, kind in FIELDS.items() if type(row[name]) not in OF_TYPE[kind]] == []
    assert all(type(row[name]) is int for name, kind in FIELDS.items() if kind == "integer")


def test_every_field():
    w = np.random.default_rng(0).standard_normal((40, 60))
    s = np.linalg.svd(w, compute_uv=False)
    row = row_of(w)
    p = s / s.sum()
    k = int(np.argmax(np.cumsum(s**2) >= 0.9 * (s**2).sum())) + 1
    expected = {
        "condition_number": np.linalg.cond(w),
        "stable_rank": (s**2).sum() / s[0] ** 2,
        "stable_rank_ratio": (s**2).sum() / s[0] ** 2 / 40,
        "effective_rank": 40,
        "entropy_rank": np.exp(-(p * np.log(p)).sum()),
        "total_rank": 40,
        "design_rank": 40,
        "actual_rank": 40,
        "rank_ratio": 1.0,
        "matrix_rank": np.linalg.matrix_rank(w),
        "svd_90_percent_rank": k,
        "svd_90_percent_ratio": k / 40,
        "svd_90_percent_rank_at_least": k,
        "max_singular_value": s[0],
        "min_singular_value": s[-1],
        "singular_value_ratio": s[-1] / s[0],
        "nuclear_norm": s.sum(),
        "frobenius_norm": np.linalg.norm(w),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-10)
    assert row["top_singular_values"] == pytest.approx(s[:10].tolist(), rel=1e-10)
    assert (row["singular"], row["spectrum_method"], row["spectrum_reason"]) == (False, "gram", "")
    assert 0 < row["spectrum_error"] < 1e-9
    assert 0 < row["condition_number_error"] < 1e-8
    assert abs(row["condition_number"] / np.linalg.cond(w) - 1) <= row["condition_number_error"]


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7, 1e8, 1e10, 1e12])
def test_condition_numbers_stay_within_their_error(condition):
    rng = np.random.default_rng(int(math.log10(condition)))
    left, right = (np.linalg.qr(rng.standard_normal((50, 50)))[0] for _ in range(2))
    w = (left * np.logspace(0, -math.log10(condition), 50)) @ right
    row = row_of(w)
    assert row["condition_number"] == pytest.approx(
        condition, rel=max(1e-3 if condition <= 1e8 else 0, 1e-14 * condition)
    )
    # what rounding w itself does stands beside the error of the spectrum
    assert abs(row["condition_number"] / condition - 1) <= row["condition_number_error"] + 1e-15 * condition
    assert row["singular"] is False


def test_every_rank_has_a_threshold_of_its_own():
    """Eight singular values that each rank counts up to another one, in a matrix of eight rows and twelve columns."""
    s = np.array([1, 0.5, 0.02, 0.009, 1e-4, 1.2e-6, 5e-7, 1e-7])
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (8, 12))
    row = row_of((left * s) @ right[:8])
    assert (row["svd_90_percent_rank"], row["svd_90_percent_ratio"], row["svd_90_percent_rank_at_least"]) == (
        2,
        1 / 4,
        2,
    )
    assert row["effective_rank"] == (s > 0.01 * s[0]).sum() == 3
    assert row["matrix_rank"] == np.linalg.matrix_rank(left * s, tol=12 * 2.0**-23) == 5
    assert row["actual_rank"] == (s > 1e-6 * s[0]).sum() == 6
    assert (row["total_rank"], row["design_rank"], row["rank_ratio"]) == (8, 8, 6 / 8)
    assert row["stable_rank_ratio"] == pytest.approx((s**2).sum() / 8, rel=1e-9)
    assert row["singular_value_ratio"] == pytest.approx(1e-7, rel=1e-3)
    assert row["max_singular_value"] == pytest.approx(1, rel=1e-12)
    assert row["min_singular_value"] == pytest.approx(1e-7, rel=1e-3)
    assert row["nuclear_norm"] == pytest.approx(s.sum(), rel=1e-8)
    assert row["top_singular_values"] == pytest.approx(s.tolist(), rel=1e-3)


def test_the_ten_largest_are_listed():
    w = np.random.default_rng(5).standard_normal((12, 11))
    assert row_of(w)["top_singular_values"] == pytest.approx(np.linalg.svd(w, compute_uv=False)[:10].tolist(), rel=1e-9)


def test_rank_deficient():
    rng = np.random.default_rng(1)
    row = row_of(rng.standard_normal((50, 7)) @ rng.standard_normal((7, 30)))
    assert (row["actual_rank"], row["matrix_rank"], row["effective_rank"]) == (7, 7, 7)
    assert (row["singular"], row["condition_number"], row["condition_number_error"]) == (True, math.inf, math.inf)
    assert row["spectrum_reason"] == "sigma_r is zero to the precision of float64"
    assert undefined(row) == set()


def test_zero():
    row = row_of(np.zeros((5, 8)))
    assert (row["singular"], row["condition_number"], row["actual_rank"], row["svd_90_percent_rank"]) == (
        True,
        math.inf,
        0,
        0,
    )
    assert row["spectrum_reason"] == "all elements are zero"
    assert undefined(row) == {"stable_rank", "stable_rank_ratio", "entropy_rank", "singular_value_ratio"}


def test_only_the_largest():
    w = np.random.default_rng(2).standard_normal((200, 300))
    s = np.linalg.svd(w, compute_uv=False)
    row = row_of(w, leading=4)
    assert row["spectrum_reason"] == "only the 4 largest of 200 singular values were asked for"
    assert row["top_singular_values"] == pytest.approx(s[:4].tolist(), rel=1e-9)
    assert row["frobenius_norm"] == pytest.approx(np.linalg.norm(w), rel=1e-12)
    assert row["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-10)
    assert row["svd_90_percent_rank_at_least"] == 5
    assert undefined(row) == {
        "condition_number", "singular", "condition_number_error", "effective_rank", "entropy_rank", "actual_rank",
        "rank_ratio", "matrix_rank", "svd_90_percent_rank", "svd_90_percent_ratio", "min_singular_value",
        "singular_value_ratio", "nuclear_norm",
    }  # fmt: skip


def test_non_finite():
    w = np.ones((5, 4))
    w[2, 2] = np.nan
    row = row_of(w)
    assert row["spectrum_reason"] == "elements that are NaN or infinite"
    known = {"total_rank", "design_rank", "svd_90_percent_rank_at_least"}
    assert undefined(row) == set(row) - known - {"spectrum_method", "spectrum_error", "spectrum_reason"}


def test_no_elements():
    row = row_of(np.zeros((0, 4)))
    assert (row["total_rank"], row["actual_rank"], row["spectrum_reason"]) == (0, 0, "no elements")


def test_one_row():
    row = row_of(np.array([[3.0, -4.0]]))
    assert (row["condition_number"], row["max_singular_value"], row["total_rank"]) == (1.0, 5.0, 1)
    assert row["spectrum_reason"] == ""
