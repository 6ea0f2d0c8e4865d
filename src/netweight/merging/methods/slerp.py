"""Interpolation between two vectors along the arc (Shoemake, Animating rotation with quaternion curves, 1985).

With theta the angle between x_0 and x_1: (sin((1 - t) theta) x_0 + sin(t theta) x_1) / sin(theta). The vectors are not
normalised, so that their lengths are interpolated too. It is linear, (1 - t) x_0 + t x_1, where cos theta < -0.9995
(opposite: no arc is shorter than the others), where a vector is zero or empty and has no direction, and where the inner
products are not finite: then NaN stay where they are. `slerp` is linear where cos theta > 0.9995 too, as it is
everywhere; `nuslerp` is not.
"""

from __future__ import annotations

from functools import partial
from math import inf, pi

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.merging.course import Copy, Course, Subject, without_looks
from netweight.merging.grams import ColumnGramLook, GramLook
from netweight.merging.method import Base, Method, Setting
from netweight.merging.methods.linear import WEIGHT, normalized
from netweight.merging.writes import ColumnCombine, RowCombine, combination
from netweight.statistics.rounding_error import cosine_error

__all__ = ["METHODS", "OPPOSITE", "slerp_coefficients"]


OPPOSITE = -0.9995
"""Vectors of a lower cosine are opposite: no arc between them is better than others."""

_PARALLEL = 0.9995


def slerp_coefficients(gram: F64Array, t: float, *, parallel: float = inf) -> F64Array:
    """float64 [..., 2]: the coefficients of x_0 and x_1 for their Gram matrices float64 [..., 2, 2]; linear where their
    cosine is above `parallel`.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cos = gram[..., 0, 1] / (np.sqrt(gram[..., 0, 0]) * np.sqrt(gram[..., 1, 1]))
        curved = (cos >= OPPOSITE) & (cos <= parallel)
    # linear where theta is 0, as the limit is: sin(t theta) / sin(theta) = t sinc(t theta) / sinc(theta)
    theta = np.arccos(np.minimum(np.where(curved, cos, 1), 1))[..., None]
    parts = np.array([1 - t, t])
    return parts * (np.sinc(parts * theta / pi) / np.sinc(theta / pi))


def _slerp(subject: Subject) -> Course:
    t = float(subject.settings["t"])
    if t in {0.0, 1.0}:
        return without_looks(Copy(int(t)))
    return _whole(subject, t, parallel=_PARALLEL, base=False)


def _whole(subject: Subject, t: float, *, parallel: float, base: bool) -> Course:
    a, b = slerp_coefficients((yield GramLook(differences=base)), t, parallel=parallel).tolist()
    if base:
        return combination((1 - a - b, a, b), total=1.0, base=True)
    return combination((a, b), error=cosine_error(subject.size))


def _nuslerp(subject: Subject) -> Course:
    _, t = normalized(subject, "nuslerp", "change them: the second one's share is t")
    if t in {0.0, 1.0}:
        return without_looks(Copy(int(t) + subject.base))
    if subject.settings["nuslerp_flatten"] or len(subject.shape) <= 1 or not subject.size:
        return _whole(subject, t, parallel=inf, base=subject.base)
    if subject.settings["nuslerp_row_wise"]:
        return without_looks(RowCombine(subject.cols, partial(slerp_coefficients, t=t), subject.base))
    return _columns(subject, t)


def _columns(subject: Subject, t: float) -> Course:
    grams = yield ColumnGramLook(subject.cols, differences=subject.base)
    return ColumnCombine(slerp_coefficients(grams, t), subject.base)


METHODS = (
    Method(
        name="slerp",
        title="Spherical interpolation",
        formula="(sin((1-t) a) base + sin(t a) x) / sin(a), a = the angle between them; linear where |cos a| > 0.9995",
        source="Shoemake 1985, Animating rotation with quaternion curves",
        base=Base.REQUIRED,
        models=(1, 1),
        settings=(Setting("t", "How far along the arc: 0 is the base, 1 the other model."),),
        course=_slerp,
    ),
    Method(
        name="nuslerp",
        title="Spherical interpolation by weights, of models or task vectors, whole or by rows or columns",
        formula="slerp of x_1 and x_2, or base + slerp of d_1 and d_2, with t = w_2 / (w_1 + w_2)",
        source="mergekit, docs/merge_methods.md",
        base=Base.OPTIONAL,
        models=(2, 2),
        settings=(
            WEIGHT,
            Setting(
                "nuslerp_flatten",
                "Whether a parameter is one vector; else each of its columns is (see nuslerp_row_wise).",
                kind="flag",
                default=True,
            ),
            Setting(
                "nuslerp_row_wise",
                "Whether, without nuslerp_flatten, each row (its elements adjoin) is a vector instead of each column.",
                kind="flag",
                default=False,
            ),
        ),
        course=_nuslerp,
    ),
)
