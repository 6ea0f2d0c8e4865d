"""Recipes as people write them, made what the forms expect: what mergekit takes in the same way, or ignores.

What it ignores is left out here with a note, one for each kind; what changes a result is never left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from netweight.errors import printable
from netweight.merging.recipe.yaml import Lines, Path, location

__all__ = ["SETTINGS", "as_meant"]

SETTINGS = frozenset({
    "weight", "density", "normalize", "lambda", "rescale", "int8_mask", "t", "gamma", "epsilon", "select_topk", "scale",
    "max_iter", "normalize_weights", "tol", "eps", "filter_wise", "nuslerp_flatten", "nuslerp_row_wise",
    "r", "alpha", "randlora_rank",
})  # fmt: skip
"""Names of settings, of any method, wherever they stand."""

_ASTRAY = {
    (): SETTINGS | {"revision", "layer_range"},
    ("models",): SETTINGS | {"revision", "dtype", "out_dtype", "merge_method", "base_model"},
    ("slices",): SETTINGS | {"dtype", "out_dtype", "merge_method"},
    ("slices", "sources"): SETTINGS | {"revision", "dtype", "out_dtype"},
    ("modules",): SETTINGS | {"dtype", "out_dtype", "merge_method", "base_model"},
}
"""Keys that mergekit ignores where they stand so, by the place."""
_LONGEST = 40


def as_meant(data: Mapping[str, Any], origin: str, lines: Lines) -> tuple[dict[str, Any], Lines, tuple[str, ...]]:
    """(the recipe's mapping in the form that is read, lines of its keys, notes). What is no mapping, list or text where
    one is expected stays, for the form to refuse.
    """
    meant = _Meant(origin, lines)
    made = meant.module({str(key): value for key, value in data.items()})
    return meant.recipe(made), meant.lines, tuple(meant.notes())


class _Meant:
    """One recipe's habits; `_ignored` are the places of keys that were left out, by key and place."""

    def __init__(self, origin: str, lines: Lines) -> None:
        self._origin = origin
        self.lines: Lines = lines
        self._ignored: dict[tuple[str, Path], list[Path]] = {}

    def module(self, data: dict[str, Any]) -> dict[str, Any]:
        """`modules: {default: ...}` alone says what the recipe itself says."""
        modules = data.get("modules")
        if not isinstance(modules, dict) or set(modules) != {"default"} or not isinstance(modules["default"], dict):
            return data
        inner = modules["default"]
        if inner.keys() & data.keys() or inner.keys() - {"models", "slices", "parameters"}:
            return data  # other keys are ignored in a part, where the recipe's own would count
        moved = {path[2:]: line for path, line in self.lines.items() if path[:2] == ("modules", "default")}
        self.lines = {**self.lines, **moved}
        return {key: value for key, value in data.items() if key != "modules"} | inner

    def recipe(self, data: dict[str, Any]) -> dict[str, Any]:
        """The whole recipe."""
        made = self._inner(self._entry(data, (), ()), ())
        if isinstance(made.get("modules"), dict):
            made["modules"] = {name: self._part(part, str(name)) for name, part in made["modules"].items()}
        return self._base_of_slices(made)

    def _part(self, part: Any, name: str) -> Any:
        if not isinstance(part, dict):
            return part
        path = ("modules", name)
        return self._inner(self._entry(part, path, ("modules",)), path)

    def _inner(self, made: dict[str, Any], at: Path) -> dict[str, Any]:
        """The entries of `models` and `slices` in a mapping that stands at `at`."""
        for key, inside in (("models", ()), ("slices", ("sources",))):
            if isinstance(made.get(key), list):
                made[key] = [self._listed(entry, (*at, key, n), (key,), inside) for n, entry in enumerate(made[key])]
        return made

    def _listed(self, entry: Any, path: Path, place: tuple[str, ...], inside: tuple[str, ...]) -> Any:
        if not isinstance(entry, dict):
            return entry
        made = self._entry(entry, path, place)
        for key in inside:
            if isinstance(made.get(key), list):
                made[key] = [self._listed(e, (*path, key, n), (*place, key), ()) for n, e in enumerate(made[key])]
        return made

    def _entry(self, entry: Mapping[str, Any], path: Path, place: tuple[str, ...]) -> dict[str, Any]:
        """One mapping: null is absent, keys astray are left out, values are what they say."""
        made: dict[str, Any] = {}
        for key, value in entry.items():
            if value is None and key != "model":
                continue
            if key in _ASTRAY.get(place, ()):
                self._ignored.setdefault((str(key), place), []).append((*path, key))
                continue
            change = _CHANGES.get(str(key))
            made[key] = value if change is None else change(value)
        return made

    def _base_of_slices(self, data: dict[str, Any]) -> dict[str, Any]:
        """A base that slices name, where it is that of the recipe or the only one."""
        slices = data.get("slices")
        if not isinstance(slices, list) or not all(isinstance(part, dict) for part in slices):
            return data
        named = [part["base_model"] for part in slices if "base_model" in part]
        base = data.get("base_model", named[0] if named else None)
        of_all = len(named) == len(slices) or "base_model" in data
        if not named or not of_all or any(other != base for other in named):
            return data
        parts = [{key: value for key, value in part.items() if key != "base_model"} for part in slices]
        return data | {"base_model": base, "slices": parts}

    def notes(self) -> Iterator[str]:
        """A line for each key that was left out, and where."""
        for (key, _), paths in self._ignored.items():
            at = location(self._origin, self.lines, paths[0])
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            why = "settings stand under parameters" if key in SETTINGS else "it has no meaning there"
            yield f"{at}{more}: {printable(key, _LONGEST)} is ignored, as mergekit ignores it: {why}"


def _reference(value: Any) -> Any:
    """`./a` and `a/` are `a`, where they are here: a path that is not must not become a name on the hub."""
    written = isinstance(value, str) and (value.startswith("./") or (value.endswith("/") and len(value) > 1))
    return os.path.normpath(value) if written and os.path.lexists(value) else value


def _range(value: Any) -> Any:
    """[0, 4.0] is [0, 4]."""
    if not isinstance(value, list):
        return value
    return [int(end) if isinstance(end, float) and end.is_integer() else end for end in value]


def _numbers(value: Any) -> Any:
    """Numbers in quotes are numbers, wherever values of settings stand."""
    if isinstance(value, dict):
        return {key: inner if key == "filter" else _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return value if not math.isfinite(number) else int(value) if value.strip().lstrip("+-").isdigit() else number
    return value


_CHANGES: Mapping[str, Callable[[Any], Any]] = {
    "model": _reference,
    "base_model": _reference,
    "tokenizer_source": _reference,
    "layer_range": _range,
    "parameters": _numbers,
}
"""Keys whose values are written in several ways, and what they say."""
