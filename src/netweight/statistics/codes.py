"""Whether the values of a matrix are those of a code: rounded to few steps in groups of columns, rows or tiles.

Floats that nobody rounded fill the numbers that their type holds evenly: in any region as many pairs of elements are
one step of the type apart as two times those that are equal, whatever their distribution and scale. A code of few bits
makes elements of a region equal, and leaves the steps beside them empty. The largest region in which as many pairs are
equal as in the smallest is the group that has one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.dtypes import DType

if TYPE_CHECKING:
    from netweight.kernels.arrays import U8Array

__all__ = ["RUNS", "TILE", "Codes", "Steps", "codes_of", "steps_of"]

Steps = np.ndarray[Any, np.dtype[np.int64]]

RUNS = (16, 32, 64, 128, 256)
"""Columns that a group may have."""

TILE = 128
"""Rows and columns of a tile."""

_EQUAL = 64  # pairs that a verdict needs
_RATIO = 4.0  # times the equal pairs that the pairs one step apart let expect
_MOST = 288.0  # effective values: a code of 8 bits has 256
_KEPT = 0.7  # of the share of equal pairs in the smallest region
_LEAST_EXPECTED = 16.0  # pairs in the smallest groups
_MANTISSA = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}  # bits
_SEVERAL = 8  # different values below which bits mean nothing
_USUAL = 0.99  # of the elements, which have no more significant bits than said


@dataclass(frozen=True)
class Codes:
    """`group`: "16 columns" to "256 columns", "row", "tile" or "matrix", "" where the values are of no code, None where
    too few were looked at to tell. `values`: the different ones in a group, of 98% of the groups; `effective`: the
    reciprocal of the chance that two of one group are equal; `significant`: bits, of 99% of the elements.
    """

    group: str | None
    values: int | None
    effective: float | None
    significant: int | None


@dataclass(frozen=True)
class _Region:
    """Pairs of elements other than 0 in the groups of one kind: all, those equal, those one step apart."""

    pairs: float
    equal: float
    apart: float
    values: int

    @property
    def coded(self) -> bool:
        """Whether more are equal than floats that nobody rounded have."""
        beyond = self.equal - self.apart / 2
        return self.equal >= _EQUAL and self.equal >= _RATIO * self.apart / 2 and self.pairs <= _MOST * beyond

    @property
    def may_be_coded(self) -> bool:
        """Whether more are equal than that, by fewer pairs."""
        return self.equal >= _LEAST_EXPECTED / 2 and self.equal >= _RATIO * self.apart / 2

    @property
    def share(self) -> float:
        """Of the pairs: those that are equal beyond what unrounded floats have."""
        return (self.equal - self.apart / 2) / self.pairs


def steps_of(raw: U8Array, dtype: DType, cols: int) -> Steps:
    """Native bytes of whole rows as int64 [rows, cols]: the number of each element among those of its type, 0 for
    either zero. NaN and infinities are 0, too.
    """
    kind = np.dtype(f"u{dtype.bits // 8}")
    bits = raw.view(kind).reshape(-1, cols).astype(np.uint64)
    low = np.uint64((1 << (dtype.bits - 1)) - 1)
    steps = (bits & low).astype(np.int64)
    with np.errstate(invalid="ignore"):
        steps[~np.isfinite(raw.view(dtype.to_numpy()).reshape(-1, cols).astype(np.float64))] = 0
    return np.where(bits > low, -steps, steps)


def codes_of(rows: Steps, tiles: Callable[[], Sequence[Steps]], dtype: DType) -> Codes:
    """The verdict on rows int64 [n, cols] as of `steps_of`, and on tiles of TILE x TILE, which are asked for where the
    rows may be coded.

    Both may be of a sample. A code whose scale holds for more than 256 columns is told where rows are that long.
    """
    shift = _unused_bits(rows, dtype)
    if shift is None:
        return Codes(None, None, None, None)
    several = len(np.unique(rows.reshape(-1)[:: max(1, rows.size // 1024)])) > _SEVERAL
    bits = _MANTISSA.get(dtype.name, 0) + 1 - shift if several else None
    rows = rows >> shift
    cols = rows.shape[1]
    runs = [run for run in RUNS if 2 * run <= cols]
    smallest = _smallest(rows, runs)
    if smallest is None or not smallest.may_be_coded:
        return Codes(None if smallest is None else "", None, None, bits)
    kinds = {"matrix": _region(rows.reshape(1, -1))}
    if cols > RUNS[0]:
        kinds["row"] = _region(rows)
    if held := tiles():
        kinds["tile"] = _region(np.stack([tile.reshape(-1) >> shift for tile in held]))
    kinds |= {f"{run} columns": _region(_cut(rows, run)) for run in reversed(runs)}
    coded = {kind: region for kind, region in kinds.items() if region.coded}
    highest = max((region.share for region in coded.values()), default=0.0)
    # the values of a code are as equal in the smallest groups; those of repeated rows and mirrored ones are not
    expected = highest * smallest.pairs
    if not coded or expected < _LEAST_EXPECTED or smallest.equal < expected / 2:
        return Codes("", None, None, bits)
    group, found = next((kind, region) for kind, region in coded.items() if region.share >= _KEPT * highest)
    return Codes(group, found.values, 1 / found.share, bits)


def _smallest(rows: Steps, runs: Sequence[int]) -> _Region | None:
    """The smallest groups that have enough pairs to tell a code of 8 bits: runs, or rows where these are short."""
    for groups in (*(_cut(rows, run) for run in runs), rows):
        region = _region(groups)
        if region.pairs >= _MOST * _LEAST_EXPECTED:
            return region
    return None


def _cut(rows: Steps, run: int) -> Steps:
    """The whole runs of so many columns, [number, run]."""
    return rows[:, : rows.shape[1] // run * run].reshape(-1, run)


def _unused_bits(steps: Steps, dtype: DType) -> int | None:
    """Trailing bits of the mantissa that hardly any element uses; None without elements."""
    held = np.abs(steps[steps != 0])
    if not held.size:
        return None
    unused = _MANTISSA.get(dtype.name, 0)
    while unused and (held & ((1 << unused) - 1) == 0).mean() < _USUAL:
        unused -= 1
    return unused


def _region(groups: Steps) -> _Region:
    """Of groups int64 [number, elements]; those of one value other than 0 are not counted."""
    ordered = np.sort(groups, axis=1)
    number, size = ordered.shape
    flat = ordered.reshape(-1)
    starts = np.ones(flat.size, bool)
    starts[1:] = flat[1:] != flat[:-1]
    starts[::size] = True
    at = np.flatnonzero(starts)
    value, group = flat[at], at // size
    count = np.diff(at, append=flat.size).astype(np.float64)
    different = np.bincount(group, value != 0, number)
    count[(value == 0) | (different[group] < 2)] = 0  # a constant is no code
    held = np.bincount(group, count, number)
    beside = (np.diff(value) == 1) & (np.diff(group) == 0)
    return _Region(
        pairs=float((held * (held - 1)).sum() / 2),
        equal=float((count * (count - 1)).sum() / 2),
        apart=float((count[:-1] * count[1:])[beside].sum()),
        values=int(np.quantile(different, 0.98, method="inverted_cdf")),
    )
