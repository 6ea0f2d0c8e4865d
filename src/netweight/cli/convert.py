"""`netweight convert`: a model of any format as dense safetensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.merge import run_request
from netweight.cli.options import (
    device_options,
    executor_options,
    format_option,
    model_file_options,
    output_option,
    remote_option,
    replacing_options,
    run_options,
    shard_size_option,
    verbose_option,
)

__all__ = ["convert"]


@click.command(cls=Command, short_help="Write any model, quantised or not, as dense safetensors.")
@click.argument("model", metavar="MODEL")
@partial(output_option, aliases=["--outdir", "--out"], what="it")
@click.option(
    "--dtype", metavar="NAME", help="Element type of all floats, e.g. bfloat16. [default: those that are read]"
)
@click.option(
    "--like", metavar="MODEL", help="Take config.json and tokenizer from this model. [default: what lies beside MODEL]"
)
@shard_size_option
@model_file_options
@partial(replacing_options, what="result")
@partial(run_options, dry_run="Show what would be read and written; writes nothing.")
@remote_option
@executor_options
@device_options
@format_option
@verbose_option
def convert(
    model: str, output: str | None, dtype: str | None, like: str | None, output_format: str, **rest: Any
) -> None:
    """Write MODEL as a folder of safetensors that transformers loads: quantised weights decoded, torch files, numpy
    archives and GGUF under the names of the hub.

    Without --dtype nothing is rounded: float32 is what most quantised formats decode to. The result appears whole, at
    the end, and `netweight verify` computes it once more.
    """
    from netweight.jobs.convert.job import convert_request

    run_request(convert_request(model, dtype=dtype, like=like), output, output_format, rest)
