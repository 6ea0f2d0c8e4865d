"""DARE: drop elements of task vectors at random and scale the others up (arXiv 2311.03099)."""

from __future__ import annotations

from functools import partial

from netweight.kernels.merging import Trim
from netweight.merging.course import Course, Subject, without_looks
from netweight.merging.method import Base, Method, Setting
from netweight.merging.trims import DENSITY, INT8_MASK, LAMBDA, WEIGHT, normalize, sum_of

__all__ = ["METHODS"]

_RESCALE = Setting("rescale", "Whether kept elements are divided by the density.", kind="flag", default=True)


def _dare(subject: Subject, *, elect: bool) -> Course:
    trims = []
    for own, key in zip(subject.model_settings, subject.keys, strict=True):
        density = float(own["density"])
        factor = 1 / density if density and subject.settings["rescale"] else 1.0
        trims.append(Trim(float(own["weight"]), keep=density, factor=factor, key=key))
    return without_looks(sum_of(subject, trims, elect=elect))


METHODS = tuple(
    Method(
        name=name,
        title=title,
        formula=formula + ", v_i = d_i / density with probability density, else 0",
        source="arXiv 2311.03099",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(WEIGHT, DENSITY, LAMBDA, normalize(default=False), _RESCALE, INT8_MASK),
        course=partial(_dare, elect=elect),
        random=True,
    )
    for name, title, formula, elect in (
        ("dare_linear", "DARE, summed", "base + lambda * sum(w_i v_i)", False),
        ("dare_ties", "DARE with an elected sign", "base + lambda * sum_A(w_i v_i), A as in ties", True),
    )
)
