"""Model Breadcrumbs: drop the largest and the smallest elements of task vectors (arXiv 2312.06795).

The greatest gamma of the magnitudes are dropped (the paper's beta), and as many of the smallest that `density` is
kept. Where both cannot be, gamma gives way: at most 1 - density are dropped. Elements equal to the smallest or the
greatest kept one are all kept.
"""

from __future__ import annotations

from functools import partial

from netweight.merging.course import Course, Subject
from netweight.merging.method import Base, Method, Setting
from netweight.merging.select import count_of, kept_of, select_magnitudes
from netweight.merging.trims import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    RESCALE_BY_SUMS,
    WEIGHT,
    keep_all,
    keep_between,
    keep_nothing,
    normalize,
    rescaled,
    sum_of,
)

__all__ = ["METHODS"]

_GAMMA = Setting(
    "gamma",
    "Share of the task vector's elements, the largest, that is dropped.",
    per_model=True,
    default=0.01,
    low=0.0,
    high=1.0,
)


def _breadcrumbs(subject: Subject, *, elect: bool) -> Course:
    size = subject.size
    kept = [kept_of(float(own["density"]), size) for own in subject.model_settings]
    ranks = []
    for own, k in zip(subject.model_settings, kept, strict=True):
        dropped = min(count_of(float(own["gamma"]), size), size - k)
        ranks.append([size - k - dropped, size - dropped - 1] if 0 < k < size else [])
    thresholds = yield from select_magnitudes(subject, ranks)
    trims = []
    for own, k, values in zip(subject.model_settings, kept, thresholds, strict=True):
        weight = float(own["weight"])
        trims.append(keep_between(weight, *values) if values else (keep_nothing, keep_all)[k == size](weight))
    if subject.settings["rescale"] and any(k < size for k in kept):
        trims = yield from rescaled(trims)
    return sum_of(subject, trims, elect=elect)


METHODS = tuple(
    Method(
        name=name,
        title=title,
        formula=formula + ", v_i = d_i without its top gamma and its smallest magnitudes",
        source="arXiv 2312.06795",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(WEIGHT, DENSITY, _GAMMA, LAMBDA, normalize(default=False), RESCALE_BY_SUMS, INT8_MASK),
        course=partial(_breadcrumbs, elect=elect),
    )
    for name, title, formula, elect in (
        ("breadcrumbs", "Model Breadcrumbs, summed", "base + lambda * sum(w_i v_i)", False),
        (
            "breadcrumbs_ties",
            "Model Breadcrumbs with an elected sign",
            "base + lambda * sum_A(w_i v_i), A as in ties",
            True,
        ),
    )
)
