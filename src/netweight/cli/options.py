"""Options that several commands share, each in one place, and an option that takes several values after one name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netweight.errors import OptionError, printable
from netweight.measures.registry import DRAWN, SCANNED
from netweight.run.devices import check_device, without_gpu

__all__ = [
    "Aliased",
    "SpaceSeparated",
    "device_options",
    "executor_options",
    "filter_options",
    "format_option",
    "methods_option",
    "model_file_options",
    "options_from",
    "output_option",
    "parse_size",
    "quieted",
    "remote_option",
    "replacing_options",
    "report_option",
    "run_options",
    "say_without_gpu",
    "seed_option",
    "shard_size_option",
    "verbose_option",
]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

F = TypeVar("F", bound=Callable[..., Any])
O = TypeVar("O", bound="DataclassInstance")

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str, option: str = "--memory") -> int:
    """Bytes in `512MB` (decimal), `1GiB` (binary), `1g` (binary, as in other tools' memory options) or `1000`.

    Raises OptionError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match:
        number, prefix, binary = match.groups()
        decimal = text.strip().lower().endswith("b") and not binary
        size = int(float(number) * (1000 if decimal else 1024) ** _POWERS[prefix.lower()])
        if size >= 1:
            return size
    raise OptionError(f"{option}: expected a size such as 512MB, 1GiB or 2g, got '{printable(text)}'")


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
    negative one is a value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register the option, then let it go on taking values."""
        super().add_to_parser(parser, ctx)
        registered = {id(option): option for name in self.opts if (option := parser._long_opt.get(name))}  # noqa: SLF001
        for option in registered.values():
            option.process = _greedy(option.process, self, parser)


def _greedy(process: Callable[[Any, Any], None], option: SpaceSeparated, parser: Any) -> Callable[[Any, Any], None]:
    numbers = isinstance(option.type, click.types.FloatParamType | click.types.IntParamType)

    def take_all(value: Any, state: Any) -> None:
        if value in parser._long_opt or value in parser._short_opt:  # noqa: SLF001 - click takes the next option for it
            raise click.BadOptionUsage(option.opts[0], f"{option.opts[0]}: expected a value, got none", parser.ctx)
        process(value, state)
        while state.rargs and (not state.rargs[0].startswith("-") or (numbers and _is_number(state.rargs[0]))):
            process(state.rargs.pop(0), state)

    return take_all


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_device(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001 - click's signature
    return check_device(value)


def device_options(command: F) -> F:
    """--device and --multi-gpu."""
    command = click.option("--multi-gpu", is_flag=True, help="Spread the work over all GPUs.")(command)
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda|cuda:N",
        callback=_check_device,
        help="Where to compute; also mps, xpu and xpu:N. `netweight devices` says what is there.",
    )(command)


def say_without_gpu(given: Mapping[str, Any], what: str, output_format: str) -> None:
    """The note, on stderr, of a command that takes device_options and computes on the CPU alone."""
    note = without_gpu(given["device"], given["multi_gpu"], what)
    if note is not None and output_format != "quiet":
        click.echo(f"note: {note}", err=True)


def options_from(kind: type[O], given: Mapping[str, Any], **more: Any) -> O:
    """A job's options: those of its fields that the command line has by the same name, and `more`."""
    names = [field.name for field in fields(kind) if field.name in given]
    return kind(**{name: given[name] for name in names} | more)


def filter_options(command: F) -> F:
    """--include and --exclude, globs on parameter names."""
    command = click.option(
        "--exclude", multiple=True, metavar="GLOB", help="Leave out parameters whose name matches; may be repeated."
    )(command)
    return click.option(
        "--include", multiple=True, metavar="GLOB", help="Only parameters whose name matches; may be repeated."
    )(command)


_DRY_RUN = "Show what would be read, and how much memory it takes; read no tensor data."


def run_options(command: F, *, dry_run: str = _DRY_RUN) -> F:
    """--workers, --memory, --dry-run (with the help text `dry_run`) and --resume, for commands that stream tensors."""
    command = click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")(command)
    command = click.option("--dry-run", is_flag=True, help=dry_run)(command)
    command = click.option(
        "--memory",
        type=parse_size,
        metavar="SIZE",
        help="Memory to stay within, e.g. 512MB, 1GiB. [default: 1GiB or 1/4 of RAM]",
    )(command)
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Threads. The results do not depend on it."
    )(command)


