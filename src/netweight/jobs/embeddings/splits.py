"""Tests the breaks in the curve of clusters: a larger k is fitted once more, by splitting a cluster.

k-means for a large k may be caught where some centres hold a few far rows each, and explain nearly nothing. The curve
then seems to break before them. Where rows do fall into k groups, a split of one of them explains as little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from netweight.jobs.embeddings.search import BREAK, Fit, contrasts, fit_from, pop

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


__all__ = ["refit_breaks"]

_TRIED = 3  # clusters that are split, each for itself: those with the largest sums of squares
_ROWS = 1 << 12  # whose distances are computed at a time


def refit_breaks(
    sample: Array, fits: dict[int, Fit], ks: Sequence[int], whole: float, seed: int, executor: Executor
) -> None:
    """Fit the two k after every break of `ks` again, from the clusters before with one of them split in two, and keep
    in `fits` the fit of the smaller inertia, until every break has been tried. `whole`: the sum of squares of
    one cluster. Call it inside `one_thread_each`.
    """
    tried: set[int] = set()
    while True:
        sharp = contrasts(ks, {1: whole, **{k: fit.inertia for k, fit in fits.items()}})
        waiting = [k for k in sharp if sharp[k] >= BREAK and k not in tried]
        if not waiting:
            return
        k = max(waiting, key=lambda k: (sharp[k], -k))
        tried.add(k)
        for larger in (k + 1, k + 2):
            if larger in fits:
                splits = [_split(sample, fits[larger - 1], rank, seed) for rank in range(_TRIED)]
                tasks = [(rank, centres) for rank, centres in enumerate(splits) if centres is not None]
                refitted = {rank: fit for (rank, _), fit in executor.run(partial(pop, tasks), partial(_begin, sample))}
                for rank in sorted(refitted):
                    fits[larger] = min(fits[larger], refitted[rank], key=lambda fit: fit.inertia)


def _begin(sample: Array, task: tuple[int, Array]) -> Fit:
    return fit_from(sample, task[1])


def _split(sample: Array, fit: Fit, rank: int, seed: int) -> Array | None:
    """The centres with two for the cluster whose sum of squares within is the largest but `rank`; None where it cannot
    be split.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    labels, squares = _nearest(sample, fit.centres)
    within = np.bincount(labels, weights=squares, minlength=fit.k)
    if rank >= fit.k:
        return None
    chosen = int(np.argsort(-within, kind="stable")[rank])
    members = sample[labels == chosen]
    if within[chosen] <= 0 or len(members) < 2:
        return None
    threadpool_limits(limits=1, user_api="openmp")
    halves = KMeans(2, n_init=1, max_iter=10, random_state=np.random.RandomState([seed, fit.k, rank])).fit(members)
    rest = np.delete(fit.centres, chosen, axis=0)
    joined: Array = np.concatenate([rest, halves.cluster_centers_]).astype(np.float32)
    return joined


def _nearest(sample: Array, centres: Array) -> tuple[Array, Array]:
    """(labels, squared distances float64) of all rows."""
    import numpy as np

    half = 0.5 * np.einsum("ij,ij->i", centres, centres, dtype=np.float64).astype(np.float32)
    labels = np.empty(len(sample), np.int64)
    squares = np.empty(len(sample))
    for start in range(0, len(sample), _ROWS):
        block = sample[start : start + _ROWS]
        nearest = (block @ centres.T - half).argmax(axis=1)
        apart = block - centres[nearest]
        labels[start : start + _ROWS] = nearest
        squares[start : start + _ROWS] = np.einsum("ij,ij->i", apart, apart, dtype=np.float64)
    return labels, squares
