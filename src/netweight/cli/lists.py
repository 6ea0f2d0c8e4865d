"""Options with names that other programs gave them, and options that take several values after one name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click

from netweight.errors import nearest, printable

__all__ = ["Aliased", "SpaceSeparated", "swallowed"]

_LAST = "netweight.swallowed"


class Aliased(click.Option):
    """An option that also answers to `aliases`: names that other programs gave it, which no help text lists."""

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aliases = tuple(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register the option under all its names."""
        super().add_to_parser(parser, ctx)
        long_names, short_names = parser._long_opt, parser._short_opt  # noqa: SLF001
        first = next(name for name in self.opts if name in long_names)
        for alias in self.aliases:
            (long_names if alias.startswith("--") else short_names)[alias] = long_names[first]


class SpaceSeparated(Aliased):
    """An option that takes all values up to the next option, as argparse's `nargs="+"` does.

    `--models a b`, `--models a --models b` and `--models=a b` mean the same; the command gets a tuple. A value that
    starts with a dash ends the list, so a folder of such a name is given as `./-name`; where numbers are expected, a
    negative one is a value. What cannot be a value ends the list too: what is no number, and, where `words` gives all
    values that there are, what is none of them, unless it looks like a slip: near to one, no path and no hub id.

    Numbers and words may be joined by commas (`0.5,0.5`). So may `paths`: a value that exists as it is stays whole,
    also one that does so before or behind a `+`, and so does a URL, unless every piece is one.
    """

    def __init__(
        self, *args: Any, words: Callable[[], Collection[str]] | None = None, paths: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})
        self.words, self.paths = words, paths
        self.numbers = isinstance(self.type, click.types.FloatParamType | click.types.IntParamType)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register the option, then let it go on taking values."""
        super().add_to_parser(parser, ctx)
        registered = {id(option): option for name in self.opts if (option := parser._long_opt.get(name))}  # noqa: SLF001
        for option in registered.values():
            option.process = _greedy(option.process, self, parser)

    def takes(self, word: str) -> bool:
        """Whether this word, behind another value, is a value."""
        if self.numbers:
            return all(_is_number(piece) for piece in self.pieces(word))
        if word.startswith("-"):
            return False
        if self.words is None:
            return True
        known = self.words()
        return all(piece in known or _is_slip(piece, known) for piece in self.pieces(word))

    def pieces(self, value: str) -> list[str]:
        """The values that are joined by commas in `value`."""
        pieces = value.split(",")
        if len(pieces) == 1 or not all(pieces):
            return [value]
        if self.numbers or self.words is not None:
            return pieces
        return pieces if self.paths and _may_split(value, pieces) else [value]


def _is_slip(word: str, known: Collection[str]) -> bool:
    return "/" not in word and nearest(word, known) is not None and not Path(word).exists()


def _may_split(value: str, pieces: list[str]) -> bool:
    if "://" in value and not all("://" in piece for piece in pieces):
        return False
    return not any("," in part and Path(part).exists() for part in (value, *value.split("+")))


def _greedy(process: Callable[[Any, Any], None], option: SpaceSeparated, parser: Any) -> Callable[[Any, Any], None]:
    def take_all(value: Any, state: Any) -> None:
        if value in parser._long_opt or value in parser._short_opt:  # noqa: SLF001 - click takes the next option for it
            raise click.BadOptionUsage(option.opts[0], f"{option.opts[0]}: expected a value, got none", parser.ctx)
        taken = [value]
        while state.rargs and option.takes(state.rargs[0]):
            taken.append(state.rargs.pop(0))
        if len(taken) > 1:
            parser.ctx.meta[_LAST] = (option.opts[0], taken[-1])
        for word in taken:
            for piece in option.pieces(word):
                process(piece, state)

    return take_all


def swallowed(ctx: click.Context) -> str:
    """The end of an error for an argument that is missing: which list took the words behind it; nothing where none
    did.
    """
    if _LAST not in ctx.meta:
        return ""
    option, last = ctx.meta[_LAST]
    return f"; {option} took '{printable(last)}' too: put it in front of {option}, or end the list by --"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
