"""A sketch as one vector: inner products of two say at once whether two models may be related, thousands at a time.

The rows of every matrix's corner, centred and of length 1, are added into one of some places by the key's hash (a count
sketch, Charikar et al. 2002): the inner product of two models is the mean cosine of rows of the same number, for what
both have. Behind it are the cosines of tokens with each other, which no order, sign or rotation of dimensions changes.
What this finds is looked at with the sketches themselves.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from netweight.jobs.lineage.sketch import Sketch
from netweight.kernels.arrays import F32Array

__all__ = ["LIKELY", "SIZE", "SIZE_IN_ORDER", "Features", "feature_of", "scores"]

_PLACES, _ROWS, _COLS = 24, 16, 32
_TOKENS = 64
SIZE_IN_ORDER = _PLACES * _ROWS * _COLS
SIZE = SIZE_IN_ORDER + _TOKENS * (_TOKENS - 1) // 2
"""Numbers of one model, of which the first are those of rows in order."""

LIKELY = 0.06
"""An inner product of rows beyond which two models are looked at: more than six deviations of unrelated ones."""

Features = np.ndarray[Any, np.dtype[np.float16]]


def feature_of(sketch: Sketch) -> Features:
    """The vector of a sketch, each of its two parts of length 1 (or 0 where there is nothing), as float16."""
    total = np.zeros((_PLACES, _ROWS, _COLS))
    for key, held in sketch.tensors.items():
        if len(held.shape) < 2:
            continue
        corner = held.values[:_ROWS, :_COLS].astype(np.float64)
        if min(corner.shape) < 2 or not np.isfinite(corner).all():
            continue
        corner -= corner.mean(axis=0)
        length = np.sqrt((corner**2).sum(axis=1, keepdims=True))
        corner = np.where(length > 0, corner / np.where(length > 0, length, 1.0), 0.0)
        hashed = int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:4], "little")
        sign = 1.0 if hashed & 1 else -1.0
        total[(hashed >> 1) % _PLACES, : corner.shape[0], : corner.shape[1]] += sign * corner
    return np.concatenate([_unit(total.ravel()), _unit(_of_tokens(sketch))]).astype(np.float16)


def _of_tokens(sketch: Sketch) -> np.ndarray[Any, np.dtype[np.float64]]:
    upper = np.triu_indices(_TOKENS, 1)
    found = np.zeros(len(upper[0]))
    held = sketch.embedding()
    if held is None or len(held.values) < _TOKENS or not np.isfinite(held.values[:_TOKENS]).all():
        return found
    rows = held.values[:_TOKENS].astype(np.float64)
    rows -= rows.mean(axis=0)
    length = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    rows = np.where(length > 0, rows / np.where(length > 0, length, 1.0), 0.0)
    cosines = (rows @ rows.T)[upper]
    return np.asarray(cosines - cosines.mean())


def _unit(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    length = float(np.sqrt((values**2).sum()))
    return values / length if length > 0 else values


def scores(features: Features, queries: F32Array) -> tuple[F32Array, F32Array]:
    """(of rows in order, of tokens): inner products of every row of `features` (models, SIZE) with each of `queries`
    (n, SIZE); read a few hundred models at a time.
    """
    found = [np.empty((len(features), len(queries)), np.float32) for _ in range(2)]
    for start in range(0, len(features), 256):
        piece = np.asarray(features[start : start + 256], np.float32)
        found[0][start : start + 256] = piece[:, :SIZE_IN_ORDER] @ queries[:, :SIZE_IN_ORDER].T
        found[1][start : start + 256] = piece[:, SIZE_IN_ORDER:] @ queries[:, SIZE_IN_ORDER:].T
    return found[0], found[1]
