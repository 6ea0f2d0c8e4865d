"""What keeps models from being merged: gathered over all parameters, then raised as one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netweight.errors import InputError, printable
from netweight.jobs.merge.sides import Side

__all__ = ["Faults"]


@dataclass
class Faults:
    """Parameters that do not fit, in the order of the targets. Names are the model's own where it has one."""

    missing: list[tuple[str, int]] = field(default_factory=list)  # parameter, the model that lacks it
    extra: list[tuple[str, int]] = field(default_factory=list)  # parameter, the model that has it
    layers: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def report(self, sides: Mapping[int, Side], anchor: Side) -> None:
        """Raise InputError for the first kind of fault that there is; nothing where there is none."""
        if self.missing:
            name, number = self.missing[0]
            why = sides[number].unmade.get(name)
            raise InputError(
                f"'{printable(name)}'{_more(self.missing)} is missing in {sides[number].ref}"
                f"{f' ({why})' if why else ''}; expected all parameters"
                f" of {anchor.ref} in every model: leave the model out, or give --missing base, which takes the base's"
                " values for what a model lacks"
            )
        if self.extra:
            name, number = self.extra[0]
            raise InputError(
                f"'{printable(name)}'{_more(self.extra)} of {sides[number].ref} is missing in the base {anchor.ref};"
                " expected the base's parameters alone: merge models of one architecture, or give --missing base, which"
                " leaves out what the base lacks"
            )
        if self.layers:
            raise InputError(f"{self.layers[0]}{_more(self.layers)}; take other layers")
        if self.types:
            raise InputError(f"{self.types[0]}{_more(self.types)}: dequantise that model, or leave it out")
        if self.shapes:
            raise InputError(f"{self.shapes[0]}{_more(self.shapes)}; merge models of one architecture and size")
        if self.rows:
            raise InputError(
                f"{self.rows[0]}{_more(self.rows)}: the vocabularies differ; give --vocab base for the base's rows, or"
                " --vocab union-rows for the rows of the largest (rows count by number: the models must have the same"
                " tokens in the rows they share)"
            )


def _more(faults: list[str] | list[tuple[str, int]]) -> str:
    return f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
