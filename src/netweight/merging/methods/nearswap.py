"""Nearswap: take the other model where it is near the base, else one step of t towards it
(huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from netweight.merging.course import Copy, Course, Subject, without_looks
from netweight.merging.method import Base, Method, Setting

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.kernels.merging import MergeKernels

__all__ = ["METHODS"]


@dataclass(frozen=True)
class _Nearswap:
    t: float
    whole_rows: bool = False
    inputs: tuple[int, ...] | None = None

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        t = x.dtype.type(self.t)
        with np.errstate(invalid="ignore", over="ignore"):
            d = x[1] - x[0]
            out[:] = np.where(np.abs(d) <= t, x[1], x[0] + t * np.sign(d))


def _nearswap(subject: Subject) -> Course:
    t = float(subject.settings["t"])
    return without_looks(_Nearswap(t) if t else Copy(0))


METHODS = (
    Method(
        name="nearswap",
        title="Nearswap",
        formula="base + d min(1, t / |d|): the other model where |d| <= t, else base + t sgn(d)",
        source="huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        base=Base.REQUIRED,
        models=(1, 1),
        settings=(Setting("t", "How far an element may move.", low=0.0),),
        course=_nearswap,
    ),
)
