"""`netweight merge`: one model of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased, SpaceSeparated
from netweight.cli.mergekit_options import EPILOG, mergekit_options, translated
from netweight.cli.options import (
    complete_words,
    device_options,
    executor_options,
    format_option,
    model_file_options,
    options_from,
    output_option,
    remote_option,
    replacing_options,
    report_option,
    run_options,
    seed_option,
    shard_size_option,
    verbose_option,
)
from netweight.errors import FormatError, OptionError, printable
from netweight.merging.coefficients import GRANULARITIES, MODES
from netweight.views.text import print_json

if TYPE_CHECKING:
    from netweight.jobs.merge.request import Options, Request, Weights

__all__ = ["merge", "run_request"]


def _methods() -> Iterable[str]:
    from netweight.merging.registry import METHODS

    return METHODS


def _settings_as_options() -> dict[str, str]:
    """{as an option: what sets it}; `--weights` is an option, and nearer than a setting."""
    from netweight.merging.registry import METHODS, find

    names = {s.name for method in METHODS for s in find(method).settings if s.name != "weight"}
    return {f"--{name.replace('_', '-')}": f"--set {name}=VALUE" for name in names}


@click.command(
    cls=Command,
    hints=_settings_as_options,
    epilog=EPILOG,
    short_help="Merge models, by mergekit's recipes or by options; crash-safe.",
)
@click.argument("recipe", metavar="[RECIPE", required=False)
@click.argument("folder", metavar="[DIR]]", required=False)
@click.option(
    "--base",
    cls=Aliased,
    aliases=["--base_model_path", "--base_model"],
    metavar="MODEL",
    help="The model that the others were fine-tuned from.",
)
@click.option(
    "--models",
    cls=SpaceSeparated,
    paths=True,
    aliases=["--other_model_paths"],
    metavar="MODEL ...",
    help="The models to merge, where no recipe names them.",
)
@partial(output_option, aliases=["--output_path", "--outdir", "--out", "--out-path"], what="the merged model")
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete_words(_methods),
    help="Such as ties, dare_ties, slerp. [default: task_arithmetic]",
)
@click.option(
    "--mode",
    metavar="NAME",
    shell_complete=complete_words(lambda: MODES),
    help=f"From norms: {', '.join(MODES)}. [default: exp]",
)
@click.option("--alpha", type=float, metavar="X", help="Exponent of --mode power. [default: 1.5]")
@click.option("--beta", type=float, metavar="X", help="Steepness of --mode exp. [default: 1.0]")
@click.option(
    "--granularity",
    metavar="NAME",
    shell_complete=complete_words(lambda: GRANULARITIES),
    help=f"One for each model, layer or parameter: {', '.join(GRANULARITIES)}.",
)
@click.option(
    "--l2-norms",
    cls=SpaceSeparated,
    aliases=["--l2_norms"],
    type=float,
    metavar="X ...",
    help="The task vectors' norms, one a model. [default: measured]",
)
@click.option("--from", "delta", metavar="DIR", help="Take the norms from a result of `netweight delta`.")
@click.option("--weights", cls=SpaceSeparated, type=float, metavar="X ...", help="The weights, one a model.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
@click.option("--dtype", metavar="NAME", help="Element type of the output. [default: the base's]")
@shard_size_option
@model_file_options
@click.option(
    "--vocab",
    type=click.Choice(["base", "union-rows"]),
    help="Where vocabularies differ in size: the base's rows, or all.",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "base"]),
    default="error",
    show_default=True,
    help="Where a model lacks one: stop, or take the base's.",
)
@click.option("--as-adapter", is_flag=True, help="Write the sum of adapters of one base as an adapter.")
@click.option("--rank", type=int, metavar="N", help="Of the adapter, at most. [default: what the sum takes]")
@click.option("--allow-mismatch", is_flag=True, help="Merge models of other families too.")
@partial(replacing_options, what="merge")
@partial(run_options, dry_run="Show weights, norms and plan; reads base and models, writes nothing.")
@click.option(
    "--check",
    is_flag=True,
    help="Show the plan from headers and tokenizers; reads no weights.",
)
@click.option(
    "-I",
    "--intermediate-dir",
    "stages",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep models of a recipe's named documents, and use those there.",
)
@report_option
@remote_option
@executor_options
@device_options
@format_option
@verbose_option
@seed_option
@mergekit_options
@click.pass_context
def merge(context: click.Context, /, recipe: str | None, folder: str | None, output: str | None, **given: Any) -> None:
    """Merge models into one, which is a folder that transformers loads.

    By a RECIPE in mergekit's YAML, into DIR or --output; or by --base and --models: then the weights are 1/L, 1/L^alpha
    or exp(-beta L/mean) of the norms L of the task vectors (--mode), normalised to sum 1. --dry-run prints them, and
    what the merge will read and write. The result appears whole, at the end; netweight_merge.json in it says how it was
    made, and `netweight verify` computes it once more. A recipe of several documents, as of mergekit-multi, merges
    them one after the other.
    """
    output = _output(folder, output)
    rest = translated(context, given)
    output_format = rest.pop("output_format")
    if rest["as_adapter"]:
        _run_as_adapter(recipe, output, output_format, rest)
        return
    if rest["rank"] is not None:
        raise OptionError("--rank: is of an adapter; give --as-adapter too, or leave it out")
    run_request(_request(recipe, rest), output, output_format, rest)


def _output(folder: str | None, output: str | None) -> str | None:
    """The folder of the result: what stands behind the recipe, or --output."""
    if folder is not None and output is not None and Path(folder) != Path(output):
        raise OptionError(
            f"{printable(folder)} and --output {printable(output)}: two folders for one result; leave one of them out"
        )
    return folder if output is None else output


def _run_as_adapter(recipe: str | None, output: str | None, output_format: str, rest: dict[str, Any]) -> None:
    from netweight.jobs.merge.as_adapter import AdapterRequest, merge_as_adapter
    from netweight.jobs.merge.request import Options
    from netweight.views.merge import show_adapter

    if rest["dry_run"] or rest["resume"] or rest["check"]:
        raise OptionError(
            "--as-adapter: reads adapters alone and is done at once; leave out --check, --dry-run and --resume"
        )
    if output is None:
        raise OptionError("--output: expected the folder that the adapter goes into, got none")
    about = AdapterRequest(rest["rank"], rest["dtype"] or "float32")
    request = _request(recipe, rest | {"dtype": None})
    result = merge_as_adapter(request, output, about, options_from(Options, rest, sync=not rest["no_fsync"]))
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_adapter(result, verbose=rest["verbose"])


def run_request(request: Request, output: str | None, output_format: str, rest: Mapping[str, Any]) -> None:
    """Merge, or show what a merge will do, as the command's options `rest` say; raises OptionError without `output`."""
    from contextlib import ExitStack

    from netweight.cli.progress.bar import progress_for
    from netweight.jobs.merge.job import merge_request, preview, result_folder
    from netweight.jobs.merge.plan import prepare
    from netweight.jobs.merge.request import Options
    from netweight.jobs.pages import check_report
    from netweight.views.merge import show_merged, show_plan

    report = rest.get("report")
    options = options_from(Options, rest, sync=not rest["no_fsync"], pictured=report is not None)
    progress = progress_for(output_format)
    if report is not None:
        if rest.get("check"):
            raise OptionError("--report: is of a merge that was made; leave out --check")
        check_report(report)
    if options.stages is not None and not request.stages:
        raise OptionError(
            "--intermediate-dir: the recipe is one document, and makes no models on the way; leave it out"
        )
    if rest.get("check"):
        _check(request, options, output, output_format, verbose=rest["verbose"])
        return
    if rest["dry_run"]:
        if request.stages:
            raise OptionError(
                "--dry-run: the recipe merges models that are made on the way, and nothing measures them; give --check"
            )
        with ExitStack() as stack:
            prepared = prepare(request, options, stack)
            if output is not None:
                result_folder(prepared, output).check()
            weighting, plan = preview(prepared, progress=progress)
            show_plan(prepared, weighting, plan, output, output_format, verbose=rest["verbose"])
        return
    if output is None:
        made = "converted" if request.alone else "merged"
        raise OptionError(f"--output: expected the folder that the {made} model goes into, got none")
    result = merge_request(request, output, options=options, resume=rest["resume"], progress=progress)
    if report is not None:
        result.report(report)
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        show_merged(result, verbose=rest["verbose"])
        if report is not None:
            click.echo(f"written to {printable(report)}")


