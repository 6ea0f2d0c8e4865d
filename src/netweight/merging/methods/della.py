"""DELLA: drop elements of task vectors at random, small ones more often, and scale the others up (arXiv 2406.11617).

An element's chance to be kept grows evenly with the rank of its magnitude in its row, from density - epsilon to
density + epsilon; equal magnitudes rank by position, NaN last. A vector is one row; a row of one element has the
chance `density`. A density of 1 keeps everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from netweight.errors import OptionError, printable
from netweight.kernels.arrays import Array
from netweight.kernels.merging import Trim
from netweight.merging.course import Copy, Course, Subject, Write, without_looks
from netweight.merging.method import Base, Method, Setting
from netweight.merging.trims import DENSITY, INT8_MASK, LAMBDA, WEIGHT, TrimmedSum, normalize, sum_of

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["METHODS"]


_EPSILON = Setting(
    "epsilon",
    "How far the chance to be kept departs from the density.",
    per_model=True,
    default=0.15,
    low=0.0,
    high=1.0,
)
_RESCALE = Setting("rescale", "Whether kept elements are divided by their chance.", kind="flag", default=True)


@dataclass(frozen=True)
class _Della:
    """A trimmed sum with a chance for every element; `ranges` are the least and greatest chance, one pair a trim."""

    total: TrimmedSum
    ranges: tuple[tuple[float, float], ...]
    cols: int
    rescale: bool
    whole_rows: bool = True

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.total.inputs

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:
        total = self.total
        keep = np.empty((len(x) - 1, x.shape[1]), np.float32)
        for own, (least, greatest), trim, other in zip(keep, self.ranges, total.trims, x[1:], strict=True):
            _spread(other, x[0], _chances(least, greatest, self.cols), own.reshape(-1, self.cols))
            if not self.rescale:  # what is drawn here is certain to be kept there, and divided by 1
                own[:] = _random(trim.key, start, len(own)) < np.rint(own * 2.0**32)
        kernels.merge_differences(
            x,
            total.trims,
            start,
            elect=total.elect,
            normalize=total.normalize,
            scale=total.scale,
            out=out,
            keep=keep,
        )


def _chances(least: float, greatest: float, cols: int) -> Array:
    """float32 [cols]: the chance of every rank."""
    if cols == 1:
        return np.array([(least + greatest) / 2], np.float32)
    return np.linspace(least, greatest, cols).astype(np.float32)


def _spread(other: Array, base: Array, chances: Array, keep: Array) -> None:
    """keep [rows, cols] = the chances by the rank of |other - base| in its row."""
    if chances[0] == chances[-1]:
        keep[:] = chances[0]
        return
    with np.errstate(invalid="ignore", over="ignore"):
        d = np.abs(other - base).reshape(keep.shape)
    if d.dtype == np.float32:
        # bits above, position below: one sort of distinct integers is many times faster than a stable argsort
        keys = d.view(np.uint32).astype(np.uint64) << np.uint64(32) | np.arange(d.shape[1], dtype=np.uint64)
        keys.sort(axis=1)
        order = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    else:
        order = np.argsort(d.view(np.uint64), axis=1, kind="stable")
    order += np.arange(0, keep.size, keep.shape[1])[:, None]
    keep.reshape(-1)[order] = chances


def _random(key: int, start: int, count: int) -> Array:
    """uint64 [count]: the upper 32 bits of splitmix64(key, element), as `Trim` has them."""
    z = np.uint64(key) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return (z ^ z >> np.uint64(31)) >> np.uint64(32)


def _della(subject: Subject, *, elect: bool) -> Course:
    """Raises OptionError where density and epsilon do not go together."""
    ranges = [_range(subject, model) for model in range(subject.models)]
    return without_looks(_write(subject, ranges, elect=elect))


def _range(subject: Subject, model: int) -> tuple[float, float]:
    density, epsilon = (float(subject.model_settings[model][name]) for name in ("density", "epsilon"))
    if density == 1:
        return 1.0, 1.0
    least, greatest = density - epsilon, density + epsilon
    if not (least > 0 and greatest < 1):
        raise OptionError(
            f"{printable(subject.name)}: the chances density -/+ epsilon of model {model + 1} of {subject.models} must "
            f"lie between 0 and 1, got {density:g} - {epsilon:g} = {least:g} and {density:g} + {epsilon:g} = "
            f"{greatest:g}; lower epsilon, or set density to 1 to keep everything"
        )
    return least, greatest


def _write(subject: Subject, ranges: list[tuple[float, float]], *, elect: bool) -> Write | Copy:
    trims = [Trim(float(own["weight"]), key=key) for own, key in zip(subject.model_settings, subject.keys, strict=True)]
    total = sum_of(subject, trims, elect=elect)
    if isinstance(total, Copy):
        return total
    used = tuple(ranges[i - 1] for i in total.inputs[1:])
    if all(own == (1.0, 1.0) for own in used):
        return total
    return _Della(total, used, subject.cols, bool(subject.settings["rescale"]))


METHODS = tuple(
    Method(
        name=name,
        title=title,
        formula=formula + ", v_i = d_i / p with probability p, else 0; p from density - epsilon to "
        "density + epsilon by the rank of |d_i| in its row",
        source="arXiv 2406.11617",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(WEIGHT, DENSITY, _EPSILON, LAMBDA, normalize(default=elect), _RESCALE, INT8_MASK),
        course=partial(_della, elect=elect),
        random=True,
    )
    for name, title, formula, elect in (
        ("della", "DELLA with an elected sign", "base + lambda * sum_A(w_i v_i), A as in ties", True),
        ("della_linear", "DELLA, summed", "base + lambda * sum(w_i v_i)", False),
    )
)
