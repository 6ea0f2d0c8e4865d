"""Which models are merges of others: least squares over the Gram matrix of their weights.

A merge lies in the affine span of its parents (and of their base); with thousands of sampled weights, no model that
was trained does. Methods that drop or choose elements (TIES, DARE) leave that span, and show in single elements: where
one parent alone is left, its task vector is there times one factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import comb, sqrt

import numpy as np

from netweight.jobs.lineage.relation import IN_PLACE, Relation
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.tree import families
from netweight.kernels.arrays import F32Array, F64Array
from netweight.statistics.kinship.elements import Elements, elementwise
from netweight.statistics.kinship.matching import Indices

__all__ = ["Merge", "find_merges", "merges_among"]

_LEAST = 0.03  # a weight below which a model is no parent
_MOST = 1.7  # a weight beyond which it is none
_EXPLAINED = 0.95  # of the squared distance to the nearest parent
_PARENTS = 4  # at most, and a base
_ALL_SETS = 20_000  # up to which all sets of a size are tried
_BEAM = 40  # of larger numbers, those that are made larger
_APART = 0.9  # the cosine of two models, above which a slerp of them is linear for weights
_SAMPLED = 50_000  # weights, by which slerps are looked for
_PARENTS_OF_ELEMENTS = 12  # models among which the parents and the base of a merge of elements are looked for
_CANDIDATES = 32  # the nearest models
_ELEMENTS = 250_000


@dataclass(frozen=True)
class Merge:
    """`model` is made of `parents` with `weights`, and of `base` where it has one, whose weight is what is left to 1.

    `residual`: |what is not explained| / |the distance to the nearest parent|; `by_layer`: {layer group: weights};
    `exact`: a linear merge; else elements were dropped or chosen, and `explained` of what moved are one parent's task
    vector times its factor, or several of them: their sum, or (`averaged`, as TIES does) their mean by weight, where
    weights sum to 1.
    """

    model: str
    parents: Sequence[str]
    weights: Sequence[float]
    base: str | None
    residual: float
    by_layer: Mapping[str, Sequence[float]] = field(default_factory=dict)
    exact: bool = True
    explained: float = 1.0
    factors: Sequence[float] = ()
    averaged: bool = False
    spherical: bool = False

    @property
    def length(self) -> float:
        """The sum of absolute weights: of several explanations of one set of models, the shortest is the true one."""
        total = sum(self.weights)
        return sum(abs(w) for w in self.weights) + (abs(1 - total) if self.base else 0.0)


@dataclass(frozen=True)
class _Family:
    """Models of one shape: `vectors` (models, elements), with the layer group of every stretch of elements."""

    names: Sequence[str]
    vectors: F32Array
    stretches: Sequence[tuple[str, int, int]]


def merges_among(sketches: Sequence[Sketch], relations: Sequence[Relation]) -> list[Merge]:
    """The merges in every family of models that have one start and the same shapes."""
    alike = [relation for relation in relations if relation.relation in IN_PLACE]
    by_name = {sketch.name: sketch for sketch in sketches}
    return [
        merge
        for family in families(list(by_name), alike)
        if len(family) > 2
        for merge in find_merges([by_name[name] for name in family])
    ]


def find_merges(family: Sequence[Sketch]) -> list[Merge]:
    """Every model of a family that others of it explain: models of one start and of one shape."""
    held = _stacked(family)
    if held is None or len(held.names) < 3:
        return []
    gram = _gram(held.vectors)
    apart = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    found: list[Merge] = []
    for i in range(len(held.names)):
        near = [int(k) for k in np.argsort(apart[i]) if k != i][:_CANDIDATES]
        others = _distinct(gram, sorted(near))
        merge = _linear(held, gram, i, others) or _spherical(held, i, others)
        if merge is None:
            nearest = [k for k in near if k in others][:_PARENTS_OF_ELEMENTS]
            chosen = elementwise(held.vectors, i, nearest)
            merge = None if chosen is None else _of_elements(held, i, chosen)
        if merge is not None:
            found.append(merge)
    kept = [one for one in found if not any(_shorter(other, one) for other in found)]
    return [_with_layers(held, merge) for merge in kept]


def _shorter(other: Merge, one: Merge) -> bool:
    """Whether `other` is the better explanation of the same models, or of two models by each other: one that is exact,
    that explains more, or by a shorter sum.
    """
    made_of = [{*m.parents, *([m.base] if m.base else [])} for m in (other, one)]
    sets = [parts | {m.model} for parts, m in zip(made_of, (other, one), strict=True)]
    inside = sets[0] <= sets[1] or sets[1] <= sets[0]
    mutual = other.model in made_of[1] and one.model in made_of[0]
    better = (other.exact, round(other.explained, 2), -other.length) > (one.exact, round(one.explained, 2), -one.length)
    return other.model != one.model and (inside or mutual) and better


def _stacked(family: Sequence[Sketch]) -> _Family | None:
    """The weights that all have, at most some 250,000 of them, evenly taken of every matrix."""
    keys = [
        key
        for key, held in family[0].tensors.items()
        if len(held.shape) > 1
        and all(key in other.tensors and other.tensors[key].values.shape == held.values.shape for other in family)
    ]
    fine = [s for s in family if all(np.isfinite(s.tensors[key].values).all() for key in keys)]
    if not keys or len(fine) < 3:
        return None
    total = sum(family[0].tensors[key].values.size for key in keys)
    step = max(1, total // _ELEMENTS)
    ordered = sorted(keys, key=lambda key: _group(family[0], key))
    stretches: list[tuple[str, int, int]] = []
    at = 0
    for key in ordered:
        size = len(range(0, family[0].tensors[key].values.size, step))
        group = _group(family[0], key)
        first = stretches.pop()[1] if stretches and stretches[-1][0] == group else at
        at += size
        stretches.append((group, first, at))
    vectors = np.stack([np.concatenate([s.tensors[key].values.ravel()[::step] for key in ordered]) for s in fine])
    return _Family([s.name for s in fine], vectors, stretches)


def _group(sketch: Sketch, key: str) -> str:
    return sketch.tensors[key].parameter.layer_group or "outside of layers"


def _gram(vectors: F32Array) -> F64Array:
    """Inner products of the vectors less their mean, in float64 of pieces."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    total = np.zeros((len(vectors), len(vectors)))
    for start in range(0, vectors.shape[1], 1 << 18):
        piece = vectors[:, start : start + (1 << 18)].astype(np.float64) - mean[start : start + (1 << 18)]
        total += piece @ piece.T
    return total


