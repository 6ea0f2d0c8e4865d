"""Merges that drop or choose single elements (TIES, DARE), found by what is left of each parent.

Over the base, such a merge has in each element nothing, one parent's task vector times that parent's factor, or of
several parents the sum of these (DARE) or the mean by weight (TIES). An element of two trained models never agrees so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from netweight.kernels.arrays import F32Array, F64Array

__all__ = ["Elements", "elementwise"]

_SAMPLED = 60_000  # elements
_FEWER, _FEW = 6_000, 30_000  # of these, by which parents are looked for
_LEAST_HELD = 500
_LEAST, _MOST = 0.03, 1.7  # of weights
_DROPPED = 0.02  # of all elements, that must be the base's own
_ALL = 0.97  # of what moved, beyond which no further parent is looked for
_EXPLAINED = 0.8  # of what moved
_NEEDED = 0.05  # of what moved, that only a parent explains
_PARENTS = 4
_BASES = 4  # that are tried
_APART = 0.04  # of the squared distance to the base: what is nearer is a copy, and no parent
_FARTHEST = 1.5  # of the distance to the nearest parent, that the mean merge may be away
_ALONE = 0.04  # of the larger elements of a task vector, that must stand there times one factor
_WIDTH = 0.01


@dataclass(frozen=True)
class Elements:
    """Indices of `base` and `parents`, their `weights` and the `factors` by which a parent alone is multiplied."""

    base: int
    parents: Sequence[int]
    weights: Sequence[float]
    factors: Sequence[float]
    averaged: bool
    explained: float
    residual: float


def elementwise(vectors: F32Array, target: int, others: Sequence[int]) -> Elements | None:
    """What the model `target` of `vectors` (models, elements) is made of, of `others`; None where it is no such merge.

    The base is one of the models that have most elements in common with it (those that were dropped), or the one that
    the others are nearest to.
    """
    step = max(1, vectors.shape[1] // _SAMPLED)
    held = vectors[:, ::step]
    same = {i: float((held[i] == held[target]).mean()) for i in others}
    if len(others) < 3:
        return None
    best: Elements | None = None
    bases = sorted((i for i in others if same[i] >= _DROPPED), key=lambda i: -same[i])[:_BASES]
    for base in dict.fromkeys([*bases, _central(held, others)]):
        found = _over(held, target, base, [i for i in others if i != base])
        if found is not None and (best is None or found.explained > best.explained + 1e-3):
            best = found
    return best


def _central(held: F32Array, others: Sequence[int]) -> int:
    """The model with the least sum of squared distances from the others."""
    vectors = held[list(others)].astype(np.float64)
    vectors -= vectors.mean(axis=0)
    return others[int((vectors**2).sum(axis=1).argmin())]


def _over(held: F32Array, target: int, base: int, others: Sequence[int]) -> Elements | None:
    """The same over one base."""
    t = held[target].astype(np.float64) - held[base]
    moved = np.abs(t) > 1e-3 * np.sqrt((t**2).mean())
    if moved.mean() < _DROPPED:
        return None
    tau = {i: held[i].astype(np.float64) - held[base] for i in others}
    length = float((t**2).sum())
    apart = {i: vector for i, vector in tau.items() if float(((t - vector) ** 2).sum()) > _APART * length}
    alone = {i: found for i, vector in apart.items() if (found := _factor(t, vector)) is not None}
    likely = sorted(alone, key=lambda i: -alone[i][1])[: _PARENTS + 2]
    near = 0.01 * np.abs(t) + 2e-3 * sqrt(float((t**2).mean()))
    explained = 0.0
    parents: list[int] = []
    for count in range(2, _PARENTS + 1):
        for chosen in combinations(likely, count):
            parts = np.stack([alone[i][0] * tau[i] for i in chosen])
            fits = _fits(t, parts, near, _shares(t, parts, near, moved))
            share = float(np.any(list(fits.values()), axis=0)[moved].mean())
            # one more must be needed: a merge of the same parents is none
            if share > explained + (_NEEDED if parents else 0):
                explained, parents = share, list(chosen)
        if explained > _ALL:
            break
    if explained < _EXPLAINED:
        return None
    factors = [alone[i][0] for i in parents]
    parts = np.stack([alone[i][0] * tau[i] for i in parents])
    shares = _shares(t, parts, near, moved)
    fits = _fits(t, parts, near, shares)
    weights = shares if shares is not None else _by_survivors(fits, parts, factors, moved, near)
    left = float(((t - sum(w * tau[i] for w, i in zip(weights, parents, strict=True))) ** 2).sum())
    nearest = min(float(((t - tau[i]) ** 2).sum()) for i in parents)
    residual = sqrt(left / nearest) if nearest > 0 else 0.0
    if residual > _FARTHEST or min(weights) < _LEAST or max(weights) > _MOST:
        return None
    return Elements(base, parents, weights, factors, shares is not None, explained, residual)


def _factor(t: F64Array, tau: F64Array) -> tuple[float, float] | None:
    """(factor, share) where a share of the larger elements of `tau` stands in `t` times one factor."""
    # most vectors stand nowhere: a few elements say so
    return _factor_of(t, tau, _FEW) if _factor_of(t, tau, _FEWER) is not None else None


def _factor_of(t: F64Array, tau: F64Array, elements: int) -> tuple[float, float] | None:
    step = max(1, len(t) // elements)
    t, tau = t[::step], tau[::step]
    size = np.abs(tau)
    held = size > np.partition(size, int(0.6 * len(size)))[int(0.6 * len(size))]
    if held.sum() < _LEAST_HELD:
        return None
    ratio = t[held] / tau[held]
    ratio = ratio[(np.abs(ratio) > 0.02) & (np.abs(ratio) < 8)]
    found = _densest(ratio, _WIDTH)
    if found is None:
        return None
    centre, count = found
    around = np.abs(ratio - centre) < 0.25 * abs(centre)
    usual = float(around.sum()) * _WIDTH / 0.5
    share = count / int(held.sum())
    return (centre, share) if centre > 0 and share > _ALONE and count > 4 * usual else None


def _densest(values: F64Array, width: float) -> tuple[float, int] | None:
    """(the middle, how many) of the values that lie closest together, within this share of their size."""
    if len(values) < 200:
        return None
    ordered = np.sort(values[values > 0])
    if not len(ordered):
        return None
    ends = np.searchsorted(ordered, ordered * (1 + width))
    counts = ends - np.arange(len(ordered))
    at = int(counts.argmax())
    return float(np.median(ordered[at : ends[at]])), int(counts[at])


def _shares(
    t: F64Array, parts: F64Array, near: F64Array, moved: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> list[float] | None:
    """The weights, with the sum 1, by which parents are averaged where several meet; None where they are added."""
    alone = np.any([np.abs(t - part) < near for part in parts], axis=0)
    ratios = np.ones(len(parts))
    for k in range(1, len(parts)):
        apart = parts[0] - parts[k]
        between = moved & ~alone & (np.abs(apart) > 4 * near)
        inside = np.zeros(0) if not between.any() else (t - parts[k])[between] / apart[between]
        inside = inside[(inside > 0.02) & (inside < 0.98)]
        found = _densest(inside, 2 * _WIDTH)
        if found is None or found[1] < 0.1 * len(inside) or found[1] < 100:
            return None
        ratios[k] = (1 - found[0]) / found[0]
    return [float(ratio) for ratio in ratios / ratios.sum()]


def _fits(
    t: F64Array, parts: F64Array, near: F64Array, shares: Sequence[float] | None
) -> dict[tuple[int, ...], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """{parents: where they together are the element}."""
    found = {}
    for count in range(1, len(parts) + 1):
        for chosen in combinations(range(len(parts)), count):
            held = parts[list(chosen)]
            if shares is None:
                made = held.sum(axis=0)
            else:
                own = np.array([shares[k] for k in chosen])
                made = (own / own.sum()) @ held
            found[chosen] = np.abs(t - made) < near
    return found


def _by_survivors(
    fits: Mapping[tuple[int, ...], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]],
    parts: F64Array,
    factors: Sequence[float],
    moved: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    near: F64Array,
) -> list[float]:
    """Weights of parents that are added: the factor times the share of elements that were kept, where all parents have
    one sign, so that none was dropped for another's.
    """
    # elements of which it is clear whose they are: none is small, no two are alike, and all have one sign
    # (by the parents alone: what the merge has must not decide which elements are looked at)
    near = 0.01 * np.abs(parts).sum(axis=0) + near.min()
    clear = (np.abs(parts).min(axis=0) > 4 * near) & np.all(np.sign(parts) == np.sign(parts[0]), axis=0)
    for one, two in combinations(range(len(parts)), 2):
        clear &= np.abs(parts[one] - parts[two]) > 4 * near
    weights = []
    for k, factor in enumerate(factors):
        alone = int((fits[k,] & moved & clear).sum())
        nothing = int((~moved & clear).sum())
        weights.append(factor * alone / max(alone + nothing, 1))
    return weights
