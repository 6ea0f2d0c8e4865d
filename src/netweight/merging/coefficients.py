"""The coefficients of task vectors in a merge, from the task vectors' norms or from their Gram matrices.

A Gram matrix G of n task vectors is float64 [n, n] of inner products, of one parameter or (summed) of many. It gives
norms, cosines, and the norm of any merged task vector without making that vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from netweight.errors import OptionError, did_you_mean, printable

if TYPE_CHECKING:
    import numpy as np

    F64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

__all__ = [
    "GRANULARITIES",
    "MODES",
    "OUTSIDE",
    "by_granularity",
    "coefficients",
    "cosines",
    "merged_norm",
    "norms_of",
    "remark",
]

MODES = {
    "exp": "exp(-beta L_i / mean L)",
    "linear": "1 / L_i",
    "power": "1 / L_i^alpha",
    "metagpt": "L_i^2 (arXiv 2406.11385)",
    "equal": "1 / n",
}
"""Mode -> formula that a coefficient is proportional to; L_i is the norm of task vector i. Coefficients sum to 1."""

GRANULARITIES = ("global", "layer", "parameter")

OUTSIDE = "the parameters outside of layers"
"""The group of parameters that belong to no layer."""


def coefficients(
    mode: str, norms: Sequence[float], *, alpha: float = 1.5, beta: float = 1.0, names: Sequence[str], group: str = ""
) -> tuple[float, ...]:
    """Coefficients that sum to 1, for task vectors of the L2 norms `norms` under `mode`, a key of `MODES`.

    Norms may be any finite numbers, also where their squares or quotients would leave the range of float64. Under exp,
    metagpt and equal all norms may be zero: then the coefficients are equal. `names` of the models and `group`
    (`layer 3`) are for messages. Raises OptionError for norms, alpha and beta that are negative or not finite, for a
    zero norm under linear and power, and for an unknown mode.
    """
    where = f" in {printable(group)}" if group else ""
    if mode not in MODES:
        raise OptionError(
            f"mode: expected one of {', '.join(MODES)}, got {printable(mode)!r}{did_you_mean(mode, MODES)}"
        )
    for option, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value < math.inf:
            raise OptionError(f"{option}: expected a finite number of at least 0, got {value!r}")
    norms = [float(norm) for norm in norms]
    if len(norms) != len(names) or not norms:
        raise OptionError(f"expected one norm for each of {len(names)} models{where}, got {len(norms)}")
    for norm, name in zip(norms, names, strict=True):
        if not 0 <= norm < math.inf:
            raise OptionError(
                f"the norm of {printable(name)}{where}: expected a finite number of at least 0, got {norm!r}; look for "
                "NaN and infinite weights in the model"
            )
        if norm == 0 and mode in {"linear", "power"}:
            raise OptionError(
                f"mode {mode}: {printable(name)} does not differ from the base{where}, its task vector has norm 0, and "
                f"{MODES[mode].replace('L_i', '0')} is no number; leave the model out, or use --mode exp or equal"
            )
    return _normalised(_shares(mode, norms, alpha, beta))


def _shares(mode: str, norms: Sequence[float], alpha: float, beta: float) -> list[float]:
    """Multiples of the coefficients, the greatest 1: quotients by the extreme norm cannot overflow."""
    least, most = min(norms), max(norms)
    if mode == "equal" or most == 0:
        return [1.0] * len(norms)
    if mode == "linear":
        return [least / norm for norm in norms]
    if mode == "power":
        return [(least / norm) ** alpha for norm in norms]
    if mode == "metagpt":
        return [(norm / most) ** 2 for norm in norms]
    mean = math.fsum(norm / most for norm in norms) / len(norms)
    return [math.exp(-beta * ((norm / most - least / most) / mean)) for norm in norms]


def _normalised(shares: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(shares)
    return tuple(share / total for share in shares)


_LITTLE = 0.02
"""A weight below it leaves next to nothing of a model."""


def remark(
    mode: str, weights: Sequence[Sequence[float]], norms: Sequence[float] | None, names: Sequence[str]
) -> str | None:
    """What exp has made of the models, where that may surprise: one of them with a weight below 2%, or one that is the
    base with the largest weight; None elsewhere. `weights`: by model, of each group that has weights of its own.
    """
    if mode != "exp" or len(names) < 2 or not weights:
        return None
    least = [min(group) for group in weights]
    at = least.index(min(least))
    why = None
    if norms is not None and 0 in norms and any(norms):
        still = norms.index(0)
        if any(group[still] == max(group) for group in weights):
            why = f"{printable(names[still])} is the base itself, and gets the largest weight"
    elif least[at] < _LITTLE:
        few = sum(value < _LITTLE for value in least)
        where = "" if len(weights) == 1 else f" in {few} of {len(weights)} groups"
        name = names[list(weights[at]).index(least[at])]
        why = f"{printable(name)} gets {least[at]:.2g}{where}, as its task vector is the longest"
    if why is None:
        return None
    return (
        f"mode exp: {why}: the more a model was trained, the less it counts; --mode equal weighs all alike, --mode"
        " metagpt those more that changed more"
    )


def norms_of(gram: F64) -> tuple[float, ...]:
    """L2 norms of the task vectors; OptionError where the Gram matrix holds NaN or infinity."""
    diagonal = [float(gram[i, i]) for i in range(len(gram))]
    return tuple(_root(value) for value in diagonal)


def _root(square: float) -> float:
    return math.sqrt(max(_finite(square), 0.0))


def _finite(product: float) -> float:
    if not math.isfinite(product):
        raise OptionError(
            "the task vectors' inner products are not finite, so they have no norms; look for NaN and infinite weights "
            "in the models (netweight scan)"
        )
    return product


def cosines(gram: F64) -> F64:
    """Cosines between task vectors, float64 [n, n] in [-1, 1], exactly 1 on the diagonal; NaN where a norm is 0."""
    import numpy as np  # noqa: PLC0415 - coefficients of given norms need none

    norms = norms_of(gram)
    matrix: F64 = np.full((len(norms), len(norms)), np.nan)
    for i, a in enumerate(norms):
        for j, b in enumerate(norms):
            if a > 0 and b > 0:
                matrix[i, j] = 1.0 if i == j else min(max(_finite(float(gram[i, j])) / a / b, -1.0), 1.0)
    return matrix


def merged_norm(gram: F64, weights: Sequence[float]) -> float:
    """The L2 norm of sum_i weights_i tau_i, which is sqrt(l' G l); rounding below 0 counts as 0."""
    terms = (a * b * float(gram[i, j]) for i, a in enumerate(weights) for j, b in enumerate(weights))
    return _root(_sum(terms))


def _sum(terms: Iterable[float]) -> float:
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):  # beyond float64, or infinities of both signs
        return math.inf


