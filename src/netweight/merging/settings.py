"""The settings of a method for one parameter: a recipe's levels, filters and gradients, resolved and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from netweight.errors import OptionError, did_you_mean, printable
from netweight.merging.course import Value
from netweight.merging.method import Method, Setting
from netweight.merging.recipe.conditions import Conditions, Gradient, SettingValue, describe, interpolate, read_value
from netweight.merging.recipe.habits import SETTINGS
from netweight.merging.recipe.parts import Recipe, Source
from netweight.merging.recipe.yaml import Path

__all__ = ["WITHOUT_EFFECT", "check_settings", "idle_filters", "resolve"]

_LARGEST = 3.4028234663852886e38  # float32's

WITHOUT_EFFECT = {"int8_mask": "how mergekit keeps masks in memory; no value depends on it"}
"""Settings of mergekit that change no number: flags that recipes may have at any level."""


def check_settings(method: Method, recipe: Recipe) -> tuple[str, ...]:
    """Notes on settings that have no effect with `method`, and on values that were cut to its bounds.

    Raises OptionError unless every other setting in `recipe` is known, stands at a valid level and has a valid value. A
    setting of the whole method (not `Setting.per_model`) stands in the recipe's or a slice's parameters.
    """
    known = {setting.name: setting for setting in method.settings}
    idle: dict[str, list[str]] = {}
    cut: list[str] = []
    for path, source in recipe.sources():
        for name in source.parameters:
            if name in known and not known[name].per_model and name not in WITHOUT_EFFECT:
                raise OptionError(
                    f"{recipe.where(*path, 'parameters', name)}: {name} belongs to the whole merge, not to a model:"
                    " write it under the recipe's own parameters"
                )
    for path, parameters in _levels(recipe):
        for name in parameters:
            if name not in known and name in SETTINGS and name not in WITHOUT_EFFECT:
                idle.setdefault(name, []).append(recipe.where(*path, name))
            elif name in known and _is_above(known[name], parameters[name]):
                cut.append(recipe.where(*path, name))
        _check_level(method, known, recipe, path, {n: v for n, v in parameters.items() if n not in idle})
    notes = [f"{at[0]}{_more(at)}: {name} has no effect: {method.name} has none" for name, at in idle.items()]
    if cut:
        notes.append(f"{cut[0]}{_more(cut)}: a density above 1 is 1: every element counts")
    return tuple(notes)


def _levels(recipe: Recipe) -> Iterator[tuple[Path, Mapping[str, SettingValue]]]:
    """The parameters of every level, and where they stand."""
    yield ("parameters",), recipe.parameters
    for n, part in enumerate(recipe.slices):
        yield ("slices", n, "parameters"), part.parameters
    for path, source in recipe.sources():
        yield (*path, "parameters"), source.parameters


def idle_filters(recipe: Recipe, names: Collection[str]) -> tuple[str, ...]:
    """A note where filters fit none of `names`, those of the parameters: they may be misspelled."""
    exact, text = set(names), "\n".join(names)
    found: dict[str, str] = {}
    for path, parameters in _levels(recipe):
        for name, value in parameters.items():
            for word in value.filters if isinstance(value, Conditions) else ():
                if word not in {None, "*"} and word not in exact and word not in text:
                    found.setdefault(word, recipe.where(*path, name))
    if not found:
        return ()
    (word, where), *rest = found.items()
    more = f" and {len(rest)} other filters fit" if len(rest) > 1 else " and another filter fit" if rest else " fits"
    return (f"{where}: the filter {printable(word, 60)!r}{more} no parameter",)


def _more(places: Sequence[str]) -> str:
    return f" and {len(places) - 1} more" if len(places) > 1 else ""


def _is_above(setting: Setting, value: SettingValue) -> bool:
    """Whether a density is above 1, which counts as 1 as in mergekit."""
    if setting.name != "density":
        return False
    inner = value.values if isinstance(value, Conditions) else (value,)
    every = [item for one in inner for item in (one if isinstance(one, tuple) else (one,))]
    return any(not isinstance(item, bool) and 1 < item <= _LARGEST for item in every)


def _as_meant(setting: Setting, value: Any) -> Any:
    """1 and 0 for a flag, 2.0 for a whole number, a density above 1."""
    if isinstance(value, tuple):
        return tuple(_as_meant(setting, item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if setting.kind == "flag" and value in {0, 1}:
        return bool(value)
    if setting.kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return min(value, 1) if setting.name == "density" and value <= _LARGEST else value


def _check_level(
    method: Method, known: Mapping[str, Setting], recipe: Recipe, path: Path, parameters: Mapping[str, SettingValue]
) -> None:
    for name, value in parameters.items():
        where = (*path, name)
        if name in WITHOUT_EFFECT:
            if not isinstance(value, bool) and value not in {0, 1}:
                raise OptionError(f"{recipe.where(*where)}: expected true or false, got {_describe(value)}")
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
    value = _as_meant(setting, value)
    if isinstance(value, tuple) and setting.kind == "integer":
        raise OptionError(
            f"{recipe.where(*path)}: {setting.name} is a whole number, and has no gradient; write one number"
        )
    for n, item in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
        if not _fits(setting, item):
            where = recipe.where(*path, *([] if n is None else [n]))
            raise OptionError(f"{where}: expected {_expected(setting)}{_of_range(item)}, got {describe(item)}")


def _fits(setting: Setting, value: Value) -> bool:
    if setting.kind == "flag" or isinstance(value, bool):
        return setting.kind == "flag" and isinstance(value, bool)
    if setting.kind == "integer" and not isinstance(value, int):
        return False
    low, high = setting.low, setting.high
    return (
        abs(value) <= _LARGEST  # false for NaN too
        and (low is None or value > low or (value == low and not setting.open_low))
        and (high is None or value < high or (value == high and not setting.open_high))
    )


def _of_range(value: Any) -> str:
    """What is to be said of numbers that sums and products would take beyond float64."""
    return " within the range of float32" if type(value) in {int, float} and abs(value) > _LARGEST else ""


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


def _describe(value: SettingValue) -> str:
    return "filters" if isinstance(value, Conditions) else describe(value)


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
    """The method's settings, and those of each of `sources` (without the base), for one parameter.

    Levels, in order: the source's own parameters, those of its slice, of its module, of the recipe, the default. Where
    none of a level's filters fits, the next level counts. `name` is the output's parameter; `names` are those of the
    sources, where slices renumber blocks. Filters of a setting per model are matched with the model's own name, as in
    mergekit; where whole models are merged and their names differ, with the output's name too.

    `depth` is the block's position in its slice, number / (blocks - 1): 1 in a slice of one block, 0 outside of blocks.
    Numbers become floats. Raises OptionError for values that are missing or invalid.
    """
    shared = (
        [recipe.parameters] if slice_number is None else [recipe.slices[slice_number].parameters, recipe.parameters]
    )
    shared += [recipe.above] if recipe.above else []
    whole: dict[str, Value] = {}
    of_models: tuple[dict[str, Value], ...] = tuple({} for _ in sources)
    for setting in method.settings:
        if not setting.per_model:
            whole[setting.name] = _value(method, setting, recipe, shared, name, depth, None)
            continue
        for n, source in enumerate(sources):
            own = name if names is None else names[n]
            levels = [source.parameters, *shared]
            # names may differ by a wrapper's prefix alone: a filter may mean either
            other = name if slice_number is None else own
            of_models[n][setting.name] = _value(method, setting, recipe, levels, own, depth, source, other)
    return whole, of_models


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
    value: Any = None
    for level in levels:
        value = level.get(setting.name)
        if isinstance(value, list | dict):
            value = read_value(value)
        if isinstance(value, Conditions):
            own = value.find(name)
            value = value.find(other) if own is None and other is not None else own
        if value is not None:
            break
    else:
        value = setting.default
    value = _as_meant(setting, value)
    if value is None or isinstance(value, Conditions):
        raise _missing(method, setting, recipe, levels, name, source)
    if isinstance(value, tuple) and setting.kind != "integer":
        value = interpolate(value, depth)
    if isinstance(value, tuple) or not _fits(setting, value):
        raise OptionError(
            f"{_at(recipe, source)}: {setting.name} for {printable(name)}: expected {_expected(setting)}"
            f"{_of_range(value)}, got {describe(value)}"
        )
    return float(value) if setting.kind == "number" else value


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
    for path, other in recipe.sources():
        if other is source:
            return recipe.where(*path)
    return recipe.where()
