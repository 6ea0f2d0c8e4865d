"""Chooses one option for each of many units, so that the sum of costs is small and the sum of sizes within a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

__all__ = ["Frontier", "Option"]


@dataclass(frozen=True)
class Option:
    """What may be chosen: its name, size and cost, both of any unit."""

    key: str
    size: float
    cost: float


@dataclass(frozen=True)
class _Step:
    """From one corner of a unit's hull to the next: `gain` is the cost that falls, for each of `size` that grows."""

    unit: int
    to: Option
    size: float
    gain: float


class Frontier:
    """The choices of least cost for every budget, of units with `options` each (one at least).

    Every unit starts with its smallest option, and the steps along the lower convex hulls of (size, cost) are taken in
    the order of what they gain for their size. After each step the choice is the best one of its size (Everett 1963,
    "Generalized Lagrange multiplier method"); between two, what is left is filled by the best steps that still fit, and
    no choice is worse than one option for all.
    """

    def __init__(self, options: Sequence[Sequence[Option]]) -> None:
        self._options = [tuple(some) for some in options]
        hulls = [_hull(some) for some in self._options]
        self._first = [hull[0] for hull in hulls]
        steps = [
            _Step(unit, b, b.size - a.size, (a.cost - b.cost) / (b.size - a.size))
            for unit, hull in enumerate(hulls)
            for a, b in pairwise(hull)
        ]
        # of a hull the gains fall, and sorting is stable: a unit's steps stay in order
        self._steps = sorted(steps, key=lambda step: -step.gain)
        self._sizes = [self.least]
        for step in self._steps:
            self._sizes.append(self._sizes[-1] + step.size)

    @property
    def least(self) -> float:
        """The smallest size there is."""
        return sum(option.size for option in self._first)

    @property
    def most(self) -> float:
        """The size beyond which nothing gets better."""
        return self._sizes[-1]

    def at(self, budget: float) -> list[Option]:
        """An option for each unit, of at most `budget` in all; raises ValueError below `least`."""
        if budget < self.least:
            raise ValueError(f"a budget of {budget:.6g}: expected at least {self.least:.6g}")
        found = [self._filled(chosen, budget - _size(chosen)) for chosen in self._starts(budget)]
        return min(found, key=lambda chosen: sum(option.cost for option in chosen))

    def _starts(self, budget: float) -> Iterator[list[Option]]:
        """The best choice of the last step within the budget, and one option for all where that is within it."""
        taken = bisect_left(self._sizes, budget)
        taken -= taken == len(self._sizes) or self._sizes[taken] > budget
        chosen = list(self._first)
        for step in self._steps[:taken]:
            chosen[step.unit] = step.to
        yield chosen
        for key in dict.fromkeys(option.key for some in self._options for option in some):
            alike = [_nearest(some, key) for some in self._options]
            if _size(alike) <= budget:
                yield alike

    def _filled(self, chosen: list[Option], left: float) -> list[Option]:
        """The same with what is `left` spent on the steps that gain most and fit, hull or not."""
        waiting: list[tuple[float, int, int, int]] = []
        taken = [some.index(option) for some, option in zip(self._options, chosen, strict=True)]

        def offer(unit: int) -> None:
            held = self._options[unit][taken[unit]]
            for number, option in enumerate(self._options[unit]):
                more = option.size - held.size
                if option.cost < held.cost and 0 < more <= left:
                    heappush(waiting, ((option.cost - held.cost) / more, unit, number, taken[unit]))

        for unit in range(len(chosen)):
            offer(unit)
        while waiting:
            _, unit, number, held = heappop(waiting)
            more = self._options[unit][number].size - self._options[unit][held].size
            if taken[unit] == held and more <= left:
                left -= more
                taken[unit] = number
                offer(unit)
        return [some[number] for some, number in zip(self._options, taken, strict=True)]


def _size(chosen: Sequence[Option]) -> float:
    return sum(option.size for option in chosen)


def _nearest(options: Sequence[Option], key: str) -> Option:
    """The option of this name, else the smallest."""
    return next((option for option in options if option.key == key), min(options, key=lambda one: one.size))


def _hull(options: Sequence[Option]) -> list[Option]:
    """The corners of the lower convex hull, by size: from the smallest option on, costs fall, and ever more slowly."""
    corners: list[Option] = []
    for option in sorted(options, key=lambda one: (one.size, one.cost)):
        if corners and option.cost >= corners[-1].cost:
            continue
        while len(corners) > 1 and _above(corners[-2], corners[-1], option):
            corners.pop()
        corners.append(option)
    return corners


def _above(a: Option, b: Option, c: Option) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.cost - a.cost) * (c.size - a.size) >= (c.cost - a.cost) * (b.size - a.size)
