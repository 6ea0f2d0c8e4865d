"""The columns of relations.parquet."""

from __future__ import annotations

from netweight.columns import Column

__all__ = ["COLUMNS"]

COLUMNS = (
    Column("a", "", "one model: the earlier one where the direction is known", "text"),
    Column("b", "", "the other model", "text"),
    Column("relation", "", "what b is to a, in one word", "text"),
    Column("directed", "", "whether a came first, by the weights", "boolean"),
    Column("direction", "", "why, or that it is open", "text"),
    Column("log10_p", "", "log10 of the p-value of the exact test that both began independently", "number"),
    Column("blocks", "blocks", "of hidden units that were tested", "integer"),
    Column("units", "units", "that were tested, of all blocks", "integer"),
    Column("permutations", "", "drawn for each block", "integer"),
    Column("detectable", "", "the correlation of weights that would have been found, with 99%", "number"),
    Column("elements", "elements", "that both sketches hold of the same tensors", "integer"),
    Column("equal_percentage", "%", "of these elements that are equal", "number"),
    Column("drift", "", "|b - a| / |a| over these elements", "number"),
    Column("cosine", "", "of these elements", "number"),
    Column("detail", "", "what belongs to the relation: type, rank, targets, layers", "text"),
    Column("reason", "", "why this relation, where the figures do not say it", "text"),
)
"""Of relations.parquet: a row for each pair that was tested."""
