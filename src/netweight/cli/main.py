"""The program `netweight`: finds the command, and turns every error that is netweight's own into one line and an exit
code.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from netweight.cli.endings import heeding
from netweight.cli.lazy import LazyGroup
from netweight.cli.suggestions import hint_for_option
from netweight.errors import NetweightError, printable
from netweight.version import __version__
from netweight.views.text import one_line

__all__ = ["cli", "main"]

COMMANDS = {
    "info": ("netweight.cli.info:info", "What is in a checkpoint, from its headers alone."),
    "structure": ("netweight.cli.structure:structure", "What models are made of, and what pruning left of their base."),
    "scan": ("netweight.cli.scan:scan", "Statistics, spectra, quantization risk, sparsity of matrices."),
    "compare": ("netweight.cli.compare:compare", "What differs between two models, from their weights."),
    "lineage": ("netweight.cli.lineage:lineage", "Which models descend from which, with evidence."),
    "embeddings": ("netweight.cli.embeddings:embeddings", "The token embedding in clusters; rows that look untrained."),
    "delta": ("netweight.cli.delta:delta", "What fine-tunes changed: task vectors, and how alike they are."),
    "report": ("netweight.cli.report:report", "One HTML page of results, to look at and to send."),
    "merge": ("netweight.cli.merge:merge", "Merge models, by mergekit's recipes or by options; crash-safe."),
    "convert": ("netweight.cli.convert:convert", "Write any model, quantised or not, as dense safetensors."),
    "extract-lora": (
        "netweight.cli.extract_lora:extract_lora",
        "A LoRA adapter out of a fine-tune and its base.",
    ),
    "verify": ("netweight.cli.verify:verify", "Compute a merged model again, and compare it with its files."),
    "devices": ("netweight.cli.devices:devices", "What there is to compute on, and what is used for which work."),
    "download": ("netweight.cli.download:download", "Fetch a model from the hub: resumed, verified, whole."),
    "plan": ("netweight.cli.plan:plan", "Which tensor takes which number format, for a size."),
    "estimate": ("netweight.cli.estimate:estimate", "How long a job would take on this machine, and what it reads."),
    "demo": ("netweight.cli.demo:demo", "Make small models, and run the other commands on them."),
    "help": ("netweight.cli.help:help_command", "Help, of one command where it is named."),
}

_ASKED_BY = "_NETWEIGHT_COMPLETE"  # the variable by which a shell asks for completions, in click's form
_OBJECTS = 100_000  # made between two searches for garbage: libraries make many while they load, and none is garbage
_BEYOND: dict[type[Exception], str] = {
    OverflowError: "a number is beyond what float64 holds",
    RecursionError: "an input is nested too deeply",
    MemoryError: "there is not enough memory",
}
_ASLEEP = "OPENBLAS_THREAD_TIMEOUT", "4"  # numpy's threads, which no command gives work, else look for some in a loop
_WIDTH = 100  # columns of help at most: longer lines are hard to read
_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a program that the signal ends returns


def _complete_by(function: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """Print what this function of `completion` makes of the shell's name, and leave."""

    def print_it(ctx: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
        if shell is not None and not ctx.resilient_parsing:
            from netweight.cli import completion

            click.echo(getattr(completion, function)(ctx.command, shell))
            ctx.exit()

    return print_it


@click.group(
    "netweight",
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH},
    invoke_without_command=True,
    epilog="`netweight COMMAND --help` says more about each.",
)
@click.version_option(__version__, "-V", "--version", prog_name="netweight", message="%(prog)s %(version)s")
@click.option(
    "--install-completion",
    is_flag=False,
    flag_value="",
    metavar="[SHELL]",
    is_eager=True,
    expose_value=False,
    callback=_complete_by("install"),
    help="Have bash, zsh or fish complete commands and options. [default: $SHELL]",
)
@click.option(
    "--show-completion",
    is_flag=False,
    flag_value="",
    metavar="[SHELL]",
    is_eager=True,
    expose_value=False,
    callback=_complete_by("script"),
    help="Print what the shell must read for it.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Weighs neural nets: what is in a checkpoint, what a fine-tune changed, how models relate.

    A MODEL is a folder (safetensors, torch, GGUF or npz files, sharded or not), a single file, a model of the Hugging
    Face hub (org/name, org/name@revision, hf://org/name) or a URL. Results go to stdout and into files, progress and
    messages to stderr; tables fit the terminal, and are as wide as they need in a pipe. NO_COLOR and COLUMNS are
    honoured, and so are the hub's HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code: 0, 1 failed job, 2 bad input, 130 interrupted, 141 where the reader
    of a pipe has gone, and 128 + N where the signal N ended it (143 SIGTERM, 129 SIGHUP).
    """
    gc.set_threshold(_OBJECTS, 50, 100)
    os.environ.setdefault(*_ASLEEP)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: what would be printed is not wanted
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    with heeding() as heard:
        code = _run(args)
    if heard and code:
        code = 128 + heard[0]
    gc.freeze()  # the process ends: walking every object of every library once more would take half a second
    sys.exit(code)


def _run(args: Sequence[str] | None) -> int:
    stdout = sys.stdout
    if _ASKED_BY in os.environ:
        from netweight.cli.completion import register

        register()
    try:
        code = cli.main(args=args, prog_name="netweight", standalone_mode=False)
        sys.stdout.flush()
    except click.NoSuchOption as error:
        hint = hint_for_option(error.option_name, error.ctx.command) if error.ctx else ""
        command = error.ctx.command_path if error.ctx else "netweight"
        return _fail(f"No such option '{printable(error.option_name)}'{hint}; see `{command} --help`", error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "netweight"
        return _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except NetweightError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _drop_stdout()
        return _BROKEN_PIPE
    except SystemExit as left:  # where click meets a broken pipe, it puts something else in the place of stdout
        return _BROKEN_PIPE if sys.stdout is not stdout else int(left.code or 0)
    except OSError as error:
        where = f"{printable(str(error.filename), 300)}: " if error.filename else "stdout or a file: "
        _drop_stdout()
        return _fail(f"{where}{error.strerror or error}", 1)
    except (OverflowError, RecursionError, MemoryError) as error:
        what = next(what for kind, what in _BEYOND.items() if isinstance(error, kind))
        return _fail(f"{what}: {str(error) or 'no more is known'}; no result was put in its place", 1)
    return code if isinstance(code, int) else 0


def _drop_stdout() -> None:
    """What is still to be printed goes nowhere: the interpreter flushes stdout at exit, and would complain there."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    line = f"error: {one_line(message)}"
    plain = bool(os.environ.get("NO_COLOR"))
    try:
        click.echo(line if plain else click.style(line, fg="red"), err=True)
    except OSError:  # a terminal that has gone hears nothing more
        return code
    return code
