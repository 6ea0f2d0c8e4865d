"""What is compiled: functions in Python, as modules of loops declare them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["STAND_INS", "Deferred", "Kind", "Source", "deferred", "stands_for"]

F = TypeVar("F", bound=Callable[..., object])

Kind = str
"""What an argument is, for which code is made: "int", "float", "bool"; of a numpy scalar "0" and its type's character;
of an array its number of dimensions and that character, then "C" where it is contiguous, else "A", "r" where it is
read-only, and "u" where it is not aligned.
"""


class Source:
    """A function to be compiled, and in which ways its sums may be formed otherwise than written."""

    def __init__(self, function: Callable[..., object], fastmath: frozenset[str]) -> None:
        self.function = function
        self.fastmath = fastmath
        self.__doc__, self.__module__ = function.__doc__, function.__module__

    @property
    def name(self) -> str:
        """As its files are called: module and function."""
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__qualname__}"


class Deferred:
    """What only numba can make, in a loop's globals under its name until a loop is compiled: `make()` of it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def deferred(make: Callable[[], Any]) -> Any:
    """The result of `make`, which imports numba, wherever a loop uses it."""
    return Deferred(make)


STAND_INS: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = []
"""(function, its stand-in, options) of `stands_for`, for the compiler."""


def stands_for(function: Callable[..., Any], **options: Any) -> Callable[[F], F]:
    """numba's `overload`, when a loop is compiled: the decorated function of types says what stands for `function`."""

    def declare(stand_in: F) -> F:
        STAND_INS.append((function, stand_in, options))
        return stand_in

    return declare
