"""Counting bit patterns, against numpy.bincount."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


def counted(kernels, patterns):
    counts = np.zeros(256 if patterns.dtype == np.uint8 else 65536, np.uint64)
    kernels.count_patterns(patterns, counts)
    return counts


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [*range(10), 63, 64, 65, 4095, 4097, 1 << 20, (1 << 20) + 7])
def test_every_length(kernels, kind, size):
    rng = np.random.default_rng(size)
    patterns = rng.integers(0, np.iinfo(kind).max, size, dtype=kind, endpoint=True)
    assert (counted(kernels, patterns) == np.bincount(patterns, minlength=np.iinfo(kind).max + 1)).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_one_pattern_only(kernels, kind):
    patterns = np.full(1 << 20, np.iinfo(kind).max, kind)
    found = counted(kernels, patterns)
    assert (found[-1], found.sum()) == (1 << 20, 1 << 20)


@given(st.lists(st.integers(0, 65535), max_size=200), st.integers(0, 3))
def test_counts_are_added(kernels, values, skipped):
    patterns = np.array(values, np.uint16)[skipped:]
    counts = np.full(65536, 5, np.uint64)
    kernels.count_patterns(patterns, counts)
    assert (counts == 5 + np.bincount(patterns, minlength=65536)).all()


def test_an_array_that_must_not_be_written_to(kernels):
    patterns = np.frombuffer(bytes(range(256)) * 3, np.uint16)
    assert not patterns.flags.writeable
    assert (counted(kernels, patterns) == np.bincount(patterns, minlength=65536)).all()
    assert (counted(kernels, patterns[::2]) == np.bincount(patterns[::2], minlength=65536)).all()


@pytest.mark.parametrize("kind", [np.int8, np.uint32, np.float16])
def test_other_types_are_refused(kernels, kind):
    with pytest.raises(TypeError, match=rf"bit patterns of {np.dtype(kind)}: expected uint8 or uint16"):
        kernels.count_patterns(np.zeros(4, kind), np.zeros(256, np.uint64))
