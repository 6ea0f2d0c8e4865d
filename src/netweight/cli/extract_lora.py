"""`netweight extract-lora`: a LoRA adapter out of a fine-tune and its base."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased
from netweight.cli.options import (
    device_options,
    executor_options,
    filter_options,
    format_option,
    options_from,
    output_option,
    remote_option,
    replacing_options,
    run_options,
    verbose_option,
)
from netweight.errors import OptionError
from netweight.views.text import print_json

__all__ = ["extract_lora"]


@click.command(cls=Command, short_help="A LoRA adapter out of a fine-tune and its base.")
@click.option(
    "--base",
    cls=Aliased,
    aliases=["--base-model", "--base_model_path"],
    metavar="MODEL",
    required=True,
    help="The model that the other was fine-tuned from.",
)
@click.option("--model", metavar="MODEL", required=True, help="The fine-tune.")
@partial(output_option, aliases=["--out-path", "--outdir", "--out"], what="the adapter")
@click.option(
    "--rank", cls=Aliased, aliases=["--max-rank"], type=int, metavar="N", help="The rank of every matrix. [default: 16]"
)
@click.option(
    "--energy", type=float, metavar="X", help="Or the smallest ranks that keep this share of the squared norm."
)
@click.option("--error", type=float, metavar="X", help="Or the smallest ranks with at most this relative error.")
@click.option(
    "--dtype", default="float32", show_default=True, metavar="NAME", help="Of the factors; also bfloat16, float16."
)
@click.option(
    "--no-modules-to-save",
    is_flag=True,
    help="Keep no module whole: what has no factors is left out, and listed.",
)
@partial(replacing_options, what="adapter")
@filter_options
@partial(run_options, dry_run="Show what each rank would leave and take; reads all weights, writes nothing.")
@remote_option
@executor_options
@device_options
@format_option
@verbose_option
def extract_lora(base: str, model: str, output: str | None, output_format: str, **rest: Any) -> None:
    """Write what a fine-tune changed in its base as an adapter that peft.PeftModel.from_pretrained loads.

    Of every matrix that changed it holds the leading singular directions of the change. The relative error of each
    matrix, and of all together, is computed from the factors as they are stored. Norms and biases are kept whole, and
    what no adapter can hold is listed. --dry-run shows what each rank would leave. `netweight verify` computes the
    adapter once more.
    """
    from contextlib import ExitStack

    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.extract_lora.job import extract_lora as run
    from netweight.jobs.extract_lora.job import result_folder
    from netweight.jobs.extract_lora.plan import Options, prepare
    from netweight.views.extract_lora import show_extracted, show_preview

    more = {"sync": not rest["no_fsync"], "modules_to_save": not rest["no_modules_to_save"]}
    options = options_from(Options, rest, **more)
    progress = progress_for(output_format)
    if rest["dry_run"]:
        from netweight.jobs.extract_lora.preview import preview

        with ExitStack() as stack:
            prepared = prepare(base, model, options, stack, spectra=True)
            if output is not None:
                result_folder(prepared, output).check()
            show_preview(prepared, preview(prepared, progress=progress), output_format, verbose=rest["verbose"])
        return
    if output is None:
        raise OptionError("--output: expected the folder that the adapter goes into, got none")
    result = run(base, model, output, options=options, resume=rest["resume"], progress=progress)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_extracted(result, verbose=rest["verbose"])
