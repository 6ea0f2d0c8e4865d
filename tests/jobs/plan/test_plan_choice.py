"""The choice of options for a budget, against all choices there are."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.jobs.plan.choose import Frontier, Option

SIZES = st.integers(1, 40)
COSTS = st.integers(0, 60)


def total(chosen):
    return sum(one.size for one in chosen), sum(one.cost for one in chosen)


@st.composite
def units(draw):
    count = draw(st.integers(1, 4))
    return [
        [Option(f"o{i}", float(draw(SIZES)), float(draw(COSTS))) for i in range(draw(st.integers(1, 4)))]
        for _ in range(count)
    ]


@settings(deadline=None, max_examples=300)
@given(units(), st.floats(0, 1))
def test_no_choice_is_beyond_its_budget_and_none_is_far_from_the_best(options, share):
    frontier = Frontier(options)
    every = [total(chosen) for chosen in product(*options)]
    least, most = min(size for size, _ in every), max(size for size, _ in every)
    assert frontier.least == least
    budget = least + share * (most - least)
    size, cost = total(frontier.at(budget))
    assert size <= budget
    best = min(c for s, c in every if s <= budget)
    # the gap of Lagrange's method is at most one unit's step; filled up, it is smaller still
    steps = [max(one.cost for one in some) - min(one.cost for one in some) for some in options]
    assert best <= cost <= best + max(steps)
    for key in {one.key for some in options for one in some}:
        alike = [next((one for one in some if one.key == key), min(some, key=lambda o: o.size)) for some in options]
        if total(alike)[0] <= budget:
            assert cost <= total(alike)[1]


@settings(deadline=None, max_examples=200)
@given(units())
def test_at_the_corners_it_is_the_best_there_is(options):
    frontier = Frontier(options)
    for size in frontier._sizes:
        found, cost = total(frontier.at(size))
        assert found <= size
        assert cost == min(sum(o.cost for o in c) for c in product(*options) if sum(o.size for o in c) <= size)


def test_more_than_all_is_the_best_of_each():
    options = [[Option("a", 1, 9), Option("b", 2, 0)], [Option("a", 5, 4), Option("c", 9, 1)]]
    assert [one.key for one in Frontier(options).at(1000)] == ["b", "c"]
    assert Frontier(options).most == 11


def test_steps_that_gain_alike_from_two_options_are_no_matter():
    """From o1 and from o0 the step to o2 gains one nineteenth of the size, of the same unit."""
    several = [Option("o0", 20, 33), Option("o1", 1, 34), Option("o2", 39, 32), Option("o3", 1, 0)]
    alone = [Option("o0", 1, 0)]
    assert total(Frontier([several, alone]).at(40)) == (2, 0)
    assert total(Frontier([several[:3], alone]).at(40)) == (40, 32)


def test_less_than_the_smallest_is_an_error():
    with pytest.raises(ValueError, match="expected at least 6"):
        Frontier([[Option("a", 6, 1)]]).at(5)
