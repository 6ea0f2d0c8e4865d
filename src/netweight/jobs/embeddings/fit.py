"""The clusters of all rows for one k, their silhouettes and the plane that they are drawn in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.jobs.embeddings.rows import Rows, distances_to
from netweight.jobs.embeddings.search import partitions

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor
    from netweight.statistics.partition import Partition


__all__ = ["MOST_ITERATIONS", "Clusters", "Plane", "Silhouettes", "fit_rows", "plane_of", "silhouettes"]

MOST_ITERATIONS = 100
"""Over all rows."""

TOLERANCE = 1e-4
"""The fit has converged where the centres' squared moves add up to less than this part of the mean variance."""

NO_CLUSTER = -1
"""The label of a row that is not finite."""


@dataclass(frozen=True)
class Clusters:
    """`labels` int64 [rows], NO_CLUSTER for rows that are left out, the largest cluster first; `centres` float64
    [k, cols], centred and scaled as the rows were; `distances` float64 [rows] to the row's centre, as stored, NaN where
    left out.

    `iterations` over all rows; `converged`: the centres had come to rest before the most iterations were done.
    """

    labels: Array
    centres: Array
    distances: Array
    partition: Partition
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Silhouettes:
    """`mean` of a sample of `rows` rows, and of those in each cluster; NaN where it is not defined."""

    rows: int
    mean: float
    clusters: tuple[float, ...]


@dataclass(frozen=True)
class Plane:
    """Rows of a sample on their two leading principal axes: `x`, `y` float64, `shares` of the sample's variance."""

    numbers: Array
    x: Array
    y: Array
    shares: tuple[float, float]


def fit_rows(rows: Rows, centres: Array, executor: Executor, done: Callable[[], None]) -> Clusters:
    """Lloyd's iterations over all rows, from `centres` [k, cols]; `done` is called after each.

    Ends where no row changes its cluster, or the centres move by less than TOLERANCE allows. A centre that loses all
    its rows stays where it was.
    """
    import numpy as np

    fixed = np.asarray(centres, np.float64)
    labels = np.full(rows.count, NO_CLUSTER, np.int64)
    before = labels.copy()
    iterations, converged = 0, False
    while True:
        (partition,) = partitions(rows, [fixed], executor, labels)
        done()
        moved = partition.means(fixed)
        shift = float(((moved - fixed) ** 2).sum())
        same = bool((labels == before).all())
        if converged or iterations == MOST_ITERATIONS or same:
            converged = converged or same
            break  # these labels are those of the centres `fixed`
        iterations += 1
        converged = shift <= TOLERANCE * partition.total_ss / partition.rows / rows.cols
        fixed, before = moved, labels.copy()
    filled = np.flatnonzero(partition.counts)
    order = filled[np.argsort(-partition.counts[filled], kind="stable")]
    number = np.full(len(fixed) + 1, NO_CLUSTER)  # the last entry is that of label -1
    number[order] = np.arange(len(order))
    labels, fixed = number[labels], fixed[order]
    partition = type(partition)(partition.counts[order], partition.sums[order], partition.squares)
    return Clusters(labels, fixed, distances_to(rows, labels, fixed, executor), partition, iterations, converged)


def silhouettes(sample: Array, labels: Array, k: int) -> Silhouettes:
    """scikit-learn's silhouette of the rows of `sample` float32 [rows, cols], Euclidean; inside `one_thread_each`."""
    import numpy as np
    import sklearn
    from sklearn.metrics import silhouette_samples

    present = len(np.unique(labels))
    if not 2 <= present < len(labels):
        return Silhouettes(len(labels), math.nan, (math.nan,) * k)
    with sklearn.config_context(working_memory=64):
        scores = silhouette_samples(sample, labels)
    of = [scores[labels == number] for number in range(k)]
    return Silhouettes(len(labels), float(scores.mean()), tuple(float(v.mean()) if len(v) else math.nan for v in of))


def plane_of(sample: Array, numbers: Array, scale: float = 1.0) -> Plane:
    """The two leading principal axes of `sample` float32 [rows, cols], by ARPACK from a fixed start; the sign of each
    is such that the coordinate farthest from 0 is positive. `scale`: what the sample was multiplied by.
    """
    import numpy as np
    from scipy.linalg import eigh
    from scipy.sparse.linalg import LinearOperator, eigsh

    centred = sample - sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    whole = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    cols = sample.shape[1]
    if whole == 0 or cols < 2:
        x = centred[:, 0].astype(np.float64) / scale if cols else np.zeros(len(sample))
        return Plane(numbers, x, np.zeros(len(sample)), (1.0 if whole else 0.0, 0.0))
    if cols <= 16:
        _, axes = eigh(centred.T.astype(np.float64) @ centred.astype(np.float64), subset_by_index=[cols - 2, cols - 1])
    else:
        gram = LinearOperator((cols, cols), matvec=lambda v: centred.T @ (centred @ v.ravel()), dtype=np.float32)
        start = np.linspace(1.0, 2.0, cols, dtype=np.float32)
        _, axes = eigsh(gram, k=2, v0=start, tol=1e-3)
    placed = centred.astype(np.float64) @ axes[:, ::-1]
    placed *= np.where(placed.max(axis=0) >= -placed.min(axis=0), 1.0, -1.0)
    shares = (placed**2).sum(axis=0) / whole
    return Plane(numbers, placed[:, 0] / scale, placed[:, 1] / scale, (float(shares[0]), float(shares[1])))
