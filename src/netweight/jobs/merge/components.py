"""The parts of a model that a recipe's `modules` name: a vision tower, a projector, the text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from netweight.errors import OptionError, did_you_mean, printable
from netweight.jobs.merge.sides import Side, stack_of
from netweight.params.selection import examples

if TYPE_CHECKING:
    from netweight.merging.recipe.recipe import Recipe

__all__ = ["parts_of"]

_SHOWN = 8
_REST = frozenset({"default", "text_decoder"})
"""What recipes call the part that no module of its own stands for; another such name may be a misspelled one."""


def parts_of(recipe: Recipe, anchor: Side) -> tuple[Callable[[str], str], list[str]]:
    """(which part a parameter of the anchor belongs to, by its name; notes).

    A part `vision_tower` has what stands in a module of that name: `vision_tower.x`, `model.vision_tower.x`; of two
    such parts the one that comes first in the name. One part, as `text_decoder` or `default`, may name no module, and
    has the rest. Raises OptionError for another one, for parameters in no part, and for slices of a part that is not
    the main stack of layers.
    """
    if not recipe.modules:
        return (lambda _: ""), []
    names = [name for name, _ in recipe.modules]
    owners = {name: _owner(name, names) for name in anchor.parameters}
    rest = [name for name in names if name not in owners.values()]
    modules = _modules(anchor)
    for name in rest:
        hint = "" if name in _REST else did_you_mean(name, modules)
        if len(rest) > 1 or hint:
            raise OptionError(
                f"{recipe.where('modules', name)}: no parameter of {anchor.ref} stands in a module"
                f" {printable(name)!r}{hint}; it has {_listed(modules)}"
            )
    without = [name for name, owner in owners.items() if owner is None]
    if without and not rest:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise OptionError(
            f"{recipe.where('modules')}: no part has '{printable(without[0])}'{more} of {anchor.ref}: name one for it"
            f" ({_listed(_modules_of(without))}), or one for the rest (text_decoder)"
        )
    belongs = {name: owner or rest[0] for name, owner in owners.items()}
    main = _part_of_blocks(recipe, anchor, belongs)
    notes = []
    if rest and len(names) > 1:
        notes.append(
            f"{recipe.where('modules', rest[0])}: is the {len(without)} parameters that no other part has"
            f" ({examples(without)})"
        )
    return (lambda name: belongs.get(name, main)), notes


def _owner(parameter: str, names: list[str]) -> str | None:
    """The part whose name comes first in the parameter's; of two that begin there, the longer one."""
    found = [(at, -len(name), name) for name in names if (at := f".{parameter}".find(f".{name}.")) >= 0]
    return min(found)[2] if found else None


def _modules(anchor: Side) -> list[str]:
    return _modules_of(anchor.parameters)


def _modules_of(names: Mapping[str, object] | list[str]) -> list[str]:
    """The modules that parameters stand in: of the first two segments of their names those that are no number."""
    found = (part for name in names for part in name.split(".")[:-1][:2] if not part.isdigit())
    return list(dict.fromkeys(found))


def _listed(modules: list[str]) -> str:
    more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
    return ", ".join(printable(name, 60) for name in modules[:_SHOWN]) + more


def _part_of_blocks(recipe: Recipe, anchor: Side, belongs: Mapping[str, str]) -> str:
    """The part that has the blocks of slices, which count under numbers of their own; "" where none has slices.

    Slices are of the main stack's layers, which must lie in one part.
    """
    sliced = [(name, part) for name, part in recipe.modules if part.slices]
    for name, part in sliced:
        blocks = stack_of(anchor.model).blocks
        owners = {belongs[tensor.name] for block in blocks.values() for tensor in block.values()}
        if owners != {name}:
            raise OptionError(
                f"{part.where('slices')}: slices are of the main stack of layers, which is that of"
                f" {', '.join(sorted(owners)) or 'no part'}; write models for {printable(name)}"
            )
    return sliced[0][0] if sliced else ""
