"""TIES-Merging: keep the largest elements, elect a sign, average those that agree (arXiv 2306.01708).

Elements as large as the smallest kept one are all kept, as in the authors' code: the result then depends on no order.
"""

from __future__ import annotations

from netweight.merging.course import Course, Subject
from netweight.merging.method import Base, Method
from netweight.merging.select import kept_of, select_magnitudes
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


def _ties(subject: Subject) -> Course:
    size = subject.size
    kept = [kept_of(float(own["density"]), size) for own in subject.model_settings]
    thresholds = yield from select_magnitudes(subject, [[size - k] if 0 < k < size else [] for k in kept])
    trims = []
    for own, k, values in zip(subject.model_settings, kept, thresholds, strict=True):
        weight = float(own["weight"])
        trims.append(keep_between(weight, values[0]) if values else (keep_nothing, keep_all)[k == size](weight))
    if subject.settings["rescale"] and any(k < size for k in kept):
        trims = yield from rescaled(trims)
    return sum_of(subject, trims, elect=True)


METHODS = (
    Method(
        name="ties",
        title="TIES-Merging",
        formula="base + lambda * sum_A(w_i v_i) / sum_A(w_i), v_i = the top density of d_i, "
        "A = those with sgn(w_i v_i) = sgn(sum w_i v_i)",
        source="arXiv 2306.01708",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(WEIGHT, DENSITY, LAMBDA, normalize(default=True), RESCALE_BY_SUMS, INT8_MASK),
        course=_ties,
    ),
)
