"""Chooses the number of clusters: k-means for a range of k on a sample of the rows, F over all rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from netweight.jobs.embeddings.rows import Rows, Stretch, run_in_order
from netweight.statistics.partition import Partition

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


T = TypeVar("T")

__all__ = [
    "BREAK",
    "RESTARTS",
    "SEARCH_ITERATIONS",
    "Choice",
    "Fit",
    "choose",
    "contrasts",
    "different_rows",
    "fit_all",
    "fit_from",
    "one_thread_each",
    "partitions",
    "pop",
]

RESTARTS = 2
"""Fits for each k from different first centres; one more begins with the centres of k + 1, two of them joined. The one
with the least inertia counts."""

SEARCH_ITERATIONS = 20
"""Of one fit to the sample, at most."""

BREAK = 4.0
"""The contrast from which a k stands out: see `choose`."""

BEYOND = 3
"""How many more k are fitted than are tried, so that the last ones have neighbours with neighbours of their own."""


@dataclass(frozen=True)
class Fit:
    """k-means on the sample: `centres` float32 [k, cols] with `counts` rows each, `inertia` their sum of squares
    within, `iterations` taken.
    """

    k: int
    centres: Array
    counts: Array
    inertia: float
    iterations: int


@dataclass(frozen=True)
class Choice:
    """The chosen k, by which `rule` ("peak", "break", "elbow", "only"), and the `reason` as a sentence."""

    k: int
    rule: str
    reason: str


def different_rows(sample: Array, enough: int) -> int:
    """How many different rows there are, counted up to `enough`."""
    from xxhash import xxh3_128_digest

    seen: set[bytes] = set()
    for row in sample:
        seen.add(xxh3_128_digest((row + 0.0).tobytes()))  # -0.0 is 0.0
        if len(seen) >= enough:
            break
    return len(seen)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Linear algebra on the thread that calls it, so that sums have one order whatever the number of workers."""
    import scipy.linalg  # noqa: F401 - scikit-learn's BLAS, which must be there to be limited
    from sklearn.exceptions import ConvergenceWarning

    from netweight.run.blas import blas_threads

    with blas_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fit_all(
    sample: Array, ks: Sequence[int], seed: int, executor: Executor, done: Callable[[int], None]
) -> dict[int, Fit]:
    """scikit-learn's k-means (Lloyd) on `sample` float32 [rows, cols] for every k.

    Of each restart, the first k centres of one run of k-means++ begin the fit of k: they are what k-means++ for k would
    pick. Another fit begins with the centres of k + 1, two of them joined. Call it inside `one_thread_each`. `done` is
    called with the k of every finished fit.
    """
    import numpy as np
    from sklearn.cluster import kmeans_plusplus
    from threadpoolctl import threadpool_limits

    most = max(ks)
    firsts = iter(range(RESTARTS))

    def begin(restart: int) -> Array:
        threadpool_limits(limits=1, user_api="openmp")  # of this thread alone, which ends with the run
        centres, _ = kmeans_plusplus(sample, most, random_state=np.random.RandomState([seed, restart]))
        first: Array = centres
        return first

    begun = dict(executor.run(lambda: next(firsts, None), begin))
    tasks = [(k, restart) for k in sorted(ks, reverse=True) for restart in range(RESTARTS)]  # the longest first
    left = iter(tasks)
    best: dict[int, tuple[float, int, Fit]] = {}
    work = executor.run(lambda: next(left, None), lambda task: fit_from(sample, begun[task[1]][: task[0]]))
    for (k, restart), fit in work:
        if k not in best or (fit.inertia, restart) < best[k][:2]:
            best[k] = (fit.inertia, restart, fit)
        done(k)
    fits = {k: best[k][2] for k in sorted(ks)}
    for k in sorted(ks, reverse=True)[1:]:
        # Where k-means++ missed a cluster, a larger k has found it, and has split another one, which is joined again.
        tasks_left = [_joined(fits[k + 1])]
        for _, fit in executor.run(partial(pop, tasks_left), partial(fit_from, sample)):
            fits[k] = min(fits[k], fit, key=lambda fit: fit.inertia)
        done(k)
    return fits


def pop(tasks: list[T]) -> T | None:
    """The next task of an executor; None where there is none."""
    return tasks.pop() if tasks else None


def fit_from(sample: Array, first: Array) -> Fit:
    """Lloyd's iterations from the centres `first`, on the calling thread alone."""
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="openmp")
    model = KMeans(len(first), init=first, n_init=1, max_iter=SEARCH_ITERATIONS, tol=0, algorithm="lloyd")
    model.fit(sample)
    counts = np.bincount(model.labels_, minlength=len(first))
    return Fit(len(first), model.cluster_centers_, counts, float(model.inertia_), int(model.n_iter_))


def _joined(fit: Fit) -> Array:
    """The centres with those two made one that add least to the sum of squares within (Ward 1963)."""
    import numpy as np

    centres, sizes = fit.centres.astype(np.float64), np.maximum(fit.counts, 1).astype(np.float64)
    squares = np.einsum("ij,ij->i", centres, centres)
    apart = squares[:, None] + squares[None, :] - 2 * centres @ centres.T
    cost = apart * (sizes[:, None] * sizes[None, :] / (sizes[:, None] + sizes[None, :]))
    cost[np.tril_indices(fit.k)] = np.inf
    a, b = np.unravel_index(int(cost.argmin()), cost.shape)
    centres[a] = (sizes[a] * centres[a] + sizes[b] * centres[b]) / (sizes[a] + sizes[b])
    return np.delete(centres, b, axis=0).astype(np.float32)


