"""Model Stock: between the base and the average of its fine-tunes, as far as the angle between these says
(arXiv 2403.19522).

c is the mean cosine of pairs of task vectors; t = N c / (1 + (N - 1) c) is not clamped: negative where they point
apart. A zero task vector is at right angles to the others (c = 0). Where the task vectors cancel, 1 + (N - 1) c <=
0.0005, no t is right, and the base stays. Where their inner products are not finite, t is 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.merging.course import Course, Subject, without_looks
from netweight.merging.grams import GramLook
from netweight.merging.method import Base, Method, Setting
from netweight.merging.writes import RowCombine, combination
from netweight.statistics.rounding_error import cosine_error

__all__ = ["METHODS", "stock_ratio"]


_CANCEL = 5e-4
_NEAR_ONE = 1e-12


def stock_ratio(gram: F64Array, terms: int) -> F64Array:
    """t float64 [...] for the Gram matrices float64 [..., n, n] of n task vectors, sums of `terms` products."""
    n = gram.shape[-1]
    i, j = np.triu_indices(n, 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
        lengths = norms[..., i] * norms[..., j]
        cosines = np.where(lengths > 0, np.clip(gram[..., i, j] / lengths, -1, 1), lengths)
        c = sum(cosines[..., k] for k in range(len(i))) / len(i)  # one after the other, whatever the shape
        c = np.where(np.abs(c - 1) <= max(_NEAR_ONE, cosine_error(terms)), 1.0, c)
        t = np.where(1 + (n - 1) * c > _CANCEL, n * c / (1 + (n - 1) * c), 0.0)
    return np.where(np.isfinite(gram).all(axis=(-2, -1)), t, 1.0)


def _model_stock(subject: Subject) -> Course:
    if subject.settings["filter_wise"] and len(subject.shape) > 1 and subject.size:
        return without_looks(RowCombine(subject.cols, partial(_by_rows, terms=subject.cols), base=True))
    return _whole(subject)


def _by_rows(grams: F64Array, terms: int) -> F64Array:
    n = grams.shape[-1]
    return np.repeat(stock_ratio(grams, terms)[:, None] / n, n, axis=1)


def _whole(subject: Subject) -> Course:
    t = float(stock_ratio((yield GramLook(differences=True)), subject.size))
    return combination((1 - t, *[t / subject.models] * subject.models), total=1.0, base=True)


METHODS = (
    Method(
        name="model_stock",
        title="Model Stock",
        formula="t mean(x_i) + (1 - t) base, t = N c / (1 + (N - 1) c), c = the mean cosine of pairs of d_i",
        source="arXiv 2403.19522",
        base=Base.REQUIRED,
        models=(2, None),
        settings=(Setting("filter_wise", "Whether every row has its own t.", kind="flag", default=False),),
        course=_model_stock,
    ),
)