def _solve(gram: F64Array, target: int, members: Sequence[int]) -> tuple[F64Array, float]:
    """(weights that sum to 1, squared residual) of the best affine combination of `members` for `target`."""
    n = len(members)
    inner = gram[np.ix_(members, members)]
    scale = float(np.trace(inner)) / n or 1.0
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = inner / scale + np.eye(n) * 1e-12
    system[n, :n] = system[:n, n] = 1.0
    right = np.concatenate([gram[members, target] / scale, [1.0]])
    weights = np.linalg.solve(system, right)[:n]
    residual = gram[target, target] - 2 * weights @ gram[members, target] + weights @ inner @ weights
    return weights, max(float(residual), 0.0)


def _solve_all(gram: F64Array, target: int, sets: Indices) -> tuple[F64Array, F64Array]:
    """`_solve` of many sets of as many members (n, k): (weights (n, k), squared residuals (n))."""
    count, k = sets.shape
    inner = gram[sets[:, :, None], sets[:, None, :]]
    scale = float(np.trace(gram)) / len(gram) or 1.0
    system = np.zeros((count, k + 1, k + 1))
    system[:, :k, :k] = inner / scale + np.eye(k) * 1e-12
    system[:, k, :k] = system[:, :k, k] = 1.0
    right = np.concatenate([gram[sets, target] / scale, np.ones((count, 1))], axis=1)
    weights = np.linalg.solve(system, right[:, :, None])[:, :k, 0]
    dots = np.einsum("nk,nk->n", weights, gram[sets, target])
    residuals = gram[target, target] - 2 * dots + np.einsum("nk,nkl,nl->n", weights, inner, weights)
    return weights, np.maximum(residuals, 0.0)


def _nearest(gram: F64Array, target: int, members: Sequence[int]) -> float:
    """The least squared distance to one of them."""
    return float(min(gram[target, target] + gram[m, m] - 2 * gram[target, m] for m in members))


def _linear(held: _Family, gram: F64Array, target: int, others: Sequence[int]) -> Merge | None:
    """The smallest set of models whose affine combination is the target, if that is near enough; sets are made larger
    from the best ones of one model less, where that makes the residual a quarter or less.
    """
    size = float(gram[target, target]) or 1.0
    # a copy of the target would take its parents' place
    apart = gram[target, target] + np.diag(gram) - 2 * gram[target]
    members = [i for i in others if apart[i] > 1e-9 * size]
    if len(members) < 2 or _least(gram, target, members) > (1 - _EXPLAINED) * _nearest(gram, target, members):
        return None
    best: tuple[float, tuple[int, ...], F64Array] | None = None
    sets: list[tuple[int, ...]] = [(m,) for m in members]
    for count in range(2, _PARENTS + 2):
        if comb(len(members), count) <= _ALL_SETS:
            wider = list(combinations(members, count))
        else:
            wider = list({tuple(sorted((*held_set, m))) for held_set in sets for m in members if m not in held_set})
        if not wider:
            break
        weights, residuals = _solve_all(gram, target, np.array(wider))
        order = np.argsort(residuals)
        sets = [wider[k] for k in order[:_BEAM]]
        fitting = next((int(k) for k in order[:_BEAM] if _plausible(weights[k], count)), None)
        if fitting is not None and (best is None or residuals[fitting] < 0.25 * best[0]):
            nearest = _nearest(gram, target, wider[fitting])
            if residuals[fitting] <= (1 - _EXPLAINED) * nearest:
                best = float(residuals[fitting]), wider[fitting], weights[fitting]
    if best is None:
        return None
    residual, chosen, weights = best
    negative = [held.names[m] for m, w in zip(chosen, weights, strict=True) if w < 0]
    positive = [(held.names[m], float(w)) for m, w in zip(chosen, weights, strict=True) if w > 0]
    return Merge(
        held.names[target],
        [name for name, _ in positive],
        [w for _, w in positive],
        negative[0] if negative else None,
        sqrt(residual / _nearest(gram, target, chosen)),
    )


