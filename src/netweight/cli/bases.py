"""`--base auto --index DIR`: the base of a model, found in an index of `netweight lineage`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from netweight.errors import OptionError, printable

__all__ = ["chosen_base", "index_option"]

F = TypeVar("F", bound=Callable[..., Any])


def index_option(command: F) -> F:
    """`--index`, beside `--base auto`."""
    text = "Where --base auto looks: an index of `lineage index`."
    return click.option("--index", metavar="DIR", help=text)(command)


def chosen_base(base: str | None, models: Sequence[str], index: str | None) -> str | None:
    """The base as it was named; of "auto" the one that `models` have in the index, with a line on stderr that says why.

    Raises OptionError where one of the two options lacks the other, or models have different bases.
    """
    if base != "auto":
        if index is not None:
            raise OptionError("--index: goes with --base auto, which looks for the base there; leave it out")
        return base
    if index is None:
        raise OptionError("--base auto: expected --index DIR, an index of `netweight lineage index`, to look in")
    from netweight.jobs.lineage.job import find_base

    found = [find_base(model, index) for model in models]
    refs = {one.ref for one in found}
    if len(refs) > 1:
        said = ", ".join(f"{printable(model)}: {one.name}" for model, one in zip(models, found, strict=True))
        raise OptionError(f"--base auto: the models have different bases ({said}); measure them one by one")
    for model, one in zip(models, found, strict=True):
        click.echo(f"note: the base of {printable(model)} is {printable(one.ref)}: {one.reason}", err=True)
    return found[0].ref
