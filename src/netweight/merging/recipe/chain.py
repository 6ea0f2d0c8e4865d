"""Recipes in one file that feed one another: a document with a name makes a model that others merge by this name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from netweight.checkpoint.adapters.references import split_adapters
from netweight.errors import OptionError, printable
from netweight.merging.recipe.parts import Recipe

__all__ = ["in_order", "made_of", "stages_of"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def in_order(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The recipes of a file, each behind those whose models it merges. The last one makes the result: the document
    without a name, else the one whose model no other merges.

    Raises OptionError for names that stand twice or cannot be a folder's, recipes that need each other, and a file that
    has no one result.
    """
    if len(recipes) == 1:
        return tuple(recipes)
    named = _named(recipes)
    needs = [stages_of(recipe, named) for recipe in recipes]
    last = _result(recipes, set().union(*needs))
    order: list[Recipe] = []
    _visit(last, named, [], order)
    unused = [recipe for recipe in recipes if recipe not in order]
    if unused:
        raise OptionError(
            f"{unused[0].where('name')}: nothing merges {printable(unused[0].name or '')!r}, and the result is another"
            f" document's ({last.where('merge_method')}); leave it out, or put it into a file of its own"
        )
    return tuple(order)


def _named(recipes: Sequence[Recipe]) -> dict[str, Recipe]:
    named: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.name is None:
            continue
        if recipe.name in named:
            raise OptionError(
                f"{recipe.where('name')}: {printable(recipe.name)!r} is the name of two documents; give each its own"
            )
        if not _NAME.fullmatch(recipe.name):
            raise OptionError(
                f"{recipe.where('name')}: expected a word of letters, digits, dots and dashes, which is a folder's name"
                f" too, got {printable(recipe.name)!r}"
            )
        named[recipe.name] = recipe
    return named


def _result(recipes: Sequence[Recipe], needed: set[str]) -> Recipe:
    """The document that makes the result."""
    nameless = [recipe for recipe in recipes if recipe.name is None]
    ends = nameless or [recipe for recipe in recipes if recipe.name not in needed]
    if len(ends) == 1:
        return ends[0]
    if not ends:
        raise OptionError(
            f"{recipes[0].where('merge_method')}: every document merges another's model: none of them can be the first"
        )
    what = "two documents have no name" if nameless else "the models of two documents are merged by no other"
    raise OptionError(
        f"{ends[1].where('merge_method')}: {what}: expected one that makes the result (the other:"
        f" {ends[0].where('merge_method')})"
    )


def _visit(recipe: Recipe, named: Mapping[str, Recipe], path: list[Recipe], order: list[Recipe]) -> None:
    if recipe in path:
        circle = " needs ".join(printable(one.name or "") for one in [*path[path.index(recipe) :], recipe])
        raise OptionError(f"{recipe.where('name')}: the documents need each other: {circle}")
    for name in sorted(stages_of(recipe, named), key=list(named).index):
        if named[name] not in order:
            _visit(named[name], named, [*path, recipe], order)
    order.append(recipe)


def stages_of(recipe: Recipe, names: Mapping[str, object]) -> set[str]:
    """Which of `names` the recipe merges."""
    return {name for reference in recipe.references() if (name := made_of(reference)) in names}


def made_of(reference: str) -> str:
    """What a reference names before its adapters."""
    return split_adapters(reference)[0]