def _spherical(held: _Family, target: int, others: Sequence[int]) -> Merge | None:
    """The slerp of two models that are far from each other, whose weights sum to more than 1: sin((1 - t) w) / sin w
    and sin(t w) / sin w for the angle w between the two. Nearer than that, slerp is linear.
    """
    vectors = held.vectors[:, :: max(1, held.vectors.shape[1] // _SAMPLED)].astype(np.float64)
    gram = vectors @ vectors.T
    best: tuple[float, int, int, float] | None = None
    for at, one in enumerate(others):
        for two in others[at + 1 :]:
            cosine = gram[one, two] / sqrt(gram[one, one] * gram[two, two])
            if cosine > _APART:
                continue
            weights = np.linalg.solve(gram[np.ix_((one, two), (one, two))], gram[[one, two], target])
            left = gram[target, target] - weights @ gram[[one, two], target]
            angle = float(np.arccos(np.clip(cosine, -1, 1)))
            t = float(np.arcsin(np.clip(weights[1] * np.sin(angle), -1, 1)) / angle)
            other = np.sin((1 - t) * angle) / np.sin(angle)
            if _LEAST < t < 1 - _LEAST and abs(other - weights[0]) < 0.02 and (best is None or left < best[0]):
                best = float(left), one, two, t
    if best is None:
        return None
    left, one, two, t = best
    nearest = min(float(gram[target, target] + gram[m, m] - 2 * gram[target, m]) for m in (one, two))
    if left > (1 - _EXPLAINED) * nearest:
        return None
    return Merge(
        held.names[target], [held.names[one], held.names[two]], [1 - t, t], None, sqrt(max(left, 0.0) / nearest),
        spherical=True,
    )  # fmt: skip


def _least(gram: F64Array, target: int, members: Sequence[int]) -> float:
    """The squared residual of all members together: no set of them leaves less."""
    centred = gram[np.ix_(members, members)]
    weights = np.linalg.lstsq(centred, gram[members, target], rcond=1e-12)[0]
    left = gram[target, target] - 2 * weights @ gram[members, target] + weights @ centred @ weights
    return max(float(left), 0.0)


def _plausible(weights: F64Array, count: int) -> bool:
    """Whether these are weights of a merge: of parents that count, none out of bounds, and at most one negative one,
    which is the base of two parents or more.
    """
    negative = int((weights < 0).sum())
    return bool((np.abs(weights) >= _LEAST).all() and weights.max() <= _MOST and negative <= (count > 2))


def _of_elements(held: _Family, target: int, found: Elements) -> Merge:
    names = [held.names[i] for i in found.parents]
    return Merge(
        held.names[target], names, list(found.weights), held.names[found.base], found.residual,
        exact=False, explained=found.explained, factors=list(found.factors), averaged=found.averaged,
    )  # fmt: skip


def _distinct(gram: F64Array, members: Sequence[int]) -> list[int]:
    """One of each group of models that are the same but for rounding."""
    kept: list[int] = []
    spread = float(np.median(np.diag(gram))) or 1.0
    for m in members:
        if all(gram[m, m] + gram[k, k] - 2 * gram[m, k] > 1e-4 * spread for k in kept):
            kept.append(m)
    return kept


def _with_layers(held: _Family, merge: Merge) -> Merge:
    """The same with its weights in every layer."""
    at = {name: i for i, name in enumerate(held.names)}
    target, parents = at[merge.model], [at[name] for name in merge.parents]
    members = [*parents, *([at[merge.base]] if merge.base else [])]
    said = {}
    if not merge.exact or merge.spherical:  # weights come from single elements, of the whole
        return merge
    for group, start, stop in held.stretches:
        weights = _solve(_gram(held.vectors[:, start:stop]), target, members)[0][: len(parents)]
        said[group] = [float(w) for w in weights]
    return replace(merge, by_layer=said)
