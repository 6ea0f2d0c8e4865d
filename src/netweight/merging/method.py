"""What a merge method declares: inputs, settings and their bounds, source, and course."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from netweight.merging.course import Course, Subject, Value

__all__ = ["Base", "Method", "Setting"]


class Base(Enum):
    """What the base model is to a method."""

    REQUIRED = "required"  # input 0; the others are its fine-tunes
    OPTIONAL = "optional"  # input 0 where the recipe names one
    UNUSED = "unused"  # only config and tokenizer come from it


@dataclass(frozen=True)
class Setting:
    """One parameter of a method, under its name in recipes.

    `per_model`: every model has its own. `kind` is "number", "integer" or "flag". `default` None: it must be given.
    Numbers lie in `low` to `high`, both included, or excluded where `open_low` or `open_high` say so.
    """

    name: str
    text: str
    per_model: bool = False
    kind: str = "number"
    default: Value | None = None
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False


@dataclass(frozen=True)
class Method:
    """One row of the registry. `models` is the least and the greatest number of inputs besides the base (None: any)."""

    name: str
    title: str
    formula: str
    source: str
    base: Base
    models: tuple[int, int | None]
    settings: tuple[Setting, ...]
    course: Callable[[Subject], Course]
    random: bool = False
