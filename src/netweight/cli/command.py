"""What every command of netweight is: its help has options under headings and ends with examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from netweight.cli.lists import swallowed

__all__ = ["Command", "write_examples"]

_HEADINGS = {
    "What": (),
    "Weights": ("mode", "alpha", "beta", "granularity", "l2_norms", "delta", "weights"),
    "Output": (
        "output",
        "outdir",
        "output_dir",
        "out",
        "report",
        "plots",
        "plot_tensors",
        "health",
        "top_issues",
        "top_changes",
        "output_format",
        "tree",
        "depth",
        "max_shard_size",
        "copy_tokenizer",
        "card",
        "overwrite",
        "no_fsync",
    ),
    "Resources": ("remote", "workers", "memory", "device", "multi_gpu", "executor_name", "ray_address"),
    "Other": ("dry_run", "check", "resume", "strict", "verbose", "seed", "random_state", "help"),
}
"""{heading: the parameters below it}; what is under no other one is under the first."""
_WIDEST = 26  # columns of an option's name; a wider one has a line of its own


class Command(click.Command):
    """A command; `hints` gives {an option that it has not: what is typed in its place}, asked for in an error alone."""

    def __init__(self, *args: Any, hints: Callable[[], Mapping[str, str]] = dict, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # also where a command is called without its group, whose settings its contexts inherit
        self.context_settings = {"help_option_names": ["-h", "--help"], **self.context_settings}
        self.hints = hints

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError; where an argument is missing, it says which list has taken it."""
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as missing:
            hint = swallowed(ctx) if isinstance(missing.param, click.Argument) else ""
            if not hint:
                raise
            raise click.UsageError(f"{missing.format_message().rstrip('.')}{hint}", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each under its heading, all with their help in one column."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                name = "help" if "--help" in option.opts else option.name  # click names it in other ways
                under = [heading for heading, names in _HEADINGS.items() if name in names]
                rows[under[0] if under else "What"].append(record)
        narrow = [len(name) for found in rows.values() for name, _ in found if len(name) <= _WIDEST]
        for heading, found in rows.items():
            if found:
                with formatter.section(heading):
                    _write_rows(formatter, found, max(narrow))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, then the examples."""
        super().format_epilog(ctx, formatter)
        write_examples(str(self.name), formatter)


def write_examples(name: str, formatter: click.HelpFormatter) -> None:
    """The section with the examples of the command of this name, as they are typed."""
    from netweight.cli.examples import EXAMPLES  # help alone needs them

    with formatter.section("Examples"):
        for line in "\n".join(EXAMPLES[name]).splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _write_rows(formatter: click.HelpFormatter, rows: list[tuple[str, str]], width: int) -> None:
    """A definition list whose first column has `width` columns, or more in lines of their own."""
    first, *others = rows
    formatter.write_dl([(first[0].ljust(width), first[1]), *others], col_max=width)
