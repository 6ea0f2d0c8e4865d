"""What a method's settings are for one parameter: levels of a recipe, filters and gradients resolved and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netweight.errors import OptionError, did_you_mean, printable
from netweight.merging.course import Value
from netweight.merging.method import Method, Setting
from netweight.merging.recipe.conditions import Conditions, Given, Gradient, described, given, interpolated
from netweight.merging.recipe.parts import Recipe, Source
from netweight.merging.recipe.yaml import Path

__all__ = ["WITHOUT_EFFECT", "check_settings", "resolve"]

WITHOUT_EFFECT = {"int8_mask": "how mergekit keeps masks in memory; no value depends on it"}
"""Settings of mergekit that change no number: flags that recipes may have at any level."""


def check_settings(method: Method, recipe: Recipe) -> None:
    """That every setting that `recipe` names is one of `method`, at a level where it counts, and can be its value.

    A setting of the whole method (not `Setting.each`) stands in the recipe's or a slice's parameters. OptionError.
    """
    known = {setting.name: setting for setting in method.settings}
    _check_level(method, known, recipe, ("parameters",), recipe.parameters)
    for n, part in enumerate(recipe.slices):
        _check_level(method, known, recipe, ("slices", n, "parameters"), part.parameters)
    for path, source in recipe.sources():
        own = (*path, "parameters")
        _check_level(method, known, recipe, own, source.parameters)
        for name in source.parameters:
            if name in known and not known[name].each and name not in WITHOUT_EFFECT:
                raise OptionError(
                    f"{recipe.where(*own, name)}: {name} belongs to the whole merge, not to a model: write it under "
                    "the recipe's own parameters"
                )


def _check_level(
    method: Method, known: Mapping[str, Setting], recipe: Recipe, path: Path, parameters: Mapping[str, Given]
) -> None:
    for name, value in parameters.items():
        where = (*path, name)
        if name in WITHOUT_EFFECT:
            if not isinstance(value, bool):
                raise OptionError(f"{recipe.where(*where)}: expected true or false, got {_described(value)}")
            continue
        if name not in known:
            listed = f"has {', '.join(known)}" if known else "has no settings"
            raise OptionError(
                f"{recipe.where(*where)}: unknown setting {printable(name, 60)!r}{did_you_mean(name, known)}: "
                f"{method.name} {listed}"
            )
        if isinstance(value, Conditions):
            for n, inner in enumerate(value.values):
                _check_value(known[name], inner, recipe, (*where, n, "value"))
        else:
            _check_value(known[name], value, recipe, where)


def _check_value(setting: Setting, value: Value | Gradient, recipe: Recipe, path: Path) -> None:
    if isinstance(value, tuple) and setting.kind == "integer":
        raise OptionError(
            f"{recipe.where(*path)}: {setting.name} is a whole number, and has no gradient; write one number"
        )
    for n, item in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
        if not _fits(setting, item):
            where = recipe.where(*path, *([] if n is None else [n]))
            raise OptionError(f"{where}: expected {_expected(setting)}, got {described(item)}")


def _fits(setting: Setting, value: Value) -> bool:
    if setting.kind == "flag" or isinstance(value, bool):
        return setting.kind == "flag" and isinstance(value, bool)
    if setting.kind == "integer" and not isinstance(value, int):
        return False
    low, high = setting.low, setting.high
    return (
        abs(value) < float("inf")  # false for NaN too
        and (low is None or value > low or (value == low and not setting.open_low))
        and (high is None or value < high or (value == high and not setting.open_high))
    )


def _expected(setting: Setting) -> str:
    """`a number in (0, 1]`."""
    if setting.kind == "flag":
        return "true or false"
    noun = "a whole number" if setting.kind == "integer" else "a number"
    low, high = setting.low, setting.high
    if low is not None and high is not None:
        opening, closing = "(" if setting.open_low else "[", ")" if setting.open_high else "]"
        return f"{noun} in {opening}{low:g}, {high:g}{closing}"
    if low is not None:
        return f"{noun} {'above' if setting.open_low else 'of at least'} {low:g}"
    if high is not None:
        return f"{noun} {'below' if setting.open_high else 'of at most'} {high:g}"
    return noun


def _described(value: Given) -> str:
    return "filters" if isinstance(value, Conditions) else described(value)


def resolve(
    method: Method,
    recipe: Recipe,
    *,
    slice_number: int | None,
    sources: Sequence[Source],
    name: str,
    depth: float,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, Value], tuple[dict[str, Value], ...]]:
    """The method's settings, and those of each of `sources` (the base left out), for one parameter.

    Levels: a source's own parameters, those of its slice, those of the recipe, the default; where none of a level's
    filters fits, the next level counts. `name` is the output's parameter; `names` are those of the sources, where
    slices give blocks other numbers: filters of settings that each model has are held against the model's own name, as
    in mergekit; where whole models are merged and their names differ, against the output's too.

    `depth` is the block's place in its slice, number / (blocks - 1), 1 in a slice of one block and 0 outside of blocks.
    Numbers become floats. Raises OptionError for values that are missing or cannot be.
    """
    shared = (
        [recipe.parameters] if slice_number is None else [recipe.slices[slice_number].parameters, recipe.parameters]
    )
    whole: dict[str, Value] = {}
    each: tuple[dict[str, Value], ...] = tuple({} for _ in sources)
    for setting in method.settings:
        if not setting.each:
            whole[setting.name] = _value(method, setting, recipe, shared, name, depth, None)
            continue
        for n, source in enumerate(sources):
            own = name if names is None else names[n]
            levels = [source.parameters, *shared]
            # where only a wrapper's prefix parts the names, filters may mean either
            other = name if slice_number is None else own
            each[n][setting.name] = _value(method, setting, recipe, levels, own, depth, source, other)
    return whole, each


def _value(
    method: Method,
    setting: Setting,
    recipe: Recipe,
    levels: Sequence[Mapping[str, Any]],
    name: str,
    depth: float,
    source: Source | None,
    other: str | None = None,
) -> Value:
    found: Any = None
    for level in levels:
        found = level.get(setting.name)
        if isinstance(found, list | dict):
            found = given(found)
        if isinstance(found, Conditions):
            own = found.find(name)
            found = found.find(other) if own is None and other is not None else own
        if found is not None:
            break
    else:
        found = setting.default
    if found is None or isinstance(found, Conditions):
        raise _missing(method, setting, recipe, levels, name, source)
    if isinstance(found, tuple) and setting.kind != "integer":
        found = interpolated(found, depth)
    if isinstance(found, tuple) or not _fits(setting, found):
        raise OptionError(
            f"{_at(recipe, source)}: {setting.name} for {printable(name)}: expected {_expected(setting)}, got "
            f"{described(found)}"
        )
    return float(found) if setting.kind == "number" else found


def _missing(
    method: Method,
    setting: Setting,
    recipe: Recipe,
    levels: Sequence[Mapping[str, Any]],
    name: str,
    source: Source | None,
) -> OptionError:
    filtered = any(setting.name in level for level in levels)
    why = f"none of its filters fits {printable(name)}" if filtered else f"{method.name} needs it"
    under = "the recipe's parameters" if source is None else "the model's parameters, or the recipe's"
    what = setting.name if source is None else f"{setting.name} of {printable(source.model)}"
    return OptionError(
        f"{_at(recipe, source)}: no value for {what}: {why}; write {setting.name}: ... ({_expected(setting)}) "
        f"under {under}"
    )


def _at(recipe: Recipe, source: Source | None) -> str:
    for path, each in recipe.sources():
        if each is source:
            return recipe.where(*path)
    return recipe.where()
