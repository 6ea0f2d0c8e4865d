"""Heads: against numpy's SVD of every one, however the blocks of rows are cut."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.statistics.heads import HeadSums

TYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


def gathered(w, axis, size, dtype="F32", block=7):
    kept = np.ascontiguousarray(w.astype(TYPES[dtype]))
    sums = HeadSums(DTYPES[dtype], *w.shape, axis, size)
    for first in range(0, len(w), block):
        some = kept[first : first + block]
        sums.add(some.view(np.uint8).reshape(-1), len(some))
    return sums.finish()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize(("axis", "shape"), [(0, (96, 40)), (0, (96, 12)), (1, (40, 96)), (1, (12, 96))])
def test_against_numpy(axis, shape, block, dtype):
    w = np.random.default_rng(1).normal(0, 0.02, shape)
    w[:16] *= 30
    found = gathered(w, axis, 16, dtype, block)
    kept = w.astype(TYPES[dtype]).astype(np.float64)
    heads = np.split(kept, 6, axis=axis)
    rms = np.array([np.sqrt((h * h).mean()) for h in heads])
    largest = np.array([np.linalg.svd(h, compute_uv=False)[0] for h in heads])
    edge = rms * (np.sqrt(16) + np.sqrt(shape[1 - axis]))
    assert found.size == 16
    assert np.allclose(found.rms, rms, rtol=2e-6)
    assert np.allclose(found.noise, largest / edge, rtol=2e-6)


def test_heads_of_zeros_have_no_likeness_to_noise():
    w = np.random.default_rng(2).normal(size=(48, 32))
    w[16:32] = 0
    found = gathered(w, 0, 16)
    assert found.rms[1] == 0
    assert np.isnan(found.noise).tolist() == [False, True, False]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_is_not_finite_is_not_told(axis, value):
    """Squares beyond float32 are not, either."""
    w = np.ones((48, 48))
    w[3, 40] = value
    assert gathered(w, axis, 16) is None
