"""Options that several commands share, each in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from netweight.cli.lists import Aliased, SpaceSeparated, swallowed
from netweight.errors import OptionError, printable
from netweight.measures.registry import BY_NAME, COMPARED, SCANNED
from netweight.run.devices import check_device, without_gpu

__all__ = [
    "complete_words",
    "device_options",
    "executor_options",
    "filter_options",
    "format_option",
    "low_memory_option",
    "methods_option",
    "model_file_options",
    "one_model",
    "options_from",
    "output_option",
    "parse_size",
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


def complete_words(words: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What a shell offers for an option whose values are these words."""
    return lambda _context, _parameter, incomplete: [word for word in words() if word.startswith(incomplete)]


def _check_device(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001 - click's signature
    return check_device(value)


def device_options(command: F) -> F:
    """--device and --multi-gpu."""
    command = click.option("--multi-gpu", is_flag=True, help="Spread the work over all GPUs.")(command)
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="NAME",
        callback=_check_device,
        shell_complete=complete_words(lambda: ("auto", "cpu", "cuda", "cuda:0", "mps", "xpu")),
        help="auto, cpu, cuda[:N], mps, xpu[:N]; see `devices`.",
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


_DRY_RUN = "Show what would be read, and the memory it takes; read no data."


def run_options(command: F, *, dry_run: str = _DRY_RUN) -> F:
    """--workers, --memory, --dry-run (with the help text `dry_run`) and --resume, for commands that stream tensors."""
    command = click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")(command)
    command = click.option("--dry-run", is_flag=True, help=dry_run)(command)
    command = click.option(
        "--memory",
        type=parse_size,
        metavar="SIZE",
        help="At most, e.g. 512MB or 2GiB. [default: 1GiB or 1/4 of RAM]",
    )(command)
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Threads. The results do not depend on it."
    )(command)


def executor_options(command: F) -> F:
    """--executor and --ray-address, for commands that stream tensors."""
    command = click.option(
        "--ray-address",
        metavar="ADDR",
        help="The cluster: HOST:PORT, or auto. [default: this machine]",
    )(command)
    return click.option(
        "--executor",
        "executor_name",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        show_default=True,
        help="Threads, or processes of a Ray cluster.",
    )(command)


class _Short(click.Option):
    """A short form of another option, in whose help it is named."""

    def get_help_record(self, ctx: click.Context) -> None:
        """No line of its own."""


_SHORT = "netweight.format"


def _note_format(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        name = param.opts[-1]
        _check_format(ctx.meta.setdefault(_SHORT, name), name)


def _check_format(name: str, other: str) -> None:
    if name != other:
        raise OptionError(f"{name} and {other}: say two different things; leave one of them out")


def _resolve_format(ctx: click.Context, param: click.Parameter, value: str) -> str:
    short = ctx.meta.get(_SHORT)
    if short is not None:
        meant = short.removeprefix("--")
        if ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE and value != meant:
            _check_format(short, "--format")
        value = meant
    if value == "quiet":
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub, which is loaded later, has bars of its own
    return value


def format_option(command: F, further: Sequence[str] = ()) -> F:
    """--format human|json|quiet and what else a command can print; --json and --quiet, or -q, are short for it. Raises
    OptionError where two of them say different things.
    """
    short = partial(
        click.option, cls=_Short, is_flag=True, is_eager=True, expose_value=False, callback=_note_format
    )  # eager: before --format, which then knows
    command = short("-q", "--quiet", help="The same as --format quiet.")(command)
    command = short("--json", help="The same as --format json.")(command)
    others = "".join(f"{name}, " for name in further)
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["human", "json", *further, "quiet"]),
        default="human",
        show_default=True,
        metavar="NAME",
        callback=_resolve_format,
        help=f"human, {others}json (--json) or quiet (-q, --quiet).",
    )(command)


def methods_option(command: F, usual: str, *, by_name: bool = False) -> F:
    """--methods, the measures of a scan, also those that are none of all; `usual` says what is measured where it is
    not given.
    """
    known = SCANNED if by_name else COMPARED
    names = "Of those below, or all." if by_name else f"{', '.join(COMPARED)}, or all."
    return click.option(
        "--methods",
        cls=SpaceSeparated,
        metavar="METHOD ...",
        words=lambda: (*known, *(BY_NAME if by_name else ()), "all"),
        shell_complete=complete_words(lambda: (*known, "all")),
        help=f"{names} [default: {usual}]",
    )(command)


def remote_option(command: F) -> F:
    """--remote, for commands that read weights."""
    return click.option(
        "--remote",
        is_flag=True,
        help="Read over the network only what is needed; else fetch it first.",
    )(command)


def verbose_option(command: F) -> F:
    """--verbose, or -v."""
    return click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")(command)


def seed_option(command: F) -> F:
    """--seed."""
    return click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of anything random.")(
        command
    )


def output_option(command: F, *, aliases: Sequence[str], what: str) -> F:
    """--output, or -o, for commands that make a folder which is `what`, such as "the adapter"."""
    where = f"Where {what} goes; needed unless --dry-run."
    return click.option("-o", "--output", cls=Aliased, aliases=aliases, metavar="DIR", help=where)(command)


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


class _Omitting(click.Option):
    """A flag that is on: help shows how to switch it off alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002 - click's signature
        """The line of --no-NAME."""
        return self.secondary_opts[0], f"{self.help}  [default: {self.opts[0]}]"


def model_file_options(command: F) -> F:
    """--no-copy-tokenizer and --no-write-model-card, for commands that write a model's folder."""
    command = click.option(
        "--write-model-card/--no-write-model-card", "card", cls=_Omitting, default=True, help="Write no README.md."
    )(command)
    return click.option(
        "--copy-tokenizer/--no-copy-tokenizer", cls=_Omitting, default=True, help="Leave out the tokenizer's files."
    )(command)


def replacing_options(command: F, *, what: str) -> F:
    """--overwrite and --no-fsync, for commands that make a folder which is `what`, such as "adapter"."""
    command = click.option("--no-fsync", is_flag=True, help="Leave it to the system when the files reach the disk.")(
        command
    )
    return click.option("--overwrite", is_flag=True, help=f"Replace an earlier {what} in DIR.")(command)


def one_model(argument: str | None, named: str | None) -> str:
    """The one MODEL of a command that also takes it as --model; raises UsageError where there is none or two."""
    if (argument is None) == (named is None):
        hint = swallowed(click.get_current_context())
        both = "MODEL is given twice: as argument and --model"
        raise click.UsageError(f"expected one MODEL{hint}" if argument is None else both)
    return argument if argument is not None else str(named)


def low_memory_option(command: F) -> F:
    """--low_cpu_mem_usage of another tool, where it changed no result; here memory is bounded anyway."""
    return click.option(
        "--low-cpu-mem-usage",
        cls=Aliased,
        aliases=["--low_cpu_mem_usage"],
        is_flag=True,
        hidden=True,
        expose_value=False,
    )(command)
