"""Ranks and norms of a spectrum, against numpy."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan, nan, sqrt

import numpy as np
import pytest

from netweight.kernels.spectrum import SingularValues
from netweight.statistics.moments import Moments
from netweight.statistics.spectrum import Spectrum


def spectrum(values, rows=None, cols=None, method="gram", error=1e-13, leading=None):
    values = np.array(values, float)
    rows, cols = rows or len(values), cols or len(values)
    kept = values[:leading]
    return Spectrum(kept, rows, cols, float((values**2).sum()), method, error, complete=leading is None)


@dataclass
class Reading:
    """An accumulator that has seen everything."""

    rows: int
    cols: int
    found: SingularValues

    def add(self, block, rows):
        raise AssertionError("nothing is read")

    def look_again(self):
        return False

    def singular_values(self):
        return self.found


def test_a_matrix():
    w = np.random.default_rng(0).standard_normal((60, 25))
    s = np.linalg.svd(w, compute_uv=False)
    found = spectrum(s, 60, 25)
    assert found.condition_number == pytest.approx(np.linalg.cond(w), rel=1e-12)
    assert found.stable_rank == pytest.approx(np.linalg.norm(w) ** 2 / np.linalg.norm(w, 2) ** 2, rel=1e-12)
    assert found.frobenius_norm == pytest.approx(np.linalg.norm(w), rel=1e-12)
    assert found.nuclear_norm == pytest.approx(np.linalg.norm(w, "nuc"), rel=1e-12)
    p = s / s.sum()
    assert found.entropy_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert (found.largest, found.smallest, found.ratio) == (s[0], s[-1], pytest.approx(s[-1] / s[0]))
    assert (found.effective_rank, found.actual_rank, found.matrix_rank, found.total) == (25, 25, 25, 25)
    assert found.singular is False
    assert found.resolved
    energy = np.cumsum(s**2) / (s**2).sum()
    k = int(np.argmax(energy >= 0.9)) + 1
    assert found.rank_of_share(0.9) == (k, k)


def test_thresholds_of_the_ranks():
    s = [1.0, 0.011, 0.01, 1e-3, 1.1e-6, 1e-6, 1e-12]
    found = spectrum(s, 7, 1000)
    assert found.effective_rank == 2
    assert found.actual_rank == 5
    assert found.matrix_rank == np.linalg.matrix_rank(np.diag(s).astype(np.float32), tol=1000 * 2.0**-23) == 4
    assert found.rank_of_share(0.9) == (1, 1)


def test_equal_values():
    found = spectrum([2.0] * 10)
    assert found.rank_of_share(0.9) == (9, 9)
    assert found.entropy_rank == pytest.approx(10)
    assert found.stable_rank == pytest.approx(10)
    assert found.condition_number == 1.0


@pytest.mark.parametrize(
    ("least", "singular"), [(0.0, True), (100 * 2.0**-52, True), (101 * 2.0**-52, False), (1e-9, False)]
)
def test_singular_matrices(least, singular):
    found = spectrum([1.0, 0.5, least], 100, 3, "qr", 3 * 2.0**-52)
    assert found.singular is singular
    assert found.condition_number == (inf if singular else 1 / least)


def test_error_of_the_condition_number():
    found = spectrum([1.0, 1e-3], error=1e-9)
    for off in (-1e-9, 1e-9):
        assert abs(1 / (1e-3 + off) * 1e-3 - 1) <= found.condition_number_error * (1 + 1e-9)
    assert found.condition_number_error == pytest.approx(1e-6, rel=1e-5)
    assert spectrum([1.0, 1e-9], method="qr", error=1e-9).condition_number_error == inf


def test_what_the_gram_matrix_does_not_resolve():
    for least in (0.0, 1e-9):
        found = spectrum([1.0, least], error=1e-7)
        assert found.singular is None
        assert isnan(found.condition_number)
        assert found.condition_number_error == inf
        assert not found.resolved
        assert found.stable_rank == pytest.approx(1)


def test_zero():
    found = spectrum([0.0, 0.0, 0.0], method="zero", error=0.0)
    assert found.zero
    assert found.singular is True
    assert (found.condition_number, found.condition_number_error) == (inf, inf)
    assert (found.effective_rank, found.actual_rank, found.matrix_rank) == (0, 0, 0)
    assert found.rank_of_share(0.9) == (0, 0)
    assert (found.frobenius_norm, found.nuclear_norm, found.largest, found.smallest) == (0, 0, 0, 0)
    assert all(map(isnan, (found.stable_rank, found.entropy_rank, found.ratio)))


def test_no_elements():
    found = Spectrum(np.zeros(0), 0, 5, 0.0, "zero", 0.0, complete=True)
    assert not found.defined
    assert (found.total, found.actual_rank, found.rank_of_share(0.9)) == (0, 0, (0, 0))
    assert all(map(isnan, (found.largest, found.condition_number, found.stable_rank, found.frobenius_norm)))
    assert found.singular is None


def test_only_the_largest():
    s = [4.0, 3.0, 0.03, 0.02, 0.01, 1e-9]
    found = spectrum(s, leading=3, method="lanczos")
    assert found.frobenius_norm == pytest.approx(np.linalg.norm(s), rel=1e-14)
    assert found.stable_rank == pytest.approx(np.linalg.norm(s) ** 2 / 16, rel=1e-14)
    assert found.rank_of_share(0.9) == (2, 2)
    assert found.effective_rank == 2
    assert isnan(found.actual_rank)  # all three are above
    assert isnan(found.matrix_rank)
    unknown = (found.smallest, found.ratio, found.condition_number, found.condition_number_error)
    assert all(map(isnan, (*unknown, found.nuclear_norm, found.entropy_rank)))
    assert found.singular is None


def test_too_few_for_the_share():
    reached, at_least = spectrum([1.0] * 100, leading=10, method="lanczos").rank_of_share(0.9)
    assert isnan(reached)
    assert at_least == 11


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_beyond_float64(scale):
    s = np.array([3.0, 2.0, 1.0]) * scale
    with np.errstate(over="ignore"):
        found = spectrum(s)
        part = spectrum(s, leading=2, method="lanczos")
    assert found.stable_rank == pytest.approx(14 / 9)
    assert found.frobenius_norm == pytest.approx(sqrt(14) * scale)
    assert found.condition_number == pytest.approx(3)
    assert found.rank_of_share(0.9) == (2, 2)
    assert all(map(isnan, (part.stable_rank, part.frobenius_norm, part.rank_of_share(0.9)[0])))


def test_of_an_accumulator():
    reading = Reading(5, 3, SingularValues(np.array([3.0, 2.0, 1.0]), "gram", 1e-15, 14.0, complete=True))
    found = Spectrum.of(reading)
    assert (found.rows, found.cols, found.square_sum, found.method, found.error) == (5, 3, 14.0, "gram", 1e-15)
    assert found.defined


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (SingularValues(None, "gram", inf, inf, complete=False, reason="because"), "because"),
        (SingularValues(np.array([inf, 1.0]), "gram", 0.0, inf, complete=True), "singular values beyond float64"),
    ],
)
def test_undefined(found, reason):
    spectrum = Spectrum.of(Reading(2, 2, found))
    assert spectrum.reason == reason
    assert len(spectrum.values) == 2
    assert not np.isfinite(spectrum.values).all()
    check_undefined(spectrum)


def check_undefined(found):
    assert not found.defined
    assert found.singular is None
    numbers = (found.largest, found.smallest, found.ratio, found.stable_rank, found.entropy_rank, found.frobenius_norm)
    ranks = (found.actual_rank, found.effective_rank, found.matrix_rank, found.rank_of_share(0.9)[0])
    assert all(map(isnan, (*numbers, *ranks, found.nuclear_norm, found.condition_number, found.condition_number_error)))


def test_undefined_for_a_reason():
    found = Spectrum.undefined(3, 4, "too long")
    assert (found.reason, len(found.values), found.total) == ("too long", 0, 3)
    check_undefined(found)


@dataclass
class Vector:
    """What `of_vector` reads of statistics.values.Values."""

    moments: Moments
    n_nan: int = 0
    n_inf: int = 0


@pytest.mark.parametrize(("rows", "cols"), [(1, 3), (3, 1)])
def test_of_vectors(rows, cols):
    moments = Moments.of_counts(np.array([1.0, 2.0, -2.0]), np.array([1, 1, 1]))
    found = Spectrum.of_vector(rows, cols, Vector(moments))
    assert (found.largest, found.smallest, found.singular) == (pytest.approx(3), pytest.approx(3), False)
    assert (found.condition_number, found.actual_rank, found.rank_of_share(0.9)) == (1.0, 1, (1, 1))
    check_undefined(Spectrum.of_vector(rows, cols, Vector(moments, n_nan=1)))
    assert Spectrum.of_vector(rows, cols, Vector(moments, n_inf=1)).reason == "elements that are NaN or infinite"
    zero = Spectrum.of_vector(rows, cols, Vector(Moments.of_counts(np.zeros(1), np.array([3]))))
    assert (zero.zero, zero.method) == (True, "zero")
    huge = Spectrum.of_vector(rows, cols, Vector(Moments.of_counts(np.array([1e200, 2.0]), np.array([2, 1]))))
    assert huge.reason == "singular values beyond float64"


def test_of_an_empty_vector():
    from netweight.statistics.moments import EMPTY

    found = Spectrum.of_vector(1, 0, Vector(EMPTY))
    assert (found.total, found.reason, found.actual_rank) == (0, "", 0)
    assert np.isnan(found.largest) == isnan(nan)
