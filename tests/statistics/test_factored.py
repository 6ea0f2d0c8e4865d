"""What factors tell of their product, against numpy on the product itself in float64."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.statistics.factored import Factors, angles, inner, inner_with, norm, spectrum, total, truncated

SHAPES = [(40, 30, 3), (30, 40, 8), (5, 6, 9), (7, 7, 1), (64, 3, 3)]


def made(rows, cols, rank, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((rows, rank)), rng.standard_normal((rank, cols)))


def turned_within(factors, seed=7):
    """The same product of other factors: an orthogonal matrix between them."""
    rank = factors.right.shape[0]
    between, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((rank, rank)))
    return Factors(factors.left @ between, between.T @ factors.right)


@pytest.mark.parametrize(("rows", "cols", "rank"), SHAPES)
def test_norms_and_products(rows, cols, rank):
    a, b = made(rows, cols, rank), made(rows, cols, max(1, rank - 1), seed=1)
    dense_a, dense_b = a.left @ a.right, b.left @ b.right
    for first, second, x, y in ((a, a, dense_a, dense_a), (a, b, dense_a, dense_b), (b, a, dense_b, dense_a)):
        assert inner(first, second) == pytest.approx((x * y).sum(), rel=1e-12)
        assert inner(turned_within(first), second) == pytest.approx((x * y).sum(), rel=1e-9)
    blocks = [(at, dense_b[at : at + 4]) for at in range(0, rows, 4)]
    assert inner_with(a, blocks) == pytest.approx((dense_a * dense_b).sum(), rel=1e-12)
    assert total(a) == pytest.approx(dense_a.sum(), rel=1e-9)
    both = Factors.joined([a, b])
    assert np.allclose(both.left @ both.right, dense_a + dense_b)


@pytest.mark.parametrize(("rows", "cols", "rank"), SHAPES)
def test_singular_values(rows, cols, rank):
    factors = made(rows, cols, rank)
    expected = np.linalg.svd(factors.left @ factors.right, compute_uv=False)
    for held in (factors, turned_within(factors)):
        found = spectrum(held)
        assert found.complete
        assert len(found.values) == min(rows, cols)
        assert np.allclose(found.values, expected, rtol=1e-9, atol=1e-12 * expected[0])
        assert not found.values[rank:].any()
        assert found.zeros == max(0, min(rows, cols) - rank)
        assert found.frobenius_norm == pytest.approx(np.linalg.norm(expected), rel=1e-12)


def test_spectra_of_what_has_none():
    bad = made(4, 5, 2)
    bad.left[0, 0] = np.nan
    assert spectrum(bad).reason == "elements that are NaN or infinite"
    zero = spectrum(Factors(np.zeros((4, 2)), np.ones((2, 5))))
    assert zero.zero
    assert zero.square_sum == 0


@pytest.mark.parametrize(("rows", "cols", "rank"), [(40, 30, 3), (20, 25, 6)])
def test_angles_between_spaces(rows, cols, rank):
    """scipy's angles of bases of the dense products."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = made(rows, cols, rank), made(rows, cols, rank + 1, seed=3)
    dense = [f.left @ f.right for f in (a, b)]
    for held in (a, turned_within(a)):
        found = angles(held, b)
        for space, matrices in (("column", dense), ("row", [m.T for m in dense])):
            bases = [np.linalg.svd(m)[0][:, :r] for m, r in zip(matrices, (rank, rank + 1), strict=True)]
            expected = np.sort(np.cos(linalg.subspace_angles(*bases)))[::-1]
            assert np.allclose(found[f"{space}_cosines"], expected, atol=1e-7)
            assert found[f"{space}_overlap"] == pytest.approx(np.square(expected).mean(), abs=1e-7)
    assert angles(a, a)["column_overlap"] == pytest.approx(1, abs=1e-12)
    apart = Factors(np.eye(rows)[:, :2], np.eye(cols)[:2]), Factors(np.eye(rows)[:, 2:4], np.eye(cols)[:2])
    assert (angles(*apart)["column_overlap"], angles(*apart)["row_overlap"]) == (0, 1)


def test_a_repeated_direction_is_one():
    """Spaces are those of the product, not of a factor that holds a direction twice."""
    left = np.ones((6, 2))
    one = Factors(left, np.array([[1.0, 0, 0], [1.0, 0, 0]]))
    found = angles(one, Factors(np.ones((6, 1)), np.array([[2.0, 0, 0]])))
    assert len(found["column_cosines"]) == 1
    assert found["column_overlap"] == pytest.approx(1)
    nothing = angles(one, Factors(np.zeros((6, 1)), np.zeros((1, 3))))
    assert nothing == {"column_cosines": [], "column_overlap": None, "row_cosines": [], "row_overlap": None}


def test_norms_of_what_nearly_cancels():
    """To the precision of float64 of the parts, not to its square root."""
    a = made(50, 40, 3)
    near = Factors(-a.left * (1 + 1e-9), a.right)
    dense = a.left @ a.right
    assert norm(Factors.joined([a, near])) == pytest.approx(1e-9 * np.linalg.norm(dense), rel=1e-5)
    assert norm(a) == pytest.approx(np.linalg.norm(dense), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_best_of_a_rank(rank):
    a = made(30, 20, 6)
    dense = a.left @ a.right
    u, s, v = np.linalg.svd(dense, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    found = truncated(turned_within(a), rank)
    assert found.left.shape == (30, rank)
    assert np.allclose(found.left @ found.right, best)