def by_granularity(
    granularity: str,
    layers: Mapping[str, str],
    grams: Mapping[str, F64],
    mode: str,
    *,
    alpha: float = 1.5,
    beta: float = 1.0,
    names: Sequence[str],
) -> dict[str, tuple[float, ...]]:
    """Coefficients for every parameter of `grams`: from the norms over all of them ("global"), over those of one group
    of `layers` (parameter -> group's label, `OUTSIDE` for those it does not list; "layer"), or of the
    parameter alone ("parameter").

    A layer or parameter that no model changed gets equal coefficients: its merge is the base with any of them. One
    that some models changed and others did not is an OptionError under linear and power, which names model and group.
    """
    if granularity not in GRANULARITIES:
        hint = did_you_mean(granularity, GRANULARITIES)
        raise OptionError(
            f"granularity: expected one of {', '.join(GRANULARITIES)}, got {printable(granularity)!r}{hint}"
        )
    groups: dict[str, list[str]] = {}
    for name in grams:
        label = {"global": "", "layer": layers.get(name, OUTSIDE), "parameter": name}[granularity]
        groups.setdefault(label, []).append(name)
    answer: dict[str, tuple[float, ...]] = {}
    for label, members in groups.items():
        norms = _norms_over([grams[name] for name in members], len(names))
        group = "" if granularity == "global" else label
        unchanged = granularity != "global" and not any(norms)
        shares = coefficients("equal" if unchanged else mode, norms, alpha=alpha, beta=beta, names=names, group=group)
        answer.update(dict.fromkeys(members, shares))
    return {name: answer[name] for name in grams}


def _norms_over(grams: Sequence[F64], models: int) -> tuple[float, ...]:
    return tuple(_root(_sum(float(gram[i, i]) for gram in grams)) for i in range(models))
