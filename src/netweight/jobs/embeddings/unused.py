"""Rows that look untrained: near the mean of rows that no text leads to, of outlyingly small norm, zero, or repeated.

The mean of unused rows is the indicator of Land and Bartolo 2024 (Fishing for Magikarp); RULE states the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netweight.jobs.embeddings.rows import Rows, Stretch, distances_to, run_in_order

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


__all__ = ["RULE", "Untrained", "find_untrained"]

_FEWEST = 4  # unused rows from which a limit is drawn
_SPREADS = 4.0  # above the median distance of the unused rows to their mean
_TOO_MANY = 0.25  # of the used rows: then the unused ones do not stand apart
_SMALL = 6.0
_NORMAL = 1.4826  # times the median absolute deviation: the standard deviation of normal numbers

RULE = (
    "a row looks untrained where it (zero) has no element but 0; (repeated) is equal to another row; (near_unused) lies"
    " no farther from the mean of the rows that no text leads to than the median of those rows does plus 4 spreads,"
    " unless more than 25% of the other rows do too; or (small) has a norm more than 6 spreads below the median norm,"
    " both as logarithms. A spread is 1.4826 times the median absolute deviation"
)


@dataclass(frozen=True)
class Untrained:
    """`reasons`: {id: which parts of RULE}, by id; `unused`: {id: why no text leads to it}; `limit`: the distance to
    the mean unused row up to which a row is near it, None where there is none, and `note` says why.
    """

    reasons: dict[int, tuple[str, ...]]
    unused: dict[int, str]
    limit: float | None
    note: str
    distances: Array | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with all ids."""
        by_reason = {
            name: [i for i, why in self.reasons.items() if name in why]
            for name in ("zero", "repeated", "near_unused", "small")
        }
        return {
            "rule": RULE,
            "count": len(self.reasons),
            "ids": list(self.reasons),
            "count_by_reason": {name: len(ids) for name, ids in by_reason.items()},
            "ids_by_reason": by_reason,
            "known_unused": len(self.unused),
            "known_unused_ids": list(self.unused),
            "known_unused_that_look_trained": [i for i in self.unused if i not in self.reasons],
            "distance_limit": self.limit,
            "note": self.note,
        }


def find_untrained(rows: Rows, norms: Array, unused: Mapping[int, str], executor: Executor) -> Untrained:
    """Judge every finite row; `norms` float64 [rows], NaN where a row is not finite, `unused`: ids no text leads to."""
    import numpy as np

    finite = np.isfinite(norms)
    reasons: dict[int, list[str]] = {}
    for zero in np.flatnonzero(norms == 0).tolist():
        reasons.setdefault(zero, []).append("zero")
    for i in _repeated(rows, executor):
        if norms[i] > 0:
            reasons.setdefault(i, []).append("repeated")
    known = np.array([i for i in unused if i < rows.count and finite[i]], np.int64)
    limit, note, apart = None, "", None
    if len(known) < _FEWEST:
        note = f"{len(known)} rows are known to be unused, at least {_FEWEST} are needed for their mean"
    else:
        mean = rows.pick(known).mean(axis=0, dtype=np.float64)
        apart = distances_to(rows, np.zeros(rows.count, np.int64), mean[None, :], executor)
        limit = _median_plus(apart[known], _SPREADS)
        used = finite.copy()
        used[known] = False
        near = float((apart[used] <= limit).mean()) if used.any() else 0.0
        if near > _TOO_MANY:
            note = f"the unused rows do not stand apart: {100 * near:.0f}% of the others are as near to their mean"
            limit = None
        else:
            for i in np.flatnonzero(finite & (apart <= limit)).tolist():
                reasons.setdefault(i, []).append("near_unused")
    positive = finite & (norms > 0)
    if positive.sum() >= 2 * _FEWEST:
        logs = np.log(norms[positive])
        middle, spread = np.median(logs), _spread(logs)
        if spread > 0:
            for i in np.flatnonzero(positive)[logs < middle - _SMALL * spread].tolist():
                reasons.setdefault(i, []).append("small")
    judged = {i: tuple(reasons[i]) for i in sorted(reasons)}
    return Untrained(judged, dict(unused), limit, note, apart)


def _spread(values: Array) -> float:
    import numpy as np

    return _NORMAL * float(np.median(np.abs(values - np.median(values))))


def _median_plus(values: Array, spreads: float) -> float:
    import numpy as np

    # Equal rows have no spread; rounding then leaves their distances a little above 0.
    return float(np.median(values)) * (1 + 1e-6) + spreads * _spread(values)


def _repeated(rows: Rows, executor: Executor) -> list[int]:
    """Rows that are equal to another one."""
    from xxhash import xxh3_128_digest

    def digests_of(stretch: Stretch) -> list[tuple[int, bytes]]:
        return [
            (int(number), xxh3_128_digest((row + 0.0).tobytes()))
            for block, numbers in rows.blocks(stretch)
            for number, row in zip(numbers, block, strict=True)
        ]

    first: dict[bytes, int] = {}
    repeated: set[int] = set()
    for part in run_in_order(rows, digests_of, executor):
        for number, digest in part:
            if (earlier := first.setdefault(digest, number)) != number:
                repeated |= {earlier, number}
    return sorted(repeated)
