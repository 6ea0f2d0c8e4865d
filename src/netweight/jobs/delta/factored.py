"""What an adapter's factors tell of its updates: columns of delta, and the word for what it is."""

from __future__ import annotations

from collections.abc import Sequence

from netweight.columns import Column
from netweight.measures.kind import Kind
from netweight.params.modules import module_of
from netweight.params.role import Parameter

__all__ = ["FACTORED", "kind_of_factors"]

FACTORED = (
    Column(
        "factor_rank", "", "of an update with factors: singular values above sigma_1 max(rows, cols) 2^-52", "number"
    ),
    Column("sigma_1", "", "the largest singular value of the update", "number"),
    Column("stable_rank", "", "sum sigma^2 / sigma_1^2 of the update", "number"),
    Column(
        "entropy_rank", "", "exp(-sum p ln p) of the update, p = sigma / sum sigma (Roy and Vetterli 2007)", "number"
    ),
    Column("singular_values", "", "of the update, those of its factors' rank, largest first", "numbers"),
)
"""What is known of the updates of adapters from their factors alone; empty for other task vectors."""


def kind_of_factors(held: Sequence[tuple[Parameter, float | None]]) -> Kind:
    """Of an adapter without its base: `held` are the parameters that it changes, with the ranks of their updates."""
    ranks = sorted({int(rank) for _, rank in held if rank is not None})
    targets = tuple(dict.fromkeys(module_of(parameter) for parameter, _ in held))
    said = f"rank {'' if len(ranks) < 2 else f'{ranks[0]} to '}{ranks[-1]} " if ranks else ""
    reason = f"{said}on {', '.join(targets)}, as its factors say"
    rank = ranks[0] if len(ranks) == 1 else None
    return Kind("adapter-like", reason, rank, targets, None, len(held), len(held), len(held), len(held))
