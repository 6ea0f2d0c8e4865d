"""Names that differ only by a wrapper's prefix (`model.`, `module.`, `language_model.`), matched without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Prefixes", "find_prefixes"]

_DEPTH = 3  # segments of the longest prefix tried
_TRIED = 12  # prefixes tried on each side
_SAMPLE = 2000  # names by which a pair of prefixes is judged


@dataclass(frozen=True)
class Prefixes:
    """The prefix ignored in each side's names, and the pairs {name in the base: name in the model} without it."""

    base: str
    model: str
    pairs: dict[str, str]


def find_prefixes(base: Sequence[str], model: Sequence[str]) -> Prefixes | None:
    """The pair of prefixes without which most of the smaller side's names match the other side, or None.

    A prefix is whole dotted segments and is taken off where it stands; names without it stay as they are. The
    shortest pair that matches most is taken.
    """
    smaller, larger, swapped = (base, model, False) if len(base) <= len(model) else (model, base, True)
    sample = smaller[:: max(1, len(smaller) // _SAMPLE)]
    best: tuple[int, int, str, str] | None = None
    large_sides = {prefix: {name.removeprefix(prefix) for name in larger} for prefix in _candidates(larger)}
    for small in _candidates(smaller):
        stripped = {name.removeprefix(small) for name in sample}
        for large, names in large_sides.items():
            score = (len(stripped & names), -len(small) - len(large), small, large)
            if best is None or score > best:
                best = score
    if best is None or 2 * best[0] <= len(sample):
        return None
    base_prefix, model_prefix = (best[3], best[2]) if swapped else (best[2], best[3])
    left, right = _stripped(base, base_prefix), _stripped(model, model_prefix)
    pairs = {name: right[short] for short, name in left.items() if short in right}
    return Prefixes(base_prefix, model_prefix, pairs)


def _candidates(names: Sequence[str]) -> list[str]:
    """The prefixes that most names start with, and none."""
    counts: Counter[str] = Counter()
    for name in names[:: max(1, len(names) // _SAMPLE)]:
        end = 0
        for _ in range(_DEPTH):
            end = name.find(".", end) + 1
            if not end:
                break
            counts[name[:end]] += 1
    return ["", *(prefix for prefix, _ in counts.most_common(_TRIED - 1))]


def _stripped(names: Sequence[str], prefix: str) -> dict[str, str]:
    """{name without the prefix: name}; where two names become one, the one that had no prefix keeps it."""
    short = {name.removeprefix(prefix): name for name in names if prefix and name.startswith(prefix)}
    return short | {name: name for name in names if not (prefix and name.startswith(prefix))}
