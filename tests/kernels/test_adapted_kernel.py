"""A product added to a weight: bit for bit what numpy's float32 gives when the terms are added one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.kernels.cpu.adapted import add_product


def expected(weight, left, right, scale):
    """[rows, cols]"""
    total = np.zeros_like(weight)
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return weight + np.float32(scale) * total


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 8, 17])
@pytest.mark.parametrize("cols", [1, 3, 100, 512, 513, 1300])
def test_every_part_has_the_bits_that_it_has_in_the_whole(rank, cols) -> None:
    rng = np.random.default_rng(rank * cols)
    rows = 11
    weight, left, right = (
        rng.standard_normal(shape, np.float32) for shape in ((rows, cols), (rows, rank), (rank, cols))
    )
    wanted = expected(weight, left, right, 1.7).ravel()
    spans = [(0, rows * cols), (0, 4 * cols), (0, 4 * cols - 1), (cols // 2, 9 * cols), (cols - 1, rows * cols)]
    for start, stop in spans:
        out = np.full(stop - start, np.nan, np.float32)
        first = start // cols
        add_product(weight.ravel()[start:stop], left[first:], right, 1.7, start % cols, out)
        np.testing.assert_array_equal(out, wanted[start:stop], strict=True)


def test_numbers_that_are_not_finite_stay_in_their_row() -> None:
    weight, left, right = np.zeros((6, 9), np.float32), np.ones((6, 4), np.float32), np.ones((4, 9), np.float32)
    left[2, 1], weight[4, 3] = np.nan, np.inf
    out = np.empty(54, np.float32)
    add_product(weight.ravel(), left, right, 0.5, 0, out)
    made = out.reshape(6, 9)
    assert np.isnan(made[2]).all()
    assert made[4, 3] == np.inf
    assert np.isfinite(np.delete(made, 2, 0)).sum() == 44
