"""The tree of a set of models: of every family the edges that join it over the least distances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Generic, TypeVar

from netweight.jobs.lineage.direction import Direction
from netweight.jobs.lineage.relation import Relation

__all__ = ["Edge", "Groups", "families", "nearest_first", "spanning"]

T = TypeVar("T")

_TIED = 1.02  # of the least distance: which of two is nearer is chance
_CUT = ("layers changed", "narrowed", "upcycled")
_COPIED = 1e-3  # of drift, below which what is left was copied
_MORE = 1.2  # times the elements, that decide between models as near
_AS_NEAR = 1.1  # a factor between distances that are about the same


@dataclass(frozen=True)
class Edge:
    """An edge of the tree: from `a` to `b`, where `directed` says that a came first; `weight` of a merge's parent."""

    a: str
    b: str
    relation: str
    directed: bool
    label: str
    log10_p: float | None
    drift: float | None
    weight: float | None = None


class Groups(Generic[T]):
    """Sets that are joined one by one (union-find)."""

    def __init__(self, names: Iterable[T]) -> None:
        self._above = {name: name for name in names}

    def of(self, name: T) -> T:
        """The name that stands for the set."""
        while self._above[name] != name:
            self._above[name] = self._above[self._above[name]]
            name = self._above[name]
        return name

    def join(self, a: T, b: T) -> bool:
        """Join the sets of two names; False where they are one already."""
        one, two = self.of(a), self.of(b)
        self._above[two] = one
        return one != two


def spanning(names: Sequence[str], relations: Sequence[Relation]) -> list[Relation]:
    """The related pairs that join each family with the least sum of distances (Kruskal), nearest first. Of pairs
    that are about as near, one between models that others are near to comes first.
    """
    groups = Groups(names)
    held = [relation for relation in relations if relation.related]
    central = dict.fromkeys(names, 0.0)
    for relation in held:
        central[relation.a] += 1 / (relation.distance + 1e-9)
        central[relation.b] += 1 / (relation.distance + 1e-9)

    def order(relation: Relation) -> tuple[int, float, str, str]:
        near = round(log(relation.distance) / log(_AS_NEAR)) if relation.distance > 0 else -10_000
        return near, -central[relation.a] - central[relation.b], relation.a, relation.b

    related = sorted(held, key=order)
    return [relation for relation in related if groups.join(relation.a, relation.b)]


def families(
    names: Sequence[str], relations: Sequence[Relation], merged: Iterable[tuple[str, str]] = ()
) -> list[list[str]]:
    """The models that are related to each other, largest family first; one that is related to none is alone. `merged`:
    merges with each of their parents.
    """
    groups = Groups(names)
    for relation in relations:
        if relation.related:
            groups.join(relation.a, relation.b)
    for model, parent in merged:
        groups.join(model, parent)
    held: dict[str, list[str]] = {}
    for name in names:
        held.setdefault(groups.of(name), []).append(name)
    return sorted(held.values(), key=lambda family: (-len(family), family[0]))


def nearest_first(relations: Sequence[Relation]) -> list[Relation]:
    """The same, where a model that was made from one of several has a known direction only from the nearest of them:
    the others are like the one that it was made from. Where two are as near, the direction is open, unless one of the
    two is compared by far more of its weights.
    """
    into: dict[str, list[Relation]] = {}
    for relation in relations:
        if relation.related and relation.direction.known:
            into.setdefault(relation.b, []).append(relation)
    open_now: dict[int, str] = {}
    equal = {frozenset((r.a, r.b)) for r in relations if r.relation in ("identical", "same values")}
    for child, held in into.items():
        least = min(relation.figures.apart for relation in held)
        near = [relation for relation in held if relation.figures.apart <= _TIED * least + 1e-12]
        most = max(relation.figures.elements for relation in near)
        near = [relation for relation in near if relation.figures.elements > most / _MORE]
        tied = len({frozenset((near[0].a, other.a)) for other in near[1:]} - equal) > 0
        # trained on after it was cut, it may be nearer to a sister that was trained on the same than to its parent
        tied = tied or (len(held) > 1 and near[0].relation in _CUT and near[0].figures.drift > _COPIED)
        names = ", ".join(sorted(other.a for other in (near if len(near) > 1 else held))[:4])
        for relation in held:
            if tied:
                open_now[id(relation)] = f"made from one of {names}, or from one like them"
            elif not any(relation is one for one in near):
                open_now[id(relation)] = f"{child} is nearer to {near[0].a}: made from it, or from one like it"
    return [
        replace(relation, direction=Direction(known=False, backwards=False, reason=open_now[id(relation)]))
        if id(relation) in open_now
        else relation
        for relation in relations
    ]
