"""Undoing what can be done to the residual stream without changing a model: its dimensions in another order or with
other signs, and orthogonal maps of it; and how alike two matrices then are.

Columns of the embedding are matched over the tokens that both models have (Zeng et al. 2026, "AWM", arXiv 2510.06738);
an orthogonal map comes from the polar decomposition (Schoenemann 1966).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netweight.kernels.arrays import F32Array, F64Array
from netweight.statistics.kinship.independence import cosines
from netweight.statistics.kinship.matching import Agreement, Indices, agreement, assigned, mutual

__all__ = ["Columns", "centred_columns", "columns_of", "columns_without_order", "rotation", "unbiased_cka"]


@dataclass(frozen=True)
class Columns:
    """Which column of one model each column of the other is: `of[j]`, times `signs[j]`; -1 where none was found.
    `likeness`: the mean of the cosines of those that were matched; `test`: halves of the tokens, matched apart.
    """

    of: Indices
    signs: F64Array
    likeness: float
    test: Agreement

    @property
    def found(self) -> int:
        """Columns that have a partner."""
        return int((self.of >= 0).sum())

    @property
    def in_order(self) -> bool:
        """Whether all that were found are in their own place, with their own sign."""
        at = np.flatnonzero(self.of >= 0)
        return bool(len(at) and (self.of[at] == at).all() and (self.signs[at] > 0).all())


def centred_columns(rows: F32Array) -> F32Array:
    """The columns of `rows` (tokens, dimensions) as rows, without their means."""
    held = np.where(np.isfinite(rows), rows, np.float32(0)).astype(np.float64)
    return np.ascontiguousarray((held - held.mean(axis=0)).T, np.float32)


def columns_without_order(a: F32Array, b: F32Array) -> Columns:
    """Partners of the columns of `b` (tokens, n) among those of `a` (the same tokens, m), by nearest neighbours that
    are each other's, whatever their order and signs. Needs no library, and finds parts of a wider model.
    """
    halves = [mutual(np.abs(_between(a[half::2], b[half::2]))) for half in (0, 1)]
    test = agreement(halves[0], halves[1], a.shape[1])
    whole = _between(a, b)
    return _as_columns(mutual(np.abs(whole)), whole, test)


def columns_of(a: F32Array, b: F32Array) -> Columns:
    """The same one by one (linear assignment), for the full test; needs scipy and n <= m."""
    halves = [mutual(np.abs(_between(a[half::2], b[half::2]))) for half in (0, 1)]
    whole = _between(a, b)
    return _as_columns(assigned(np.abs(whole)), whole, agreement(halves[0], halves[1], a.shape[1]))


def _between(a: F32Array, b: F32Array) -> F64Array:
    return cosines(centred_columns(b), centred_columns(a))


def _as_columns(of: Indices, similarity: F64Array, test: Agreement) -> Columns:
    held = np.flatnonzero(of >= 0)
    values = similarity[held, of[held]]
    signs = np.ones(len(of))
    signs[held] = np.where(values < 0, -1.0, 1.0)
    return Columns(of, signs, float(np.abs(values).mean()) if len(held) else 0.0, test)


def rotation(a: F32Array, b: F32Array) -> tuple[F64Array, float]:
    """(R, how much of b it explains): the map with orthonormal columns for which a R is nearest to b, over rows of the
    same tokens; 1 where a R is b but for scale, about 0 where they have nothing in common and tokens are many.
    """
    one, two = (np.where(np.isfinite(held), held, np.float32(0)).astype(np.float64) for held in (a, b))
    u, s, vt = np.linalg.svd(one.T @ two, full_matrices=False)
    length = float(np.linalg.norm(one @ u) * np.linalg.norm(two))
    return u @ vt, float(s.sum()) / length if length > 0 else 0.0


def unbiased_cka(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Centred kernel alignment of two sets of features of the same n >= 4 samples (n, p) and (n, q), about 0 for
    unrelated ones whatever p and q (Song et al. 2012; Nguyen, Raghu and Kornblith 2021); NaN where one is constant.
    """
    grams = [_without_diagonal(np.asarray(held, np.float64)) for held in (x, y)]
    between = _hsic(*grams)
    of_x, of_y = _hsic(grams[0], grams[0]), _hsic(grams[1], grams[1])
    return between / np.sqrt(of_x * of_y) if of_x > 0 and of_y > 0 else float("nan")


def _without_diagonal(features: F64Array) -> F64Array:
    scale = float(np.abs(features).max(initial=0.0))
    features = features / scale if scale > 0 else features
    gram: F64Array = features @ features.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: F64Array, l: F64Array) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion, of grams without their diagonals."""
    n = len(k)
    rows = k.sum(axis=0) @ l.sum(axis=0)
    whole = float(np.einsum("ij,ij->", k, l)) + float(k.sum() * l.sum()) / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return float(whole) / (n * (n - 3))
