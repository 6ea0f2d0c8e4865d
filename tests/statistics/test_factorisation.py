"""Truncated factorisations against numpy's SVD in float64: how near the least possible error, and how large it is."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.kernels.choose import factor_kernels_for
from netweight.statistics.factorisation import HeldFactors, factorise
from netweight.statistics.row_blocks import HeldRows, NotFiniteError
from netweight.statistics.singular_vectors import Rule, held_bytes, width_of

F32, BF16, F16 = DTYPES["F32"], DTYPES["BF16"], DTYPES["F16"]
MOST_ABOVE = 1e-4  # relative, of the least possible error


@pytest.fixture(scope="module", params=["cpu", "torch-cpu"])
def kernels(request):
    if request.param == "cpu":
        return factor_kernels_for("cpu")
    pytest.importorskip("torch")
    from netweight.kernels.gpu.factors import TorchFactorKernels

    return TorchFactorKernels("cpu")


def with_spectrum(rows, cols, values, seed=0):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((cols, len(values))))[0]
    return ((left * values) @ right.T).astype(np.float32)


def noise(rows, cols, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


K = 320
MATRICES = {
    "noise": noise(500, K),
    "noise, square": noise(K, K),
    "noise, wide": noise(K, 500),
    "noise, very wide": noise(200, 6000),
    "i^-0.25": with_spectrum(400, K, np.arange(1, K + 1) ** -0.25),
    "i^-0.5": with_spectrum(400, K, np.arange(1, K + 1) ** -0.5),
    "i^-1, wide": with_spectrum(K, 400, np.arange(1, K + 1) ** -1.0),
    "exponential": with_spectrum(400, K, np.exp(-np.arange(K) / 20)),
    "rank 16 and noise": with_spectrum(400, K, np.r_[np.ones(16), np.full(K - 16, 0.02)]),
    "rank 16 and little noise": with_spectrum(400, K, np.r_[np.ones(16), np.full(K - 16, 1e-4)]),
    "a step behind the rank": with_spectrum(400, K, np.r_[np.ones(40), np.full(K - 40, 0.02)]),
    "pairs": with_spectrum(400, K, np.repeat(np.linspace(1, 0.1, K // 2), 2)),
    "small": noise(40, 30),
    "tiny numbers": noise(400, K) * np.float32(1e-30),
    "huge numbers": noise(400, K) * np.float32(1e30),
}


SPECTRA = {}


def spectrum(matrix):
    if id(matrix) not in SPECTRA:
        SPECTRA[id(matrix)] = matrix, np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return SPECTRA[id(matrix)][1]


def least(matrix, rank):
    values = spectrum(matrix)
    return np.sqrt(np.square(values[rank:]).sum() / np.square(values).sum())


def found(matrix, rule, kernels, dtype=F32, **more):
    sink = HeldFactors()
    result = factorise(HeldRows(matrix), rule, kernels, sink, dtype, **more)
    left, right = sink.matrices()
    assert left.shape == (len(matrix), result.rank)
    assert right.shape == (result.rank, matrix.shape[1])
    assert left.dtype == right.dtype == dtype.to_numpy()
    rest = matrix.astype(np.float64) - left.astype(np.float64) @ right.astype(np.float64)
    error = np.linalg.norm(rest) / np.linalg.norm(matrix.astype(np.float64))
    assert result.error == pytest.approx(error, rel=1e-10, abs=1e-13)
    return result


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("rank", [1, 4, 32])
def test_the_error_is_the_least_possible_one(kernels, name, rank):
    matrix = MATRICES[name]
    rank = min(rank, 30)
    result = found(matrix, Rule(rank=rank), kernels, key=7)
    assert result.rank == rank
    assert result.error <= least(matrix, rank) * (1 + MOST_ABOVE) + 1e-7
    values = spectrum(matrix)
    assert result.squares == pytest.approx(np.square(values).sum(), rel=1e-12)
    np.testing.assert_allclose(result.values, values[:rank], rtol=2e-2, atol=1e-6 * values[0])
    assert (result.values <= values[:rank] * (1 + 1e-6) + 1e-6 * values[0]).all()


@pytest.mark.parametrize("shape", [(1500, 1000), (700, 1200)])
def test_few_of_many_by_iteration(shape):
    matrix = noise(*shape)
    result = found(matrix, Rule(rank=8), factor_kernels_for("cpu"))
    assert result.method == "krylov"
    assert result.error <= least(matrix, 8) * (1 + MOST_ABOVE)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("left", [0.5, 0.01])
def test_the_fewest_directions_that_leave_no_more(kernels, name, left):
    matrix = MATRICES[name]
    values = np.square(spectrum(matrix))
    rest = 1 - np.cumsum(values) / values.sum()
    expected = int(np.flatnonzero(rest <= left + 1e-12)[0]) + 1
    result = found(matrix, Rule(left=left), kernels)
    assert result.rank == expected
    assert result.error**2 <= left * (1 + 1e-5)
    assert result.left == pytest.approx(result.unrounded, rel=1e-4)


def test_few_directions_are_found_by_iteration():
    matrix = with_spectrum(900, 800, np.r_[np.ones(12), np.full(788, 0.001)])
    result = found(matrix, Rule(left=0.01), factor_kernels_for("cpu"))
    assert (result.rank, result.method) == (12, "krylov")


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_rounded_factors_keep_to_the_error(kernels, dtype, error):
    matrix = MATRICES["i^-1, wide"]
    result = found(matrix, Rule(left=error**2), kernels, dtype, stored_error=True)
    assert result.error <= error
    shorter = found(matrix, Rule(rank=result.rank - 2), kernels, dtype)
    assert shorter.error > error


def test_an_error_below_rounding_is_told():
    result = found(MATRICES["exponential"], Rule(left=1e-8), factor_kernels_for("cpu"), BF16, stored_error=True)
    assert result.error > 1e-4


def test_a_matrix_of_low_rank_in_float32(kernels):
    matrix = with_spectrum(700, 600, np.geomspace(1, 1e-2, 16))
    assert found(matrix, Rule(rank=16), kernels).error <= least(matrix, 16) * (1 + MOST_ABOVE) + 1e-7
    assert found(matrix, Rule(rank=20), kernels).error < 3e-7
    assert found(matrix, Rule(left=1e-10), kernels).rank == 16


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 5000), (5000, 3)])
def test_thin_matrices(kernels, shape):
    matrix = noise(*shape)
    result = found(matrix, Rule(rank=64), kernels)
    assert result.rank == min(shape)
    assert result.error < 1e-6


def test_zeros_have_no_factors(kernels):
    sink = HeldFactors()
    result = factorise(HeldRows(np.zeros((300, 200), np.float32)), Rule(rank=4), kernels, sink, F32)
    assert (result.rank, result.squares, result.error, result.method) == (0, 0.0, 0.0, "zero")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_said(kernels, bad):
    matrix = noise(300, 200)
    matrix[299, 7] = bad
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        factorise(HeldRows(matrix), Rule(rank=4), kernels, HeldFactors(), F32)


def test_factors_beyond_the_range_of_a_type_are_said(kernels):
    with pytest.raises(NotFiniteError, match="range of float16"):
        factorise(HeldRows(noise(300, 200) * np.float32(1e12)), Rule(rank=4), kernels, HeldFactors(), F16)


def test_holding_changes_nothing():
    matrix = noise(3000, 700)
    sinks = [HeldFactors(), HeldFactors()]
    for sink, hold in zip(sinks, (0, 1 << 30), strict=True):
        factorise(HeldRows(matrix), Rule(rank=6), factor_kernels_for("cpu"), sink, F32, key=3, hold=hold)
    for one, other in zip(sinks[0].matrices(), sinks[1].matrices(), strict=True):
        assert np.array_equal(one, other)


def test_the_key_chooses_the_start_alone():
    matrix, kernels = MATRICES["i^-0.5"], factor_kernels_for("cpu")
    errors = {found(matrix, Rule(rank=4), kernels, key=key).error for key in (1, 1, 2**70)}
    assert max(errors) - min(errors) <= MOST_ABOVE


def test_memory_is_counted():
    assert width_of(32) == 40
    assert held_bytes(Rule(rank=32), 128256, 2048) < 60 << 20
    assert held_bytes(Rule(rank=4), 30, 40) < 1 << 16
    assert held_bytes(Rule(left=0.1), 4096, 4096) >= 5 * 8 * 4096**2
