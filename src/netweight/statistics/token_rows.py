"""Rows of a table of tokens that training did not make, by their own look: no tokenizer is asked.

Text leads to some tokens alone. The rows of the others are zero, or equal, or as they began: independent numbers of one
variance, whose norm is that of all such rows, and which have no more in the directions of the trained rows than in any.
Where the table is also the output, training pushes them all one way, so that they end up alike (Land and Bartolo 2024,
Fishing for Magikarp, arXiv:2405.05417).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array, F64Array

__all__ = ["SAMPLED", "Axes", "TokenRows", "TokenSums", "axes_of", "sampled_rows"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]

SAMPLED = 256
"""Rows of the beginning, of the end, and of all between (in runs of 16), from which directions are found."""

_RUN = 16

_LEAST = 8  # rows of one kind
_NARROWEST = 64  # columns: with fewer, chance is as far from even as training
_ALIKE = 0.95  # cosine with the direction that rows have in common
_NEAR = 0.85  # the same of rows that are neither alike nor others, of which there are few
_SHARED = 0.75  # of all rows at most
_BEYOND = 3.1  # standard deviations: one noise row in a thousand
_WIDE = 4.0  # standard deviations of a noise row's norm
_PURE = 0.9  # of the rows of such a norm, that are noise
_MIXED = 0.6  # of the other rows at most: else the table has no directions
_CHANCE = 1e-4  # that so many trained rows of one norm are as even as noise


@dataclass(frozen=True)
class Axes:
    """What the rows of a table are held against. `directions`: those in which unit rows have most, float32 [cols, r],
    of the odd rows and of the even ones, each for the others, so that no row is held against itself; `common`: the
    direction float32 [cols] that several have, None where none do.
    """

    directions: tuple[F32Array, F32Array]
    common: F32Array | None


@dataclass(frozen=True)
class TokenRows:
    """Masks bool [rows]: rows of zeros; equal to another one; of one direction with several others; as they began."""

    zero: Mask
    repeated: Mask
    alike: Mask
    begun: Mask

    @property
    def untrained(self) -> Mask:
        """Rows that are any of these."""
        found: Mask = self.zero | self.repeated | self.alike | self.begun
        return found


def sampled_rows(rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of the rows that directions are found from, ascending."""
    runs = np.arange(SAMPLED // _RUN) * rows // (SAMPLED // _RUN)
    spaced = (runs[:, None] + np.arange(_RUN)).reshape(-1)
    ends = np.concatenate([np.arange(SAMPLED), np.arange(rows - SAMPLED, rows)])
    return np.unique(np.clip(np.concatenate([ends, spaced]), 0, rows - 1)) if rows else np.empty(0, np.int64)


def axes_of(sample: F32Array, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> Axes | None:
    """From rows float32 [n, cols] with these numbers; None where they are too few or too narrow."""
    cols = sample.shape[1]
    whole = np.isfinite(sample).all(axis=1) & sample.any(axis=1)
    units, odd = _unit(sample[whole].astype(np.float64)), numbers[whole] % 2 == 1
    if cols < _NARROWEST or len(units) < _NARROWEST:
        return None
    common, alike = _common(units)
    ours, theirs = (_leading(units[~alike & half], min(16, cols // 16)) for half in (odd, ~odd))
    narrow = None if common is None else common.astype(np.float32)
    return Axes((ours.astype(np.float32), theirs.astype(np.float32)), narrow)


def _leading(rows: F64Array, number: int) -> F64Array:
    """The directions [cols, number] in which rows [n, cols] have most; [cols, 0] where they are too few."""
    count, cols = rows.shape
    if count < 2 * number:
        return np.zeros((cols, 0))
    found: F64Array
    if count >= cols:
        found = np.linalg.eigh(rows.T @ rows)[1][:, -number:]
    else:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        found = (vectors[:, -number:].T @ rows / np.sqrt(np.maximum(values[-number:], 1e-30))[:, None]).T
    return found


def _common(units: F64Array) -> tuple[F64Array | None, Mask]:
    """The direction that the most unit rows [n, cols] are near, and which they are; None where they are below eight."""
    near = units @ units.T >= _ALIKE
    most = int(near.sum(axis=1).argmax())
    if near[most].sum() < _LEAST:
        return None, np.zeros(len(units), bool)
    direction = units[near[most]].mean(axis=0)
    direction /= sqrt(float(direction @ direction))
    return direction, units @ direction >= _ALIKE


def _unit(rows: F64Array) -> F64Array:
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    found: F64Array = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


@dataclass
class TokenSums:
    """Gathers the rows of a table in order, from row number `first`; neighbouring stretches can be gathered apart."""

    axes: Axes | None
    first: int = 0
    _norms: list[F64Array] = field(default_factory=list)
    _shares: list[F64Array] = field(default_factory=list)
    _cosines: list[F64Array] = field(default_factory=list)
    _digests: list[np.ndarray[Any, np.dtype[np.uint64]]] = field(default_factory=list)

    def take(self, values: F32Array) -> None:
        """Take in rows float32 [n, cols]."""
        odd = (self.first + sum(map(len, self._norms)) + np.arange(len(values))) % 2 == 1
        with np.errstate(invalid="ignore", over="ignore"):
            squares = np.square(values, dtype=np.float64).sum(axis=1)
            self._norms.append(np.sqrt(squares))
            plain = np.ascontiguousarray(values + np.float32(0))  # one zero
            self._digests.append(np.array([xxh3_64_intdigest(row) for row in plain], np.uint64))
            if self.axes is None:
                return
            parts = [np.square(values @ d, dtype=np.float64).sum(axis=1) for d in self.axes.directions]
            held = squares > 0
            along = np.where(odd, parts[1], parts[0])
            self._shares.append(np.divide(along, squares, out=np.full(len(values), np.nan), where=held))
            if self.axes.common is not None:
                along = (values @ self.axes.common).astype(np.float64)
                self._cosines.append(np.divide(along, np.sqrt(squares), out=np.zeros(len(values)), where=held))

    def merge(self, later: TokenSums) -> None:
        """Take in what another one gathered of the rows that follow."""
        self._norms += later._norms
        self._shares += later._shares
        self._cosines += later._cosines
        self._digests += later._digests

    def finish(self) -> TokenRows:
        """The verdict; rows that are not finite are none of it."""
        norms = np.concatenate([np.zeros(0), *self._norms])
        digests = np.concatenate([np.empty(0, np.uint64), *self._digests])
        _, place, count = np.unique(digests, return_inverse=True, return_counts=True)
        held = np.isfinite(norms) & (norms > 0)
        repeated = held & (count[place] > 1)
        alike, begun = np.zeros(len(norms), bool), np.zeros(len(norms), bool)
        if self.axes is not None and self.axes.common is not None:
            cosines = np.concatenate(self._cosines)
            alike = held & (cosines >= _ALIKE) & ~repeated
            near = held & (cosines >= _NEAR) & ~(cosines >= _ALIKE)
            if alike.mean() > _SHARED or near.sum() > alike.sum() / 2:  # a direction that trained rows have, too
                alike[:] = False
        judged = held & ~repeated & ~alike
        if self.axes is not None and judged.sum() >= _NARROWEST:
            shares, (cols, number) = np.concatenate(self._shares)[judged], self.axes.directions[0].shape
            if number and self.axes.directions[1].shape[1] == number:
                even = shares <= number / cols * (1 + _BEYOND * sqrt(2 / number))
                begun[judged] = _begun(np.log(norms[judged]), even, _WIDE / sqrt(2 * cols))
        return TokenRows(norms == 0, repeated, alike, begun)


def _begun(logs: F64Array, even: Mask, wide: float) -> Mask:
    """Which rows are noise of one variance: `even` ones of nearly one norm, which hardly any other row has, in a table
    whose other rows are not even. `logs`: of their norms.
    """
    none = np.zeros(len(logs), bool)
    ordered, ordered_even = np.sort(logs), np.sort(logs[even])
    if len(ordered_even) < _LEAST:
        return none
    low, high = ordered_even - wide, ordered_even + wide
    noise, rows = (np.searchsorted(v, high, "right") - np.searchsorted(v, low) for v in (ordered_even, ordered))
    noise = np.where(noise >= _PURE * rows, noise, 0)
    best = int(noise.argmax())
    inside = np.abs(logs - ordered_even[best]) <= wide
    others = ~inside
    mixed = float(even[others].mean()) if others.any() else 1.0
    few = noise[best] < _LEAST or mixed > _MIXED
    return none if few or len(logs) * mixed ** int(noise[best]) > _CHANCE else inside & even
