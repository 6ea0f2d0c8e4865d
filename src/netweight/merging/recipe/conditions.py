"""What a recipe may write for a setting: a number or flag, a gradient over depth, or such values under filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

from netweight.errors import printable
from netweight.merging.course import Value

__all__ = ["BadValue", "Conditions", "Gradient", "SettingValue", "describe", "interpolate", "read_value", "yaml_value"]

Gradient: TypeAlias = tuple[Value, ...]
"""Numbers that are interpolated over depth, or flags that follow one another in steps."""


@dataclass(frozen=True)
class Conditions:
    """Values under filters: the first filter that is part of a parameter's name counts; None and `*` fit all."""

    filters: tuple[str | None, ...]
    values: tuple[Value | Gradient, ...]

    def find(self, name: str) -> Value | Gradient | None:
        """The value for the parameter `name`, None where no filter fits."""
        for n, word in enumerate(self.filters):
            if n == self._longest_first and (exact := self._first.get(name, -1)) >= n:
                return self.values[exact]
            if word is None or word in name or word == "*":
                return self.values[n]
        return None

    @cached_property
    def _first(self) -> dict[str | None, int]:
        return {word: n for n, word in reversed(list(enumerate(self.filters))) if n >= self._longest_first}

    @cached_property
    def _longest_first(self) -> int:
        # from here on a filter that equals a name is the first that fits it: those before it are longer, or as long
        lengths = [-1 if word in {None, "*"} else len(word or "") for word in self.filters]
        return max((n for n, (a, b) in enumerate(pairwise(lengths), start=1) if a < b), default=0)


SettingValue: TypeAlias = Value | Gradient | Conditions
"""What a recipe gives for one setting."""


class BadValue(ValueError):  # noqa: N818 - not an error of netweight's tree: callers that know the location raise one
    """A value that no setting can have; `at` is the path inside it."""

    def __init__(self, message: str, at: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.at = tuple(at)


def describe(value: Any) -> str:
    """`value` in the words of a message."""
    if isinstance(value, str):
        return f"the text {printable(value, 60)!r}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a huge number" if isinstance(value, int) and value.bit_length() > 200 else repr(value)
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "something else"


def read_value(raw: Any) -> SettingValue:
    """The value that YAML gives, its form checked (not a setting's bounds); raises BadValue."""
    if isinstance(raw, Conditions):
        return raw
    if isinstance(raw, dict):
        return _conditions([raw], single=True)
    if isinstance(raw, list | tuple) and any(isinstance(item, dict) for item in raw):
        return _conditions(raw)
    return _plain(raw, ())


def _conditions(items: Sequence[Any], *, single: bool = False) -> Conditions:
    filters: list[str | None] = []
    values: list[Value | Gradient] = []
    for n, item in enumerate(items):
        at: tuple[str | int, ...] = () if single else (n,)
        if not isinstance(item, dict):
            raise BadValue(f"expected {{filter: ..., value: ...}} as its neighbours are, got {describe(item)}", at)
        for key in item:
            if key not in {"filter", "value"}:
                raise BadValue(f"unknown key {printable(key, 60)!r}: expected filter and value", (*at, key))
        if "value" not in item:
            raise BadValue("a filter without a value: add value: ...", at)
        word = item.get("filter")
        if not isinstance(word, str | None):
            raise BadValue(f"expected text, a part of parameters' names, got {describe(word)}", (*at, "filter"))
        filters.append(word)
        values.append(_plain(item["value"], (*at, "value")))
    return Conditions(tuple(filters), tuple(values))


def _plain(raw: Any, at: tuple[str | int, ...]) -> Value | Gradient:
    if not isinstance(raw, list | tuple):
        return _scalar(raw, at)
    if not raw:
        raise BadValue("expected values, got an empty list: leave the key out", at)
    values = tuple(_scalar(item, (*at, n)) for n, item in enumerate(raw))
    if len({isinstance(value, bool) for value in values}) > 1:
        raise BadValue("expected numbers or flags, got both in one list", at)
    return values


def _scalar(raw: Any, at: tuple[str | int, ...]) -> Value:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int | float):
        if not math.isfinite(raw) if isinstance(raw, float) else abs(raw) >= 1 << 1023:
            raise BadValue(f"expected a finite number, got {describe(raw)}", at)
        return raw
    hint = "; remove the quotes" if isinstance(raw, str) and _is_number(raw) else ""
    raise BadValue(f"expected a number, true or false, a list of them, or filters, got {describe(raw)}{hint}", at)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return text.lower() in {"true", "false"}


def yaml_value(value: SettingValue) -> Any:
    """`value` as YAML and JSON have it: the inverse of `read_value`."""
    if isinstance(value, Conditions):
        pairs = zip(value.filters, value.values, strict=True)
        return [({} if word is None else {"filter": word}) | {"value": yaml_value(inner)} for word, inner in pairs]
    return list(value) if isinstance(value, tuple) else value


def interpolate(value: Value | Gradient, depth: float) -> Value:
    """`value` at `depth` in [0, 1]: numbers linearly between neighbours, flags in steps, as in mergekit."""
    if not isinstance(value, tuple):
        return value
    position = depth * (len(value) - 1)
    left = min(int(position), len(value) - 1)
    if isinstance(value[left], bool):
        return value[left]
    a, b = value[left], value[min(left + 1, len(value) - 1)]
    part = position - left
    return min(max((1 - part) * a + part * b, min(a, b)), max(a, b))
