"""Breaks of the curve of clusters are tried again: those of a fit that was caught go, those of the rows stay."""

from __future__ import annotations

import numpy as np
import pytest
from embedding_models import planted

from netweight.jobs.embeddings.search import BREAK, Fit, contrasts, fit_all, fit_from, one_thread_each
from netweight.jobs.embeddings.splits import refit_breaks
from netweight.run.threads import ThreadExecutor


def total(x) -> float:
    return float(np.sum((x - x.mean(axis=0)).astype(np.float64) ** 2))


def caught(x, fits: dict[int, Fit], after: int) -> None:
    """Fits above `after` as k-means may leave them: the centres of `after`, and some that hold a single row each."""
    far = np.argsort(-np.linalg.norm(x, axis=1))
    for more, k in enumerate([k for k in fits if k > after], 1):
        fits[k] = fit_from(x, np.concatenate([fits[after].centres, x[far[:more]]]))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_break_of_a_fit_that_was_caught_goes(workers) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (4000, 2)).astype(np.float32)  # no groups: every further cluster explains a bit less
    x[:8] *= 2.5
    ks = range(2, 10)
    with one_thread_each():
        executor = ThreadExecutor(workers)
        fits = fit_all(x, range(2, 13), 0, executor, lambda _: None)
        caught(x, fits, 6)
        before = contrasts(ks, {1: total(x), **{k: f.inertia for k, f in fits.items()}})
        refit_breaks(x, fits, ks, total(x), 0, executor)
        after = contrasts(ks, {1: total(x), **{k: f.inertia for k, f in fits.items()}})
    assert before[6] >= BREAK
    assert all(value < BREAK for k, value in after.items() if k > 4)
    for k, fit in fits.items():
        labels = np.argmin(((x[:, None] - fit.centres[None]) ** 2).sum(axis=2), axis=1)
        assert fit.inertia == pytest.approx(((x - fit.centres[labels]) ** 2).sum(), rel=1e-4)
        assert len(fit.centres) == k == len(fit.counts)


def test_a_break_of_the_rows_stays() -> None:
    x, _ = planted(1500, 16, 7, apart=8)
    with one_thread_each():
        executor = ThreadExecutor(2)
        fits = fit_all(x, range(2, 13), 0, executor, lambda _: None)
        refit_breaks(x, fits, range(2, 10), total(x), 0, executor)
    found = contrasts(range(2, 10), {1: total(x), **{k: f.inertia for k, f in fits.items()}})
    assert max(found, key=found.get) == 7
    assert found[7] > 4 * BREAK
