"""Measures by name. Adding one is a file in this folder, which ends with its row, and the file's name here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module

from netweight.errors import OptionError, did_you_mean, printable
from netweight.measures.measure import Measure

__all__ = ["NAMES", "SCANNED", "Measure", "choose", "find", "needed"]

SCANNED = (
    "basic_stats",
    "spectral",
    "quantization",
    "sparsity",
    "tail",
)
"""The measures of a scan, in the order of their columns everywhere. Each is imported when it is first asked for."""

NAMES = ("change", "drift", "update", *SCANNED)
"""Every measure."""


@cache
def find(name: str) -> Measure:
    """The measure of this name; raises OptionError where there is none."""
    if name not in NAMES:
        raise OptionError(f"no measure {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}")
    measure: Measure = import_module(f"netweight.measures.{name}").MEASURE
    return measure


def choose(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The measures of a scan that --methods names, "all" among the names, in their fixed order; raises OptionError."""
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in (*SCANNED, "all"):
            hint = did_you_mean(name, SCANNED)
            raise OptionError(f"--methods: no method '{printable(name)}'{hint}; there are {', '.join(SCANNED)} and all")
    if not names:
        raise OptionError(f"--methods: expected one or more of {', '.join(SCANNED)} and all, got none")
    return tuple(name for name in SCANNED if name in names or "all" in names)


def needed(measures: Iterable[Measure]) -> frozenset[str]:
    """The union of the statistics that these measures need, so that one pass serves them all."""
    return frozenset().union(*(m.needs for m in measures))
