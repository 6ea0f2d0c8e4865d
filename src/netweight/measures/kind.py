"""Kind: what a fine-tune is, in one word, from what changed everywhere and from the form of its updates in a sample.

Whether a value changed is known of all parameters; the form (measures.update) only of the matrices that were looked at.
Where these do not agree, or rounding hides them, the word is "undecided".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netweight.columns import Column

__all__ = ["KIND_COLUMNS", "MODULE_COLUMNS", "WORDS", "Changed", "Kind"]

WORDS = (
    "identical", "rounded", "scaled", "pruned", "quantised", "adapter-like", "sparse", "one module", "full",
    "undecided",
)  # fmt: skip
"""Every word."""


KIND_COLUMNS = (
    Column("word", "", f"one of {', '.join(WORDS)}", "text"),
    Column("reason", "", "what the word rests on, in a sentence", "text"),
    Column("rank", "", "the rank of an adapter-like update, where all have one", "integer"),
    Column("targets", "", "kinds of modules that changed", "text"),
    Column("unchanged_percentage", "%", "share of the compared values that are the same in both", "number"),
    Column("parameters", "", "tensors that were compared", "integer"),
    Column("changed_parameters", "", "of these, tensors with a value that changed", "integer"),
    Column("matrices", "", "weight matrices that changed", "integer"),
    Column("looked_at", "", "of these, matrices whose form was looked at", "integer"),
)
"""The fields of a kind; `modules` is {kind of module: MODULE_COLUMNS}."""

MODULE_COLUMNS = (
    Column("parameters", "", "tensors of the kind", "integer"),
    Column("changed_parameters", "", "of these, tensors with a value that changed", "integer"),
    Column("elements", "elements", "of all of them", "integer"),
    Column("unchanged_percentage", "%", "share of these elements that are the same in both", "number"),
    Column("looked_at", "", "matrices whose form was looked at", "integer"),
    Column("forms", "", "{form: how many of these have it}: see update_form", "text"),
    Column("rank", "", "the median of their ranks, where the form is low rank", "number"),
    Column("effective_rank", "", "the median of their effective ranks", "number"),
    Column("of", "", "the most that it can be: the shorter side of the blocks that were looked at", "integer"),
)
"""The fields of one kind of module."""


@dataclass(frozen=True)
class Changed:
    """One parameter: `module` says which kind of module it belongs to, `top` that it is an embedding or a head,
    `layer` its block. Of `size` elements `changed` are not the same. `quantised`: how the model has it, where that is
    as codes, `of_quantised`: how the base has it. `update`: fields of measures.update, where it was looked at.
    """

    name: str
    module: str
    layer: str
    size: int
    changed: int
    matrix: bool
    top: bool = False
    quantised: str = ""
    of_quantised: str = ""
    update: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Kind:
    """`word` is one of WORDS, `reason` what it rests on; the others are KIND_COLUMNS. JSON-safe as `to_dict`."""

    word: str
    reason: str
    rank: int | None
    targets: tuple[str, ...]
    unchanged_percentage: float | None
    parameters: int
    changed_parameters: int
    matrices: int
    looked_at: int
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As files have it."""
        return {
            **{c.name: getattr(self, c.name) for c in KIND_COLUMNS},
            "targets": list(self.targets),
            "modules": {name: dict(fields) for name, fields in self.modules.items()},
        }

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"
