"""The agreement of the output embedding with the input embedding, row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor
from netweight.jobs.embeddings.rows import Rows, Stretch, measure_rows, run_in_order

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


__all__ = ["Agreement", "measure_agreement"]

EXTREMES = 10


@dataclass(frozen=True)
class Agreement:
    """`state`: "tied" (one parameter, nothing to compare), "compared", or "none" with the `reason`.

    `mean_cosine` over the `rows` that both have and where neither is zero or not finite; `least` and `most`: (id,
    cosine) of the rows that agree least and most; `norm_correlation`: Pearson's, of the rows' norms; None where not
    defined.
    """

    state: str
    output: str | None
    reason: str
    rows: int = 0
    mean_cosine: float | None = None
    least: tuple[tuple[int, float], ...] = ()
    most: tuple[tuple[int, float], ...] = ()
    norm_correlation: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        entry: dict[str, Any] = {"state": self.state, "output": self.output, "reason": self.reason}
        if self.state == "compared":
            entry |= {
                "rows": self.rows,
                "mean_cosine": self.mean_cosine,
                "norm_correlation": self.norm_correlation,
                "least": [{"token_id": i, "cosine": c} for i, c in self.least],
                "most": [{"token_id": i, "cosine": c} for i, c in self.most],
            }
        return entry


def measure_agreement(rows: Rows, norms: Array, head: Tensor, executor: Executor) -> Agreement:
    """The agreement of `rows` (with their `norms`) and `head` [n, cols], over the row numbers that both have."""
    import numpy as np

    of_head = measure_rows(head, executor)
    count = min(rows.count, of_head.rows.count)
    # as stored: a cosine is taken to 0, not to the mean
    left = Rows(rows.tensor, rows.scale)
    right = Rows(head, of_head.rows.scale)
    usable = np.isfinite(norms[:count]) & np.isfinite(of_head.norms[:count])
    usable &= (norms[:count] > 0) & (of_head.norms[:count] > 0)
    cosines = np.full(count, np.nan)

    def compare_stretch(stretch: Stretch) -> None:
        end = min(count, stretch.first + stretch.count)
        for first in range(stretch.first, end, left.block_rows):
            last = min(end, first + left.block_rows)
            (a, _), (b, _) = (next(side.blocks(Stretch(first, last - first))) for side in (left, right))
            with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are not usable
                dots = np.einsum("ij,ij->i", a, b, dtype=np.float64)
                of_a = np.einsum("ij,ij->i", a, a, dtype=np.float64)
                of_b = np.einsum("ij,ij->i", b, b, dtype=np.float64)
                with np.errstate(divide="ignore"):
                    cosines[first:last] = dots / np.sqrt(of_a) / np.sqrt(of_b)

    for _ in run_in_order(left, compare_stretch, executor):
        pass
    ids = np.flatnonzero(usable)
    reason = (
        ""
        if rows.count == of_head.rows.count
        else f"they have {rows.count} and {of_head.rows.count} rows; the first {count} are compared"
    )
    if not len(ids):
        return Agreement("compared", head.name, "no row is finite and other than 0 in both")
    usable_cosines = np.clip(cosines[ids], -1.0, 1.0)
    order = np.argsort(usable_cosines, kind="stable")
    pick = [(int(ids[i]), float(usable_cosines[i])) for i in order]
    return Agreement(
        "compared",
        head.name,
        reason,
        len(ids),
        float(usable_cosines.mean()),
        tuple(pick[:EXTREMES]),
        tuple(pick[::-1][:EXTREMES]),
        _correlation(norms[ids], of_head.norms[ids]),
    )


def _correlation(a: Array, b: Array) -> float | None:
    """Pearson's, of positive numbers that may be near the ends of float64's range."""
    a, b = a / a.max(), b / b.max()
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / size if len(a) > 1 and size > 0 else None
