"""Merges of single elements, made here by the methods' definitions, are found with their parents and weights."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.statistics.kinship.elements import elementwise

N = 60_000


def family(seed=0):
    """A base and four fine-tunes of it, two of which are alike."""
    chance = np.random.default_rng(seed)
    base = 0.05 * chance.standard_normal(N)
    common = chance.standard_normal(N)
    tunes = [base + 0.003 * (0.5 * common + chance.standard_normal(N)) for _ in range(4)]
    return np.array([base, *tunes], "f4")


def ties(models, parents, weights, density):
    """Yadav et al. 2023: trim by size, elect a sign by weighted sums, average those that have it by weight."""
    deltas = models[parents].astype("f8") - models[0]
    kept = []
    for delta in deltas:
        least = np.sort(np.abs(delta))[round((1 - density) * N)]
        kept.append(np.where(np.abs(delta) >= least, delta, 0))
    kept = np.array(kept)
    own = np.array(weights)[:, None]
    sign = np.sign((own * kept).sum(axis=0))
    chosen = (np.sign(kept) == sign) & (kept != 0)
    total = (own * chosen).sum(axis=0)
    return models[0] + np.where(total > 0, (own * kept * chosen).sum(axis=0) / np.where(total > 0, total, 1), 0)


def dare(models, parents, weights, density, seed=3):
    """Yu et al. 2024: drop at random, multiply what is left, add."""
    chance = np.random.default_rng(seed)
    deltas = models[parents].astype("f8") - models[0]
    kept = np.array([np.where(chance.random(N) < density, delta / density, 0) for delta in deltas])
    return models[0] + (np.array(weights)[:, None] * kept).sum(axis=0)


@pytest.mark.parametrize(("parents", "weights"), [([1, 2], [1.0, 1.0]), ([1, 3, 4], [1.0, 0.7, 0.5])])
def test_ties(parents, weights) -> None:
    models = family()
    made = np.vstack([models, ties(models, parents, weights, 0.5)]).astype("f4")
    found = elementwise(made, 5, range(5))
    assert found is not None
    assert found.base == 0
    held = dict(zip(found.parents, found.weights, strict=True))
    assert sorted(held) == parents
    assert found.averaged
    assert [held[p] for p in parents] == pytest.approx([w / sum(weights) for w in weights], abs=0.01)


def test_ties_that_drops_nothing() -> None:
    """All elements are elected: none is the base's own."""
    models = family(3)
    made = np.vstack([models, ties(models, [1, 2], [0.54, 0.46], 1.0)]).astype("f4")
    found = elementwise(made, 5, range(5))
    assert found is not None
    held = dict(zip(found.parents, found.weights, strict=True))
    assert (found.base, found.averaged) == (0, True)
    assert [held[1], held[2]] == pytest.approx([0.54, 0.46], abs=0.01)


@pytest.mark.parametrize(("weights", "density"), [([0.6, 0.4], 0.5), ([0.5, 0.5], 0.3)])
def test_dare(weights, density) -> None:
    models = family(1)
    made = np.vstack([models, dare(models, [2, 3], weights, density)]).astype("f4")
    found = elementwise(made, 5, range(5))
    assert found is not None
    held = dict(zip(found.parents, found.weights, strict=True))
    assert (found.base, sorted(held), found.averaged) == (0, [2, 3], False)
    assert [held[2], held[3]] == pytest.approx(weights, abs=0.02)
    factors = dict(zip(found.parents, found.factors, strict=True))
    assert factors[2] == pytest.approx(weights[0] / density, rel=0.01)


def test_training_dropping_and_sums_are_none() -> None:
    models = family(2)
    chance = np.random.default_rng(5)
    frozen = models[1].copy()
    frozen[: N // 2] = models[0][: N // 2]  # half of the parent's change undone: one parent alone
    mean = (models[1] + models[2]) / 2
    trained = models[0] + np.where(chance.random(N) < 0.5, 0.002 * chance.standard_normal(N), 0)
    for made in (models[4], frozen, mean, trained):
        assert elementwise(np.vstack([models[:4], made]).astype("f4"), 4, range(4)) is None
