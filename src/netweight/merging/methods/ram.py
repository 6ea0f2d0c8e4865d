"""Reinforced Agent Merging: average what several models changed, keep what one model alone changed
(arXiv 2601.13572).

A model changed an element where it differs from the base by more than `epsilon`. The sum of the base and the mean of
the c differences is the mean of the c values themselves, which is what is computed: an element that one model alone
changed comes out as it is in that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.protocol import CHUNK
from netweight.merging.course import Course, Subject, without_looks
from netweight.merging.method import Base, Method, Setting

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["METHODS"]


_STEP = 2 * CHUNK  # elements at a time: all that lies between stays in the cache


def _changes(x: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """(differences [models, count] in the type of `x`, whether each is a change, by how many models each element was
    changed). NaN is no change.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        d = x[1:] - x[0]
        changed = np.abs(d) > x.dtype.type(epsilon)
    kind = np.uint8 if len(d) < 256 else np.uint32
    return d, changed, np.add.reduce(changed.view(np.uint8), axis=0, dtype=kind)


@dataclass(frozen=True)
class _Counts:
    """A look: int64 [2, models], the elements that a model changed as others did, and those that it alone changed."""

    epsilon: float
    in_any_order: ClassVar[bool] = True
    whole_rows: bool = False

    def empty(self, inputs: int) -> Array:
        return np.zeros((2, inputs - 1), np.int64)

    def add(self, statistic: Array, x: Array, start: int, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        for first in range(0, x.shape[1], _STEP):
            _, changed, models = _changes(x[:, first : first + _STEP], self.epsilon)
            alone = models == 1
            for i, own in enumerate(changed):
                unique = np.count_nonzero(own & alone)
                statistic[:, i] += np.count_nonzero(own) - unique, unique

    def merged(self, statistics: Sequence[Array]) -> Array:
        total: Array = np.sum(statistics, axis=0)
        return total


@dataclass(frozen=True)
class _Mean:
    """The write: the mean of the models that changed an element, the base's where none did; NaN stays.

    What model i alone changed is moved on by `boosts[i]` times its difference.
    """

    epsilon: float
    boosts: tuple[float, ...]
    whole_rows: bool = False
    inputs: tuple[int, ...] | None = None

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        for first in range(0, x.shape[1], _STEP):
            part = x[:, first : first + _STEP]
            d, changed, models = _changes(part, self.epsilon)
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                total = np.zeros(part.shape[1])
                for value, own in zip(part[1:], changed, strict=True):
                    total += value * own  # NaN times 0 is NaN
                if any(self.boosts):
                    further = np.zeros(part.shape[1])
                    for boost, difference, own in zip(self.boosts, d, changed, strict=True):
                        if boost:
                            further += boost * (difference * own)
                    total += np.where(models == 1, further, 0)
                # the sum is +0 where nothing changed: less it, the base keeps the sign of its zero
                out[first : first + _STEP] = np.where(models == 0, part[0] - total, total / models)


def _ram(subject: Subject) -> Course:
    return without_looks(_Mean(float(subject.settings["epsilon"]), (0.0,) * subject.models))


def _ramplus(subject: Subject) -> Course:
    epsilon, r, alpha = (float(subject.settings[name]) for name in ("epsilon", "r", "alpha"))
    shared, unique = yield _Counts(epsilon)
    boosts = (
        # without an element of its own a model has nothing to move on
        r * min(int(common) / max(int(own), epsilon), alpha) if own else 0.0
        for common, own in zip(shared, unique, strict=True)
    )
    return _Mean(epsilon, tuple(boosts))


_EPSILON = Setting(
    "epsilon",
    "A model changed an element where it differs from the base by more than this. The bound is absolute, whatever the"
    " scale of the weights: smaller changes are left out, however many they are; 0 takes every change.",
    default=1e-5,
    low=0.0,
)

METHODS = (
    Method(
        name="ram",
        title="Reinforced Agent Merging",
        formula="base + sum_A(d_i) / c, A = the c models with |d_i| > epsilon; the base where there is none",
        source="arXiv 2601.13572",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(_EPSILON,),
        course=_ram,
    ),
    Method(
        name="ramplus_tl",
        title="Reinforced Agent Merging that strengthens what one model alone changed",
        formula="ram; where c = 1, base + (1 + r min(rho_i, alpha)) d_i, "
        "rho_i = number of elements of A_i with c > 1 / number with c = 1",
        source="arXiv 2601.13572",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(
            _EPSILON,
            Setting("r", "How much rho_i adds to what model i alone changed.", default=0.1),
            Setting("alpha", "The largest rho_i that counts.", default=0.2, low=0.0),
        ),
        course=_ramplus,
    ),
)