def _check(request: Request, options: Options, output: str | None, output_format: str, *, verbose: bool) -> None:
    from netweight.jobs.merge.job import result_folder
    from netweight.jobs.merge.preflight import check_merge
    from netweight.views.merge import show_check

    found, late = check_merge(request, options)
    if output is not None and not late:
        result_folder(found[-1].prepared, output).check()
    show_check(found, late, output_format, verbose=verbose)


def _request(recipe: str | None, rest: dict[str, Any]) -> Request:
    from netweight.jobs.merge.request import make_request

    return make_request(
        recipe,
        base=rest["base"],
        models=rest["models"],
        method=rest["method"],
        weights=_weights(rest),
        settings=_settings(rest["settings"]),
        dtype=rest["dtype"],
    )


def _weights(rest: dict[str, Any]) -> Weights | None:
    from netweight.jobs.merge.request import Weights

    options = {name: rest[name] for name in ("mode", "alpha", "beta", "granularity") if rest[name] is not None}
    if rest["l2_norms"]:
        options["norms"] = tuple(rest["l2_norms"])
    if rest["weights"]:
        options["explicit"] = tuple(rest["weights"])
    if rest["delta"] is not None:
        if not rest["delta"]:
            raise OptionError("--from: expected the folder of a result of `netweight delta`, got an empty name")
        options["delta"] = Path(rest["delta"])
    if "explicit" in options and options.keys() & {"mode", "alpha", "beta", "granularity"}:
        raise OptionError("--weights and --mode, --alpha, --beta or --granularity: --weights are final; leave one out")
    return Weights(**options) if options else None


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """{setting: value}; values as in recipes, so lists and filters work too."""
    from netweight.merging.recipe.yaml import read_yaml

    settings: dict[str, Any] = {}
    for pair in pairs:
        before, equals, text = pair.partition("=")
        name = before.strip()
        if not equals or not name:
            raise OptionError(f"--set {printable(pair)}: expected KEY=VALUE, such as --set density=0.5")
        if name in settings:
            raise OptionError(f"--set {printable(pair)}: {printable(name)} is set twice; leave one out")
        try:
            settings[name], _ = read_yaml(text, "--set")
        except FormatError:
            raise OptionError(
                f"--set {printable(pair)}: the value is not YAML; expected a number, a flag or a list"
            ) from None
    return settings
