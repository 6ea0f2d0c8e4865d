"""The options of `mergekit-yaml` 0.1.5 that `netweight merge` takes, hidden in its help: those that mean something here
become netweight's own, and one note names those that nothing here needs. docs/merging.md has a table of all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from netweight.errors import OptionError, printable

__all__ = ["EPILOG", "NEEDLESS", "mergekit_options", "translated"]

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = "The options of mergekit-yaml are taken too: docs/merging.md has a table of them."

NEEDLESS = {
    "--lazy-unpickle": "weights are always read piece by piece",
    "--low-cpu-memory": "--memory bounds what is held",
    "--read-to-gpu": "--device says where blocks are computed",
    "--clone-tensors": "every tensor is written on its own",
    "--async-write": "files are always written in the background",
    "--write-threads": "--workers is the number of threads",
    "--trust-remote-code": "no code of a model is run",
    "--lazy": "with --intermediate-dir, models that are there already are used",
    "--lora-merge-cache": "adapters are added while weights are read, and nothing is stored",
    "--lora-merge-dtype": "adapters are added in float32, and rounded once, with the result",
}
"""{option: why nothing here needs it}; a flag is also taken as --no-..."""

_WITH_VALUE = {"--lora-merge-cache", "--lora-merge-dtype", "--write-threads"}
_GIVEN = "netweight.needless"
_SHARD_SIZE = re.compile(r"([0-9]{1,15})([kmb]?)", re.IGNORECASE)
_TIMES = {"": 1, "k": 1000, "m": 1000**2, "b": 1000**3}

_MEANT: dict[str, Callable[[Any], dict[str, Any]]] = {  # parameter: netweight's own; a later one has the last word
    "allow_crimes": lambda yes: {"allow_mismatch": yes},
    "out_shard_size": lambda size: {"max_shard_size": size},
    "random_seed": lambda seed: {"seed": seed},
    "num_threads": lambda number: {"workers": number},
    "no_multi_gpu": lambda yes: {"multi_gpu": False} if yes else {},
    "cuda": lambda yes: {"device": "cuda"} if yes else {},
    "gpu_rich": lambda yes: {"device": "cuda", "multi_gpu": True} if yes else {},
}


def mergekit_options(command: F) -> F:
    """Those options of `mergekit-yaml` that netweight's command has not under the same name."""
    for option in NEEDLESS:
        name = option if option in _WITH_VALUE else _pair(option)
        command = _hidden(name, expose_value=False, callback=_remember)(command)
    for declared in (
        _hidden(_pair("--safe-serialization"), expose_value=False, callback=_no_pickles),
        _hidden(_pair("--unsafe-truncate-embeddings"), expose_value=False, callback=_no_truncating),
        _hidden("--transformers-cache", expose_value=False, callback=_set_cache),
        _hidden(_pair("--allow-crimes")),
        _hidden("--out-shard-size", callback=_shard_size),
        _hidden("--random-seed", type=int),
        _hidden("--num-threads", "-j", type=click.IntRange(min=1)),
        _hidden("--no-quiet", is_flag=True, expose_value=False),
        _hidden("--no-multi-gpu", is_flag=True),
        _hidden(_pair("--cuda")),
        _hidden("--gpu-rich", is_flag=True),
    ):
        command = declared(command)
    return command


def translated(context: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The command's parameters `given`, with netweight's own in the place of mergekit's; the note on those that nothing
    needs goes to stderr. Raises OptionError where one of mergekit's and netweight's own say different things.
    """
    own = {name: value for name, value in given.items() if name not in _MEANT}
    for name, meant_by in _MEANT.items():
        for meant, value in {} if given[name] is None else meant_by(given[name]).items():
            if _typed(context, meant) and not _agree(own[meant], value):
                both = f"{_option(context, name, given[name])} and {_option(context, meant, own[meant])}"
                raise OptionError(f"{both}: say two different things; leave one of them out")
            own[meant] = own[meant] if _agree(own[meant], value) else value
    needless = context.meta.get(_GIVEN, [])
    if needless and own["output_format"] != "quiet":
        why = ", ".join(f"{option} ({NEEDLESS[option]})" for option in needless)
        click.echo(f"note: nothing here needs mergekit's {why}", err=True)
    return own


def _pair(option: str) -> str:
    return f"{option}/--no-{option.removeprefix('--')}"


def _hidden(*names: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(*names, **{"default": None, "hidden": True, **more})


def _typed(context: click.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _option(context: click.Context, name: str, value: Any) -> str:
    parameter = next(p for p in context.command.params if p.name == name)
    return (parameter.secondary_opts if value is False and parameter.secondary_opts else parameter.opts)[0]


def _agree(own: Any, value: Any) -> bool:
    """Whether netweight's own option says what mergekit's means; cuda:1 is a cuda."""
    return bool(own == value or (value == "cuda" and str(own).startswith("cuda:")))


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        context.meta.setdefault(_GIVEN, []).append(parameter.opts[0])


def _shard_size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Bytes, as mergekit 0.1.5 counts them."""
    if value is None:
        return None
    match = _SHARD_SIZE.fullmatch(value)
    size = int(match[1]) * _TIMES[match[2].lower()] if match else 0
    if size < 1:
        raise OptionError(
            f"--out-shard-size: expected bytes in mergekit's way, such as 5B (5 GB), 500M or 1000000, got"
            f" '{printable(value)}'; --max-shard-size takes 5GB and 5GiB"
        )
    return size


def _set_cache(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value == "":
        raise OptionError("--transformers-cache: expected a folder, got an empty name")
    if value is not None:
        os.environ["HF_HUB_CACHE"] = value  # huggingface_hub is loaded later


def _no_pickles(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value is False:
        raise OptionError("--no-safe-serialization: netweight writes safetensors alone; leave it out")


def _no_truncating(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value:
        raise OptionError(
            "--unsafe-truncate-embeddings: netweight does not cut vocabularies to the smallest; --vocab base keeps the"
            " base's rows, --vocab union-rows all rows"
        )
