"""Rows that look untrained: near the mean of rows that no text leads to, zero, equal, alike, as they began, or small.

The mean of unused rows is the indicator of Land and Bartolo 2024 (Fishing for Magikarp); RULE states the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from netweight.jobs.embeddings.rows import Rows, Stretch, distances_to, run_in_order
from netweight.statistics.token_rows import TokenRows, TokenSums, axes_of, sampled_rows

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
    "a row looks untrained where it (zero) has no element but 0; (repeated) is equal to another row; (alike) has a"
    " cosine of 0.95 or more with the direction that seven others or more have in common; (begun) is noise of one"
    " variance, in a table whose other rows are not; (near_unused) lies no farther from the mean of the rows that no"
    " text leads to than the median of those rows does plus 4 spreads, unless more than 25% of the other rows do too;"
    " or (small) has a norm more than 6 spreads below the median of the rows that are none of these, as logarithms. A"
    " spread is 1.4826 times the median absolute deviation"
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
            for name in ("zero", "repeated", "alike", "begun", "near_unused", "small")
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
    looks = _looks(rows, executor)
    masks = {"zero": norms == 0, "repeated": looks.repeated, "alike": looks.alike, "begun": looks.begun}
    for name, mask in masks.items():
        for i in np.flatnonzero(mask).tolist():
            reasons.setdefault(i, []).append(name)
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
    positive[list(reasons)] = False
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


def _looks(rows: Rows, executor: Executor) -> TokenRows:
    """What rows tell without a tokenizer."""
    plain = replace(rows, mean=None, kept=None)
    numbers = sampled_rows(rows.count)
    axes = axes_of(plain.pick(numbers), numbers)

    def sums_of(stretch: Stretch) -> TokenSums:
        sums = TokenSums(axes, stretch.first)
        for block, _ in plain.blocks(stretch):
            sums.take(block)
        return sums

    whole = TokenSums(axes)
    for part in run_in_order(plain, sums_of, executor):
        whole.merge(part)
    return whole.finish()
