"""Linear algebra without the interpreter's lock, against numpy."""

from __future__ import annotations

import ctypes
import os
import sys

import numpy as np
import pytest

from netweight.errors import JobError
from netweight.kernels.cpu import lapack


def symmetric(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return a + a.T


@pytest.fixture
def two_stages(monkeypatch):
    monkeypatch.setattr(lapack, "_TWO_STAGES", 0)


def lower(a):
    """The lower triangle in Fortran's order; what is above must not be read."""
    return np.asfortranarray(np.tril(a) + np.triu(np.full(a.shape, np.nan), 1))


@pytest.mark.parametrize("n", [2, 3, 17, 64, 200])
def test_eigenvalues_in_one_stage(n):
    a = symmetric(n)
    assert lapack.eigenvalues(lower(a)) == pytest.approx(np.linalg.eigvalsh(a), abs=1e-13 * n)


@pytest.mark.usefixtures("two_stages")
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 16, 17, 18, 31, 32, 33, 34, 65, 66, 100, 128, 129, 300, 333])
def test_eigenvalues_in_two_stages(n):
    a = symmetric(n)
    assert lapack.eigenvalues(lower(a)) == pytest.approx(np.linalg.eigvalsh(a), abs=1e-13 * n)


def test_eigenvalues_of_a_large_matrix():
    n = lapack._TWO_STAGES
    w = np.random.default_rng(1).standard_normal((n, 3))
    found = lapack.eigenvalues(np.asfortranarray(w @ w.T))
    assert found[-3:] == pytest.approx(np.linalg.eigvalsh(w.T @ w), rel=1e-12)
    assert np.abs(found[:-3]).max() < 1e-12 * found[-1]


@pytest.mark.usefixtures("two_stages")
@pytest.mark.parametrize("kind", ["zero", "identity", "diagonal", "tridiagonal", "blocks", "graded", "small", "large"])
def test_structured_matrices_in_two_stages(kind):
    n = 70
    q = np.linalg.qr(symmetric(n))[0]
    a = {
        "zero": np.zeros((n, n)),
        "identity": np.eye(n),
        "diagonal": np.diag(np.arange(n) - 20.0),
        "tridiagonal": np.diag(np.arange(1.0, n), 1) + np.diag(np.arange(1.0, n), -1),
        "blocks": np.kron(np.eye(7), np.ones((10, 10))),
        "graded": (q * np.logspace(0, -14, n)) @ q.T,
        "small": symmetric(n) * 1e-120,
        "large": symmetric(n) * 1e120,
    }[kind]
    expected = np.linalg.eigvalsh(a)
    assert lapack.eigenvalues(lower(a)) == pytest.approx(expected, abs=1e-14 * n * max(np.abs(expected).max(), 1e-300))


@pytest.mark.parametrize("transposed", [False, True])
def test_squares_are_added(transposed):
    w = np.random.default_rng(2).standard_normal((9, 5))
    gram = np.asfortranarray(np.full((9, 9) if transposed else (5, 5), 2.0))
    lapack.add_square(w, gram, transposed=transposed)
    expected = w @ w.T if transposed else w.T @ w
    assert np.tril(gram) == pytest.approx(np.tril(expected + 2.0), abs=1e-13)
    assert (np.triu(gram, 1) == np.triu(np.full(gram.shape, 2.0), 1)).all()


@pytest.mark.parametrize("heights", [[3], [20], [50, 1, 7], [31, 64, 65]])
def test_triangles_of_stacked_panels(heights):
    rng = np.random.default_rng(3)
    panels = [rng.standard_normal((k, 40)) for k in heights]
    triangle = np.zeros((40, 40), order="F")
    whole = np.concatenate(panels)
    for panel in panels:
        lapack.add_qr(triangle, panel.T.copy())
    assert (np.tril(triangle, -1) == 0).all()
    assert triangle.T @ triangle == pytest.approx(whole.T @ whole, abs=1e-12)
    expected = np.zeros(40)
    expected[: min(whole.shape)] = np.linalg.svd(whole, compute_uv=False)
    assert lapack.singular_values(triangle) == pytest.approx(expected, abs=1e-12)


def test_products_with_half_of_a_matrix():
    a = symmetric(12)
    x = np.arange(24.0)[::2]
    assert lapack.times(lower(a), x) == pytest.approx(a @ x)


def test_what_lapack_refuses():
    with pytest.raises(ArithmeticError, match=r"LAPACK's dsterf returned -1: expected 0; report this matrix as a bug"):
        lapack._call("dsterf", -1, np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("trouble", ["no library", "two libraries", "no library of code"])
def test_a_package_that_is_not_whole(monkeypatch, tmp_path, trouble):
    """Is one line with what to do; what the environment said stays."""
    (tmp_path / "scipy_openblas32" / "lib").mkdir(parents=True)
    (tmp_path / "scipy_openblas32" / "__init__.py").touch()
    for number in range({"no library": 0, "two libraries": 2}.get(trouble, 1)):
        (tmp_path / "scipy_openblas32" / "lib" / f"lib{number}.so").write_bytes(b"junk")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "scipy_openblas32", raising=False)
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "4")
    with pytest.raises(JobError, match=r"OpenBLAS: .*run `pip install --force-reinstall scipy-openblas32`"):
        lapack.load.__wrapped__()
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"


@pytest.mark.parametrize("said", ["4", "20"])
def test_threads_are_let_sleep_as_the_user_says(monkeypatch, said):
    """The value that the command line sets for numpy is not this library's; any other is the user's."""
    seen = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: seen.append(os.environ.get("OPENBLAS_THREAD_TIMEOUT")))
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", said)
    lapack.load.__wrapped__()
    assert seen == [None if said == "4" else said]
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == said
