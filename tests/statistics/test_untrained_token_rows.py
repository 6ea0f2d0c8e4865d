"""Rows that training did not make, planted among rows that it did."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.statistics.token_rows import TokenSums, axes_of, sampled_rows

KINDS = ("zero", "repeated", "alike", "begun")


def looks(table, parts=1):
    table = table.astype(np.float32)
    numbers = sampled_rows(len(table))
    axes = axes_of(table[numbers], numbers)
    whole = TokenSums(axes)
    for part in np.array_split(np.arange(len(table)), parts):
        sums = TokenSums(axes, int(part[0]) if len(part) else 0)
        for some in np.array_split(table[part], 3):
            sums.take(some)
        whole.merge(sums)
    return whole.finish()


def trained(rng, rows, cols, directions=24):
    """Rows of many directions and norms, with a part of their own each."""
    weights = 1 / np.sqrt(1 + np.arange(directions))
    shared = rng.normal(size=(rows, directions)) * weights @ rng.normal(size=(directions, cols))
    return (0.02 * shared + rng.normal(0, 0.02, (rows, cols))) * rng.uniform(0.7, 1.6, (rows, 1))


def planted(rng, kind, number, cols):
    if kind == "zero":
        return np.zeros((number, cols))
    if kind == "repeated":
        return np.repeat(rng.normal(0, 0.02, (1, cols)), number, axis=0)
    if kind == "alike":
        return rng.normal(0, 0.02, (1, cols)) * rng.uniform(0.9, 1.1, (number, 1)) + rng.normal(0, 2e-3, (number, cols))
    return rng.normal(0, 0.02, (number, cols))


@pytest.mark.parametrize(("rows", "cols"), [(5000, 256), (600, 96), (3000, 1024)])
@pytest.mark.parametrize("place", ["beginning", "end", "anywhere"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_rows_are_told_by_kind(kind, place, rows, cols):
    rng = np.random.default_rng(rows + cols)
    table = trained(rng, rows, cols)
    number = max(40, rows // 12)
    at = {"beginning": np.arange(number), "end": np.arange(rows - number, rows)}.get(
        place, rng.permutation(rows)[:number]
    )
    table[at] = planted(rng, kind, number, cols)
    found = looks(table, parts=4)
    planted_rows = np.zeros(rows, bool)
    planted_rows[at] = True
    told = getattr(found, kind)
    assert told[at].mean() >= 0.98
    assert (told & ~planted_rows).mean() <= 0.002
    for other in KINDS:
        assert other == kind or not getattr(found, other).any(), other
    assert (found.untrained == told).all()


@pytest.mark.parametrize(("rows", "cols"), [(5000, 256), (200, 80), (3000, 1024)])
def test_trained_and_untrained_tables_have_none(rows, cols):
    """In one that was never trained nothing stands apart."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for table in (trained(rng, rows, cols), rng.normal(0, 0.02, (rows, cols)), rng.uniform(-1, 1, (rows, cols))):
            assert not looks(table).untrained.any()
            assert not looks(table + 0.03).untrained.any()  # with a mean that all rows share


def test_a_direction_that_trained_rows_share_tells_nothing():
    rng = np.random.default_rng(8)
    for mean in (0.02, 0.05, 0.1, 0.2, 1.0):
        assert not looks(trained(rng, 2000, 256) + mean).alike.any()


def test_rows_may_be_more_than_those_that_training_made():
    rng = np.random.default_rng(3)
    table = np.concatenate([planted(rng, "alike", 300, 128), trained(rng, 200, 128)])
    assert looks(table).alike.tolist() == [True] * 300 + [False] * 200


def test_the_parts_in_which_rows_are_taken_change_nothing():
    rng = np.random.default_rng(4)
    table = trained(rng, 1001, 128)
    table[500:600] = planted(rng, "begun", 100, 128)
    whole = looks(table)
    for parts in (2, 3, 7):
        assert (looks(table, parts).begun == whole.begun).all()


def test_rows_that_are_not_finite_are_none_of_it():
    rng = np.random.default_rng(5)
    table = trained(rng, 500, 128)
    table[7], table[8, 3] = np.nan, np.inf
    table[9] = -0.0
    found = looks(table)
    assert np.flatnonzero(found.untrained).tolist() == [9]


@pytest.mark.parametrize("shape", [(0, 128), (1, 128), (40, 128), (500, 8), (3, 2)])
def test_small_tables_are_judged_for_zeros_and_repeats_alone(shape):
    rng = np.random.default_rng(6)
    found = looks(rng.normal(size=shape))
    assert not found.untrained.any()
    assert not looks(np.zeros(shape)).repeated.any()
    assert looks(np.ones(shape)).repeated.sum() == (shape[0] if shape[0] > 1 else 0)


@pytest.mark.parametrize("rows", [0, 1, 5, 256, 1000, 10**6])
def test_sampled_rows_are_ascending_and_there(rows):
    numbers = sampled_rows(rows)
    assert (np.diff(numbers) > 0).all()
    assert len(numbers) == (rows if rows <= 512 else len(set(numbers.tolist())))
    assert not len(numbers) or (numbers[0], numbers[-1]) == (0, rows - 1)
