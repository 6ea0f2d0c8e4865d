"""What a quantisation did to a model: bits of each weight against the error that they leave.

The signal is A's: the model before it was quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum, isnan, nan, prod
from typing import Any

from netweight.jobs.compare.parameter import ParameterComparison
from netweight.jobs.compare.totals import by_block, totals_of

__all__ = ["Quantisation", "quantisation_of", "summarised"]

_KEPT = ("parameters", "elements", "sqnr_db", "relative_l2_distance", "max_absolute_difference", "n_nonfinite")


@dataclass(frozen=True)
class Quantisation:
    """`total` and, by name, `storage`, `roles` and `blocks`: {parameters, elements, bits_per_weight and
    bits_per_weight_b, sqnr_db, relative_l2_distance, max_absolute_difference, n_nonfinite, clipped_percentage} of what
    was compared. `worst`: parameters that B has changed, the lowest SQNR first; `cells`: (block, role, SQNR) for a
    picture. `note` says where the order of the models may not be the one that was meant.
    """

    total: dict[str, Any]
    storage: dict[str, dict[str, Any]]
    roles: dict[str, dict[str, Any]]
    blocks: dict[str, dict[str, Any]]
    worst: tuple[str, ...]
    cells: tuple[tuple[str, str, float], ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As files have it."""
        return {
            "total": self.total,
            "storage": self.storage,
            "roles": self.roles,
            "blocks": self.blocks,
            "worst": list(self.worst),
        }


def quantisation_of(parameters: Sequence[ParameterComparison], *, always: bool = False) -> Quantisation | None:
    """Of the parameters that were compared; None where no side of any is quantised, unless `always`."""
    measured = [p for p in parameters if p.pairs is not None and p.pairs.n]
    sides = {side for p in measured for side in _quantised_sides(p)}
    if not measured or (not sides and not always):
        return None
    blocks = by_block(measured)
    cells = [
        (block, role, summarised(held)["sqnr_db"])
        for block, members in blocks.items()
        for role, held in _by(members, lambda p: p.parameter.role).items()
    ]
    ranked = [(p.metrics["sqnr_db"], p.name) for p in measured if p.pairs is not None and not p.pairs.identical]
    return Quantisation(
        summarised(measured),
        {name: summarised(held) for name, held in _by(measured, _storage).items()},
        {name: summarised(held) for name, held in _by(measured, lambda p: p.parameter.role).items()},
        {name: summarised(held) for name, held in blocks.items()},
        tuple(name for sqnr, name in sorted(ranked) if not isnan(sqnr)),
        tuple(cells),
        "A is quantised and B is not: errors are those of B against A; name the original first" if sides == {0} else "",
    )


def _quantised_sides(p: ParameterComparison) -> Iterable[int]:
    return (side for side, decoded in enumerate(p.decoded) if decoded)


def _storage(p: ParameterComparison) -> str:
    """How B has it, and A too where that is quantised."""
    return f"{p.stored} to {p.stored_b}" if p.decoded[0] else str(p.stored_b)


def _by(
    parameters: Iterable[ParameterComparison], key: Callable[[ParameterComparison], str]
) -> dict[str, list[ParameterComparison]]:
    groups: dict[str, list[ParameterComparison]] = {}
    for p in parameters:
        groups.setdefault(key(p), []).append(p)
    return dict(sorted(groups.items(), key=lambda item: -sum(prod(p.shape or ()) for p in item[1])))


def summarised(parameters: Sequence[ParameterComparison]) -> dict[str, Any]:
    """One line of a table: see Quantisation."""
    totals = totals_of(p.pairs for p in parameters)
    size = sum(prod(p.shape or ()) for p in parameters)
    held = [sum(getattr(p, side) or 0 for p in parameters) for side in ("bytes_in_file", "bytes_in_file_b")]
    bits = [8 * n / size for n in held]
    return {
        "parameters": totals["parameters"],
        "elements": totals["elements"],
        "bits_per_weight": bits[0],
        "bits_per_weight_b": bits[1],
        **{name: totals[name] for name in _KEPT[2:]},
        "clipped_percentage": _clipped(parameters),
    }


def _clipped(parameters: Sequence[ParameterComparison]) -> float:
    """Of the elements of parameters of which it is known."""
    known = [(p.metrics.get("clipped_percentage", nan), prod(p.shape or ())) for p in parameters]
    known = [(share, size) for share, size in known if not isnan(share)]
    return fsum(share * size for share, size in known) / sum(size for _, size in known) if known else nan
