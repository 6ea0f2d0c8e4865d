"""A command that knows what an unknown option was meant to be, where it is a setting of a merge method."""

from __future__ import annotations

import difflib
from typing import Any

import click

from netweight.errors import printable

__all__ = ["WithSettings"]


class WithSettings(click.Command):
    """`netweight merge`: `--density 0.5`, or a misspelling of it, is told to be `--set density=VALUE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError for an unknown option, with what may have been meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            settings = _settings()
            near = difflib.get_close_matches(name, [*settings, *(error.possibilities or ())], n=1)
            if not near or near[0] not in settings:
                raise
            meant = f"--set {settings[near[0]]}=VALUE"
            raise click.UsageError(f"No such option '{printable(name)}' (did you mean '{meant}'?)", ctx) from None


def _settings() -> dict[str, str]:
    """{as an option: the setting}; `--weights` is an option, and nearer than a setting."""
    from netweight.merging.registry import METHODS, find

    names: dict[str, Any] = {s.name: None for method in METHODS for s in find(method).settings if s.name != "weight"}
    return {f"--{name.replace('_', '-')}": name for name in names}
