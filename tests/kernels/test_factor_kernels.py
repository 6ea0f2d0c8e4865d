"""Products of blocks with panels on every backend, and differences of every pair of float types, against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.kernels.choose import factor_kernels_for
from netweight.kernels.cpu.task_vectors import difference, extent, prepare

FLOATS = ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"]
RNG = np.random.default_rng(0)
BLOCKS = [RNG.standard_normal((k, 7)).astype(np.float32) for k in (5, 5, 2)]
WHOLE = np.concatenate(BLOCKS).astype(np.float64)
PANEL = RNG.standard_normal((7, 3))


@pytest.fixture(scope="module", params=["cpu", "torch-cpu", "torch-cuda"])
def kernels(request):
    if request.param == "cpu":
        return factor_kernels_for("cpu")
    torch = pytest.importorskip("torch")
    if request.param == "torch-cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from netweight.kernels.gpu.factors import TorchFactorKernels

    return TorchFactorKernels(request.param.removeprefix("torch-"))


@pytest.mark.parametrize("wide", [False, True])
def test_sums_over_blocks(kernels, wide):
    close = {"rtol": 1e-12, "atol": 1e-12} if wide else {"rtol": 1e-5, "atol": 1e-5}
    panel = kernels.send(PANEL, wide=wide)
    sketch, gram, lifted = kernels.total(7, 3), kernels.total(3, 3), kernels.total(7, 3)
    rows = RNG.standard_normal((12, 3))
    images, first = [], 0
    for block in BLOCKS:
        held = kernels.load(block)
        kernels.add_sketch(held, panel, sketch)
        kernels.add_image_gram(held, panel, gram)
        kernels.add_lifted(held, kernels.send(rows[first : first + len(block)], wide=wide), lifted)
        images.append(kernels.image(held, panel))
        first += len(block)
    image = WHOLE @ PANEL
    np.testing.assert_allclose(kernels.fetch(sketch), WHOLE.T @ image, **close)
    np.testing.assert_allclose(kernels.fetch(gram), image.T @ image, **close)
    np.testing.assert_allclose(kernels.fetch(lifted), WHOLE.T @ rows, **close)
    np.testing.assert_allclose(np.concatenate(images), image, **close)
    assert images[0].dtype == (np.float64 if wide else np.float32)


def test_eigenvectors_of_both_gram_matrices(kernels):
    total = kernels.total(7, 7)
    for block in BLOCKS:
        kernels.add_gram(kernels.load(block), total)
    for matrix, made in ((WHOLE.T @ WHOLE, total), (WHOLE @ WHOLE.T, kernels.row_gram([*map(kernels.load, BLOCKS)]))):
        values, vectors = kernels.eigen(made)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=1e-11)
        np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-11)


def test_what_two_factors_leave(kernels):
    left, right = RNG.standard_normal((5, 3)).astype(np.float32), RNG.standard_normal((3, 7))
    found = kernels.residual(kernels.load(BLOCKS[0]), left, kernels.send(right, wide=True))
    assert found == pytest.approx(((WHOLE[:5] - left.astype(float) @ right) ** 2).sum(), rel=1e-13)
    stored = left.astype(ml_dtypes.bfloat16)
    found = kernels.residual(kernels.load(BLOCKS[0]), stored, kernels.send(right, wide=True))
    assert found == pytest.approx(((WHOLE[:5] - stored.astype(float) @ right) ** 2).sum(), rel=1e-13)


@pytest.mark.parametrize("base", FLOATS)
@pytest.mark.parametrize("model", FLOATS)
def test_differences_of_every_pair_of_types(base, model):
    n = 2500
    sides = [(RNG.standard_normal(n)).astype(DTYPES[name].to_numpy()) for name in (base, model)]
    out = np.empty(n, np.float32)
    prepare(DTYPES[base], DTYPES[model])
    difference(sides[0].view(np.uint8), DTYPES[base], sides[1].view(np.uint8), DTYPES[model], out)
    wide = np.float64 if "F64" in (base, model) else np.float32
    assert np.array_equal(out, (sides[1].astype(wide) - sides[0].astype(wide)).astype(np.float32))


def test_differences_of_bytes_at_odd_places():
    raw = np.arange(401, dtype=np.uint8)[1:]
    out, expected = np.empty(200, np.float32), np.empty(200, np.float32)
    for name in ("BF16", "F16"):
        difference(raw, DTYPES["BF16"], raw[::-1].copy(), DTYPES[name], out)
        difference(raw.copy(), DTYPES["BF16"], raw[::-1].copy(), DTYPES[name], expected)
        assert np.array_equal(out, expected, equal_nan=True)


def test_extents():
    values = RNG.standard_normal((100, 101)).astype(np.float32)
    squares, most = extent(values)
    assert squares == pytest.approx((values.astype(float) ** 2).sum(), rel=1e-14)
    assert most == np.abs(values).max()
    assert extent(np.zeros((2, 2), np.float32)) == (0.0, 0.0)
    for bad in (np.inf, -np.inf, np.nan):
        values[50, 50] = bad
        assert not np.isfinite(extent(values)[1])
