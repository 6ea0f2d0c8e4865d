"""Weighted sums: of models (model soups, arXiv 2203.05482), of task vectors (arXiv 2212.04089), of one model alone."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from netweight.errors import OptionError, printable
from netweight.merging.course import Course, Subject, without_looks
from netweight.merging.method import Base, Method, Setting
from netweight.merging.writes import combination

__all__ = ["METHODS", "WEIGHT", "cancelled", "normalized", "weights_of"]

WEIGHT = Setting("weight", "How much this model counts; may be negative.", per_model=True)

_CANCELS = 1e-12


def weights_of(subject: Subject) -> tuple[float, ...]:
    """Every model's `weight`."""
    return tuple(float(own["weight"]) for own in subject.model_settings)


def cancelled(weights: Iterable[float]) -> bool:
    """Whether the weights add up to 0, apart from rounding."""
    terms = list(weights)
    return abs(fsum(terms)) <= _CANCELS * fsum(map(abs, terms))


def normalized(subject: Subject, method: str, way_out: str) -> tuple[float, ...]:
    """The weights divided by their sum; raises OptionError where that is 0."""
    weights = weights_of(subject)
    if cancelled(weights):
        listed = ", ".join(f"{w:g}" for w in weights)
        raise OptionError(
            f"{method}: {printable(subject.name)}: expected weights whose sum is not 0, got {listed}: {way_out}"
        )
    total = fsum(weights)
    return tuple(w / total for w in weights)


def _linear(subject: Subject) -> Course:
    if not subject.settings["normalize"]:
        return without_looks(combination(weights_of(subject)))
    way_out = "change them, or set normalize to false"
    return without_looks(combination(normalized(subject, "linear", way_out), total=1.0))


def _task_arithmetic(subject: Subject) -> Course:
    way_out = "change them, or set normalize to false"
    normalize = subject.settings["normalize"]
    weights = normalized(subject, "task_arithmetic", way_out) if normalize else weights_of(subject)
    moves = tuple(float(subject.settings["lambda"]) * w for w in weights)
    return without_looks(combination((1 - fsum(moves), *moves), total=1.0, base=True))


def _passthrough(subject: Subject) -> Course:
    return without_looks(combination([float(subject.model_settings[0]["scale"])]))


METHODS = (
    Method(
        name="linear",
        title="Weighted average of models",
        formula="sum(w_i x_i) / sum(w_i); without normalize sum(w_i x_i)",
        source="arXiv 2203.05482",
        base=Base.UNUSED,
        models=(1, None),
        settings=(
            WEIGHT,
            Setting("normalize", "Whether the sum is divided by the sum of weights.", kind="flag", default=True),
        ),
        course=_linear,
    ),
    Method(
        name="task_arithmetic",
        title="Task arithmetic",
        formula="base + lambda * sum(w_i d_i), d_i = x_i - base; with normalize divided by sum(w_i)",
        source="arXiv 2212.04089",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(
            WEIGHT,
            Setting("lambda", "Factor on the merged task vector before it is added to the base.", default=1.0),
            Setting("normalize", "Whether the sum is divided by the sum of weights.", kind="flag", default=False),
        ),
        course=_task_arithmetic,
    ),
    Method(
        name="passthrough",
        title="One model's parameters as they are",
        formula="scale * x",
        source="mergekit, docs/merge_methods.md",
        base=Base.UNUSED,
        models=(1, 1),
        settings=(Setting("scale", "Factor on this model's parameters.", per_model=True, default=1.0),),
        course=_passthrough,
    ),
)
