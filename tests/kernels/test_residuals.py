"""Loops that take elements by fours and eights: what is left over at the end counts too, the first and last of it."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.kernels.cpu import magnitudes, patterns, residuals

SIZES = range(1, 36)
KINDS = [np.uint32, np.uint64]


def alone(size, place, value, kind):
    bits = np.zeros(size, kind)
    bits[place] = value
    return bits


@pytest.mark.parametrize("kind", KINDS)
def test_one_element_anywhere_is_found(kind):
    for size in SIZES:
        flags = np.zeros(max(1, size // 8), kind)
        for place in range(size):
            bits = alone(size, place, 3, kind)
            assert residuals.or_by_eight(bits, flags) == 3, (size, place)
            out = np.zeros(size + 1, kind)
            assert residuals.gather(bits, flags, out) == 1, (size, place)
            assert out[0] == 3
            out = np.zeros(size + 1, kind)
            assert magnitudes._gather(bits, kind(1), flags, out) == 1, (size, place)
            assert out[0] == 3
            counts = np.zeros((4, 8), np.uint32)
            patterns.count_in_four(bits, kind(1), counts)
            assert counts.sum(axis=0).tolist() == np.bincount(bits >> kind(1), minlength=8).tolist(), (size, place)
            counts = np.zeros((2, 8), np.uint32)
            patterns.count_in_two(bits, kind(1), counts)
            assert counts.sum(axis=0).tolist() == np.bincount(bits >> kind(1), minlength=8).tolist(), (size, place)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_many_elements(kind, share):
    rng = np.random.default_rng(0)
    low = kind((1 << (16 if kind is np.uint32 else 48)) - 1)
    for size in SIZES:
        bits = np.where(rng.random(size) < share, rng.integers(1, 1 << 31, size), kind(5) << kind(60 - 32)).astype(kind)
        bits[rng.random(size) < 0.5] &= ~low
        flags = np.zeros(max(1, size // 8), kind)
        assert residuals.or_by_eight(bits, flags) == np.bitwise_or.reduce(bits)
        out = np.zeros(size + 1, kind)
        count = residuals.gather(bits, flags, out)
        assert sorted(out[:count]) == sorted(bits[bits & low != 0])
