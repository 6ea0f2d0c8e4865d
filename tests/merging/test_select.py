"""Order statistics by radix selection, against numpy's sort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from declared import models_like
from in_memory import subject

from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.merging.select import count_of, select_magnitudes, select_scores


def found_by(steps, x, *, block=4096):
    """What a selection returns, and how many looks it took."""
    kernels = CpuMergeKernels()
    answer, looks = None, 0
    while True:
        try:
            look = steps.send(answer)
        except StopIteration as end:
            return end.value, looks
        looks += 1
        parts = []
        for start in range(0, max(x.shape[1], 1), block):
            found = look.empty(len(x))
            look.add(found, np.ascontiguousarray(x[:, start : start + block]), start, kernels)
            parts.append(found)
        answer = look.merged(parts)


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("block", [4096, 1 << 20])
def test_magnitudes_are_those_of_the_sorted_differences(kind, block):
    x = np.stack(models_like(kind, (20_000,), 3))
    ranks = [[0, 10_000, 19_999], [], [7, 7, 3]]
    what = subject((20_000,), models=3, bits=64 if kind == "wide" else 32)
    values, looks = found_by(select_magnitudes(what, ranks), x, block=block)
    for model, own in enumerate(ranks):
        ordered = np.sort(np.abs(x[model + 1] - x[0]))
        assert values[model] == tuple(float(ordered[rank]) for rank in own)
    assert looks == {"narrow": 2, "wide": 4, "coarse": looks}[kind]
    assert looks <= 4


def test_differences_without_further_bits_take_one_look():
    base = np.zeros(5000, np.float32)
    other = np.random.default_rng(0).choice(np.array([0.0, -0.5, 0.75, 1.5], np.float32), 5000)
    values, looks = found_by(select_magnitudes(subject((5000,), models=1), [range(5000)]), np.stack([base, other]))
    assert looks == 1
    np.testing.assert_array_equal(values[0], np.sort(np.abs(other)))


@pytest.mark.parametrize(("rank", "wanted"), [(0, 1), (2999, 1), (3000, 2), (4999, 2)])
def test_a_rank_among_values_without_further_bits_takes_one_look(rank, wanted):
    """All in one bin: 3,000 times 1, which has no further bits, and 2,000 values just above it."""
    above = np.float32(1) + np.float32(2.0**-20) * np.arange(1, 2001, dtype=np.float32)
    other = np.random.default_rng(0).permutation(np.concatenate([np.ones(3000, np.float32), above]))
    what = subject((5000,), models=1)
    values, looks = found_by(select_magnitudes(what, [[rank]]), np.stack([np.zeros_like(other), other]))
    assert looks == wanted
    assert values == ((float(np.sort(other)[rank]),),)


def test_counts_of_more_than_four_thousand_million_values():
    """Stretches are counted in 32 bits, a whole parameter in as many as it needs."""
    look = next(select_magnitudes(subject((1 << 16, 1 << 17), models=1), [[1 << 32]]))
    found = [look.empty(2) for _ in range(3)]
    for stretch in found:
        stretch.counts[0][0, 0x3F80] = stretch.finer[0][0, 0x3F80] = 3_000_000_000
    total = look.merged([look.merged(found[:2]), found[2]])
    assert total.counts[0][0, 0x3F80] == total.finer[0][0, 0x3F80] == 9_000_000_000


def test_no_ranks_take_no_look():
    values, looks = found_by(select_magnitudes(subject((3,), models=2), [[], []]), np.zeros((3, 3), np.float32))
    assert values == ((), ())
    assert looks == 0


@pytest.mark.parametrize("bits", [32, 64])
def test_infinity_then_nan_come_last(bits):
    kind = np.float32 if bits == 32 else np.float64
    other = np.array([np.nan, 3, -np.inf, -0.0, np.inf, 1e-40, -np.nan], kind)
    values, _ = found_by(
        select_magnitudes(subject((7,), models=1, bits=bits), [range(7)]), np.stack([np.zeros(7, kind), other])
    )
    np.testing.assert_array_equal(values[0], [0, float(kind(1e-40)), 3, np.inf, np.inf, np.nan, np.nan])


@dataclass(frozen=True)
class Product:
    bits: int = 64
    whole_rows: bool = False

    def scores(self, x, start):
        return np.abs(x[1].astype(np.float64) * x[0])


def test_scores_are_those_of_the_sorted_array():
    x = np.stack(models_like("narrow", (9000,), 1))
    ordered = np.sort(np.abs(x[1].astype(np.float64) * x[0]))
    ranks = [0, 1, 4499, 4500, 8999]
    values, _ = found_by(select_scores(subject((9000,), models=1), Product(), ranks), x)
    assert values == tuple(float(ordered[rank]) for rank in ranks)


def test_scores_have_no_rank_beyond_their_number():
    with pytest.raises(ValueError, match=r"ranks \[4\] of 4 scores"):
        found_by(select_scores(subject((4,), models=1), Product(), [4]), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("share", "size", "count"),
    [
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996 in floating point
        (0.1, 30, 3),
        (0.57, 10**10, 5_700_000_000),
        (1 / 3, 3, 0),  # 12 digits of it: 0.333333333333
        (0.1 + 0.2, 10, 3),  # an interpolated 0.30000000000000004
        (1 - 0.9, 10, 1),  # 0.09999999999999998
        (0.0, 5, 0),
        (1.0, 5, 5),
        (1.0, 0, 0),
    ],
)
def test_shares_are_decimal_numbers(share, size, count):
    assert count_of(share, size) == count
