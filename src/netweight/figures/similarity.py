"""An order of rows in which similar ones are neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["similarity_order"]


def similarity_order(matrix: Sequence[Sequence[float | None]]) -> list[int]:
    """The leaf order of average-linkage clustering of a symmetric matrix of similarities; equal input, equal order.

    None and NaN count as 0, and rows of nothing else come last. Of the four ways to join two clusters the one whose
    touching ends are most alike is taken; the result starts at the end that holds the lower index.
    """
    alike = [[_number(cell) for cell in row] for row in matrix]
    blank = [
        i for i, row in enumerate(matrix) if all(_missing(c) for j, c in enumerate(row) if j != i) and len(row) > 1
    ]
    rest = [i for i in range(len(matrix)) if i not in blank]
    clusters = {i: [i] for i in rest}
    between = {(i, j): alike[i][j] for i in rest for j in rest if i < j}
    while len(clusters) > 1:
        first, second = min(between, key=lambda pair: (-between[pair], pair))
        a, b = clusters[first], clusters[second]
        for other in clusters.keys() - {first, second}:
            one, two = _pair(first, other), _pair(second, other)
            between[one] = (between[one] * len(a) + between.pop(two) * len(b)) / (len(a) + len(b))
        del between[first, second], clusters[second]
        ways = [(x, y) for x in (a, a[::-1]) for y in (b, b[::-1])]
        before, after = max(ways, key=lambda way: alike[way[0][-1]][way[1][0]])
        clusters[first] = before + after
    order = next(iter(clusters.values()), [])
    return (order if not order or order[0] <= order[-1] else order[::-1]) + blank


def _pair(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _missing(cell: float | None) -> bool:
    return cell is None or math.isnan(cell)


def _number(cell: float | None) -> float:
    return 0.0 if cell is None or math.isnan(cell) else float(cell)
