"""Sentences on the kind of a fine-tune: where it changed, of what rank, and why nothing can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from netweight.measures.kind import Changed

__all__ = [
    "QUANTISED",
    "ROUNDED",
    "above",
    "by_module",
    "flatness",
    "form_of",
    "hidden_rank",
    "in_layers",
    "listed",
    "of_a_layer",
    "percent",
    "pruned",
    "scaled",
    "undecided",
    "where",
]

LIKE_NOISE = 0.95
"""From this share of the effective rank of random values on, an update is as flat as noise."""


ROUNDED = "every value that was looked at is the base's in another precision"
QUANTISED = "values lie on a grid of 4 bits or fewer: quantised, and stored as floats again"
"""What there is to say of copies in another form."""


def listed(names: Iterable[str]) -> str:
    """Up to eight of them."""
    held = list(names)
    return ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")


def percent(share: float) -> str:
    """Three figures; 100% only where it is all, 0% only where it is none."""
    if 99.95 <= share < 100:
        return ">99.9%"
    return f"{share:.3g}%" if share >= 0.1 or share == 0 else "<0.1%"


def form_of(p: Changed) -> str:
    """The form of its update; empty where it was not looked at."""
    return str(p.update["update_form"]) if p.update is not None else ""


def above(p: Changed) -> int:
    """Singular values of its update above the errors of rounding."""
    return int(p.update["update_above"] or 0) if p.update is not None else 0


def by_module(parameters: Iterable[Changed]) -> dict[str, list[Changed]]:
    """By kind of module, in the order in which these come."""
    groups: dict[str, list[Changed]] = {}
    for p in parameters:
        groups.setdefault(p.module, []).append(p)
    return groups


def of_a_layer(parameters: Iterable[Changed], changed: Iterable[Changed]) -> tuple[int, int]:
    """Kinds of matrices in the blocks: those that changed, and all."""
    some, every = ({p.module for p in held if p.matrix and p.layer} for held in (changed, parameters))
    return len(some), len(every)


def in_layers(parameters: Iterable[Changed], changed: Iterable[Changed]) -> str:
    """in layers ..., where not all are among them."""
    every, some = (list(dict.fromkeys(p.layer for p in held if p.layer)) for held in (parameters, changed))
    if not some or len(some) == len(every):
        return ""
    return f" in {listed(some)}" if len(some) <= 3 else f" in {len(some)} of {len(every)} layers"


def where(parameters: Sequence[Changed], changed: Sequence[Changed]) -> str:
    """How many tensors, and in which layers where not in all."""
    what = "all" if len(changed) == len(parameters) else f"{len(changed)} of {len(parameters)}"
    return f"{what} tensors{in_layers(parameters, changed)}"


def flatness(told: Sequence[Changed]) -> str:
    """The rank of updates, and whether it is that of noise."""
    shown = [p.update for p in told if p.update is not None and p.update["update_effective_rank"]]
    if not shown:
        return "whose rank was not looked at"
    rank = median(u["update_effective_rank"] for u in shown)
    of = max(min(u["update_block"]) for u in shown)
    like = median(u["update_effective_rank"] / u["update_noise_rank"] for u in shown) >= LIKE_NOISE
    return f"effective rank {rank:.0f} of at most {of}{', as flat as noise' if like else ''}"


def hidden_rank(told: Sequence[Changed]) -> str:
    """That rounding hides the rank, and how much of it is seen."""
    shown = [p.update for p in told if p.update is not None and p.update["update_above"] is not None]
    if not shown:
        return "whose rank was not looked at"
    above, of = median(u["update_above"] for u in shown), max(min(u["update_block"]) for u in shown)
    return f"rounding hides its rank: {above:.0f} of {of} singular values are above its errors"


def undecided(told: Sequence[Changed]) -> str:
    """Why: what the matrices that were looked at are."""
    if not told:
        return "none of the matrices that changed could be looked at"
    by_form: dict[str, list[str]] = {}
    for p in told:
        by_form.setdefault(form_of(p), []).append(p.module)
    if by_form.keys() == {"unclear"}:
        reasons = Counter(str(p.update["update_reason"]) for p in told if p.update is not None)
        reason, count = reasons.most_common(1)[0]
        return reason if len(reasons) == 1 else f"{reason} ({count} of {len(told)} matrices looked at)"
    return "; ".join(f"{form} on {listed(dict.fromkeys(modules))}" for form, modules in by_form.items())


def scaled(told: Sequence[Changed]) -> str:
    """By what the base's values were multiplied."""
    updates = [p.update for p in told if p.update is not None]
    if any(u["update_scale"] is None for u in updates):
        ways = listed(sorted({str(u["update_scaled"]) for u in updates} - {"all"}))
        return f"the base's values times numbers of their own for {ways}"
    scales = [float(u["update_scale"]) for u in updates]
    low, high = min(scales), max(scales)
    by = f"{low:.3g}" if high - low <= 1e-3 * abs(high) else f"{low:.3g} to {high:.3g}, by matrix"
    return f"the base's values times {by}"


def pruned(told: Sequence[Changed]) -> str:
    """How many values became zero."""
    share = 100 * sum(p.changed for p in told) / sum(p.size for p in told)
    return f"{percent(share)} of the values of changed matrices became zero"
