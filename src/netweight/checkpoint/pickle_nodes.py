"""What a pickle describes, as inert data: no class or function that it names is ever imported, built or called."""

from __future__ import annotations

from typing import Any

__all__ = ["Blob", "Call", "Global", "Mapped", "Persistent"]


class Global:
    """A name that the pickle refers to, `module.name`; only ever text."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def full(self) -> str:
        """`module.name`."""
        return f"{self.module}.{self.name}"


class Mapped:
    """A dict or OrderedDict, as pairs: hostile keys are never hashed."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs

    def get(self, key: str) -> Any:
        """The last value of `key`, or None."""
        return next((value for name, value in reversed(self.pairs) if type(name) is str and name == key), None)


class Call:
    """What `function(*args)` would have made, with what the pickle then puts into it."""

    __slots__ = ("args", "elements", "function", "pairs", "state")

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.state: Any = None
        self.pairs: list[tuple[Any, Any]] | None = None
        self.elements: list[Any] | None = None

    @property
    def of(self) -> str:
        """The full name of what was to be called, or nothing where that is not a plain name."""
        return self.function.full if isinstance(self.function, Global) else ""


class Persistent:
    """A reference to something outside the pickle: a storage, mostly."""

    __slots__ = ("pid",)

    def __init__(self, pid: Any) -> None:
        self.pid = pid


class Blob:
    """Bytes inside the pickle, of which only the number is kept."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size