def executor_options(command: F) -> F:
    """--executor and --ray-address, for commands that stream tensors."""
    command = click.option(
        "--ray-address",
        metavar="ADDR",
        help="The cluster for --executor ray: HOST:PORT, or auto. [default: this machine]",
    )(command)
    return click.option(
        "--executor",
        "executor_name",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        show_default=True,
        help="Who does the work: threads, or processes of a Ray cluster.",
    )(command)


def quieted(output_format: str) -> str:
    """`output_format`; where it is quiet, other libraries are told so too."""
    if output_format == "quiet":
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub, which is loaded later, has bars of its own
    return output_format


def _quietly(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001 - click's signature
    return quieted(value)


def format_option(command: F, further: Sequence[str] = ()) -> F:
    """--format human|json|quiet, and what else a command can print."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["human", "json", *further, "quiet"]),
        default="human",
        show_default=True,
        callback=_quietly,
        help="What to print on stdout.",
    )(command)


def _complete_measures(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    return [name for name in (*SCANNED, "all") if name.startswith(incomplete)]


def methods_option(command: F, usual: str, *, drawn: bool = False) -> F:
    """--methods, the measures of a scan, also those that are only `drawn`; `usual` says what is measured where it is
    not given.
    """
    beside = f"; not {' and '.join(DRAWN)}, which a page draws" if drawn else ""
    return click.option(
        "--methods",
        cls=SpaceSeparated,
        metavar="METHOD ...",
        shell_complete=_complete_measures,
        help=f"{', '.join(SCANNED)}, or all{beside}. [default: {usual}]",
    )(command)


def remote_option(command: F) -> F:
    """--remote, for commands that read weights."""
    return click.option(
        "--remote",
        is_flag=True,
        help="Read a model of a hub over the network, only the bytes needed; else it is fetched into the cache first.",
    )(command)


def verbose_option(command: F) -> F:
    """--verbose, or -v."""
    return click.option("--verbose", cls=Aliased, aliases=["-v"], is_flag=True, help="Say more on stderr.")(command)


def seed_option(command: F) -> F:
    """--seed."""
    return click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of anything random.")(
        command
    )


def output_option(command: F, *, aliases: Sequence[str], what: str) -> F:
    """--output, for commands that make a folder which is `what`, such as "the adapter"."""
    return click.option(
        "--output", cls=Aliased, aliases=aliases, metavar="DIR", help=f"Where {what} goes; needed unless --dry-run."
    )(command)


def _shard_size(ctx: click.Context, param: click.Parameter, value: str) -> int:  # noqa: ARG001 - click's signature
    return parse_size(value, "--max-shard-size")


def shard_size_option(command: F) -> F:
    """--max-shard-size, in bytes."""
    return click.option(
        "--max-shard-size", default="5GB", show_default=True, metavar="SIZE", callback=_shard_size, help="Of one file."
    )(command)


def report_option(command: F) -> F:
    """--report FILE.html."""
    return click.option("--report", metavar="FILE", help="Write a page of the results: one .html file, to look at.")(
        command
    )


def model_file_options(command: F) -> F:
    """--no-copy-tokenizer and --no-write-model-card, for commands that write a model's folder."""
    command = click.option(
        "--write-model-card/--no-write-model-card", "card", default=True, show_default=True, help="README.md, or none."
    )(command)
    return click.option(
        "--copy-tokenizer/--no-copy-tokenizer", default=True, show_default=True, help="The tokenizer's files, or none."
    )(command)


def replacing_options(command: F, *, what: str) -> F:
    """--overwrite and --no-fsync, for commands that make a folder which is `what`, such as "adapter"."""
    command = click.option("--no-fsync", is_flag=True, help="Leave it to the system when the files reach the disk.")(
        command
    )
    return click.option("--overwrite", is_flag=True, help=f"Replace an earlier {what} in DIR.")(command)