def partitions(
    rows: Rows, centres: Sequence[Array], executor: Executor, labels: Array | None = None
) -> list[Partition]:
    """All rows given to the nearest of each of several sets of centres [k, cols], in one reading.

    `labels` int64 [rows] is filled with the clusters of the last set. Distances are compared in float32 of the centred
    rows; sums are float64, by stretch. Call it inside `one_thread_each`.
    """
    import numpy as np

    from netweight.kernels.cpu.cluster_loops import add_by_cluster

    together = np.ascontiguousarray(np.concatenate(centres), np.float32)
    half = 0.5 * np.einsum("ij,ij->i", together, together, dtype=np.float64).astype(np.float32)
    edges = np.concatenate([[0], np.cumsum([len(c) for c in centres])])

    def assign(stretch: Stretch) -> list[Partition]:
        counts = np.zeros(len(together), np.int64)
        sums = np.zeros(together.shape)
        squares = 0.0
        for block, numbers in rows.blocks(stretch):
            scores = block @ together.T
            scores -= half
            for low, high in pairwise(edges):
                nearest = scores[:, low:high].argmax(axis=1)
                add_by_cluster(block, nearest, counts[low:high], sums[low:high])
            if labels is not None:
                labels[numbers] = nearest
            squares += float(np.einsum("ij,ij->", block, block, dtype=np.float64))
        return [Partition(counts[low:high], sums[low:high], squares) for low, high in pairwise(edges)]

    whole: list[Partition] | None = None
    for part in run_in_order(rows, assign, executor):
        whole = part if whole is None else [a.merge(b) for a, b in zip(whole, part, strict=True)]
    assert whole is not None  # noqa: S101 - there is at least one row
    return whole


def choose(ks: Sequence[int], f: Sequence[float], inertia: Mapping[int, float], *, largest_k: int) -> Choice:
    """Choose k by one-way ANOVA. `inertia`: the sample's sums of squares within, by k, from that of one cluster to
    some k BEYOND the last of `ks`; `largest_k`: the largest k asked for.

    In this order: the peak of F, where F rises to it from k = 2 and its contrast is BREAK at least, or no other k's is;
    the k of the largest contrast, where that is BREAK at least; the peak of F; and where F falls from the start without
    a break, as for embeddings whose rows form no separate groups, the elbow: the point farthest below the line between
    the ends of the curve (Satopaa and others 2011). The contrast of k is what the last two clusters up to k explain of
    the sample's sum of squares over what the next two explain.
    """
    known = [(k, value) for k, value in zip(ks, f, strict=True) if not math.isnan(value)]
    if len(known) < 2:
        k = known[0][0] if known else ks[0]
        return Choice(k, "only", f"k = {k} is the only one for which F is defined")
    peak, largest = max(known, key=lambda pair: (pair[1], -pair[0]))
    if math.isinf(largest):
        return Choice(peak, "peak", f"F is infinite at k = {peak}: nothing is left within the clusters")
    sharp = contrasts(ks, inertia)
    broken = max(sharp, key=lambda k: (sharp[k], -k), default=peak)
    is_break = sharp.get(broken, 0.0) >= BREAK
    risen = peak != known[0][0]
    if risen and (sharp.get(peak, 0.0) >= BREAK or not is_break):
        reason = f"F is largest at k = {peak}"
        if peak == largest_k:
            reason += ", the largest k that was tried: a larger --max-k may find a larger F"
        return Choice(peak, "peak", reason)
    if is_break:
        falls = "" if broken == peak else f", though F is largest at k = {peak}"
        times = "infinitely many" if math.isinf(sharp[broken]) else f"{sharp[broken]:.3g}"
        reason = f"a cluster up to k = {broken} explains {times} times what further ones do{falls}"
        return Choice(broken, "break", reason)
    k = _elbow(known)
    return Choice(k, "elbow", f"F falls from k = {peak} on and no k stands out; its curve bends most at k = {k}")


def contrasts(ks: Sequence[int], inertia: Mapping[int, float]) -> dict[int, float]:
    """Mean gain of the last two clusters up to each k over that of the next two, as far as `inertia` has them."""
    left = {1: inertia[1]}
    last = max(inertia)
    for k in range(2, last + 1):
        left[k] = min(inertia[k], left[k - 1])  # a fit may be worse than that of k - 1
    contrast = {}
    for k in ks:
        low, high = max(1, k - 2), min(last, k + 2)
        before = (left[low] - left[k]) / (k - low)
        after = (left[k] - left[high]) / (high - k) if high > k else 0.0
        if after > 0:
            contrast[k] = before / after
        elif high < last and before > 0:  # at the end, the last fit may have gained nothing
            contrast[k] = math.inf
    return contrast


def _elbow(known: Sequence[tuple[int, float]]) -> int:
    (left, high), (right, low) = known[0], known[-1]
    low = min(low, *(value for _, value in known))
    depth = {k: 1 - (k - left) / (right - left) - (value - low) / ((high - low) or 1.0) for k, value in known}
    return max(depth, key=lambda k: (depth[k], -k))
