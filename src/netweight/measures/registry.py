"""Measures by name. Adding one is a file in this folder, which ends with its row, and the file's name here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module

from netweight.errors import OptionError, did_you_mean, printable
from netweight.measures.measure import Measure

__all__ = ["BY_NAME", "COMPARED", "DRAWN", "NAMES", "SCANNED", "Measure", "choose", "drawn_beside", "find", "needed"]

COMPARED = (
    "basic_stats",
    "spectral",
    "quantization",
    "sparsity",
    "tail",
    "bulk",
)
"""Measures of a scan that `compare` has, too."""

SCANNED = (*COMPARED, "within")
"""The measures of a scan, in the order of their columns everywhere. Each is imported when it is first asked for."""

DRAWN = ("histogram", "singular_values")
"""Measures that are only drawn, and for a page."""

BY_NAME = ("formats", "randomize", "slices", *DRAWN)
"""Measures of a scan that are none of "all"."""

_ELSEWHERE = {
    "basic": "basic_stats",
    "stats": "basic_stats",
    "statistics": "basic_stats",
    "svd": "spectral",
    "spectrum": "spectral",
    "rank": "spectral",
    "quant": "quantization",
    "quantisation": "quantization",
    "zeros": "sparsity",
    "pruning": "sparsity",
    "alpha": "tail",
    "weightwatcher": "tail",
    "powerlaw": "tail",
    "power-law": "tail",
    "gguf": "formats",
    "fp8": "formats",
    "mp_fit": "bulk",
    "mp-fit": "bulk",
    "marchenko-pastur": "bulk",
    "random": "randomize",
    "randomise": "randomize",
    "shuffle": "randomize",
    "heads": "within",
    "codes": "within",
    "tokens": "within",
    "grid": "within",
    "traps": "randomize",
    "every": "all",
}
"""Words that people know from elsewhere."""

NAMES = ("change", "drift", "update", *SCANNED, *BY_NAME)
"""Every measure."""


@cache
def find(name: str) -> Measure:
    """The measure of this name; raises OptionError where there is none."""
    if name not in NAMES:
        raise OptionError(f"no measure {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}")
    measure: Measure = import_module(f"netweight.measures.{name}").MEASURE
    return measure


def choose(methods: str | Sequence[str], known: Sequence[str] = SCANNED) -> tuple[str, ...]:
    """The measures that --methods names, of those `known`, in their order; "all" are SCANNED. Raises OptionError."""
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in (*known, "all"):
            hint = did_you_mean(name, known, _ELSEWHERE)
            raise OptionError(f"--methods: no method '{printable(name)}'{hint}; there are {', '.join(known)} and all")
    if not names:
        raise OptionError(f"--methods: expected one or more of {', '.join(known)} and all, got none")
    return tuple(name for name in known if name in names or ("all" in names and name in SCANNED))


def drawn_beside(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """What can be drawn of the statistics that these measures need anyway, but for what is one of them."""
    measures = tuple(measures)
    needs = needed(measures)
    counted = any(need.startswith("values.") for need in needs)
    found = [find("histogram")] * counted + [find("singular_values")] * ("spectrum" in needs)
    return tuple(measure for measure in found if measure not in measures)


def needed(measures: Iterable[Measure]) -> frozenset[str]:
    """The union of the statistics that these measures need, so that one pass serves them all."""
    return frozenset().union(*(m.needs for m in measures))
