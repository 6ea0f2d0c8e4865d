"""`netweight download`: a model from the hub into a folder."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

from netweight.cli.command import Command
from netweight.cli.lists import Aliased, SpaceSeparated, swallowed
from netweight.cli.options import format_option, verbose_option
from netweight.errors import OptionError, printable
from netweight.views.text import human_bytes, print_json, print_notes

if TYPE_CHECKING:
    from netweight.jobs.download.job import Downloaded, DownloadPlan

__all__ = ["download"]


@click.command(cls=Command, short_help="Fetch a model from the hub: resumed, verified, whole or not at all.")
@click.argument("ref", metavar="ID", required=False)
@click.option(
    "--model-id",
    cls=Aliased,
    aliases=("--model_id",),
    metavar="ID",
    help="The model, as an option; it then goes into DIR/ID, where older scripts look for it.",
)
@click.option(
    "-o",
    "--out",
    cls=Aliased,
    aliases=("--out-dir", "--out_dir", "--output-dir", "--output_dir", "--outdir"),
    required=True,
    metavar="DIR",
    help="The folder that becomes the model's.",
)
@click.option("--revision", metavar="NAME", help="A branch, a tag or a commit. [default: main]")
@click.option(
    "--include",
    cls=SpaceSeparated,
    metavar="GLOB ...",
    help="Fetch the files whose names match, instead of the usual choice; may be repeated.",
)
@click.option(
    "--exclude", cls=SpaceSeparated, metavar="GLOB ...", help="Leave out files whose names match; may be repeated."
)
@click.option("--workers", type=click.IntRange(min=1, max=64), metavar="N", help="Requests at a time. [default: 8]")
@click.option("--dry-run", is_flag=True, help="Show which files would be fetched; fetch none.")
@click.option("--resume", is_flag=True, help="Accepted: an interrupted download always goes on.")
@format_option
@verbose_option
def download(
    ref: str | None,
    model_id: str | None,
    out: str,
    revision: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    workers: int | None,
    dry_run: bool,  # noqa: FBT001 - click's way
    resume: bool,  # noqa: ARG001, FBT001
    output_format: str,
    verbose: bool,  # noqa: FBT001
) -> None:
    """Fetch the model ID (org/name, org/name@revision, hf://org/name) from the hub into DIR.

    Without --include these are: one set of weights, safetensors rather than torch files; *.json, *.model, *.txt,
    *.jinja, *.tiktoken, README.md, LICENSE*, NOTICE* from the top of the repository; the modules of
    sentence-transformers (1_Pooling); no code. All files are of one commit. They appear in DIR when all of them are
    there with the right size and digest; until then they lie in a folder beside it, and a run that was stopped or
    killed goes on with them. What DIR has already, or the hub's local cache, is not fetched again. HF_ENDPOINT names a
    mirror; HF_TOKEN and HF_HOME are honoured.
    """
    from netweight.cli.progress.download import download_progress_for
    from netweight.jobs.download.job import check_target, plan_download
    from netweight.jobs.download.job import download as fetch

    if (ref is None) == (model_id is None):
        hint = swallowed(click.get_current_context())
        raise OptionError(f"download takes one ID (such as org/name), as the argument or by --model-id; give one{hint}")
    name = ref if ref is not None else model_id
    assert name is not None  # noqa: S101 - one of them is given
    if model_id is not None:
        from netweight.jobs.download.hub import parse_hub_id

        out = str(PurePosixPath(out, parse_hub_id(model_id, revision)[0]))
    if dry_run:
        plan = plan_download(name, revision=revision, include=include, exclude=exclude)
        check_target(out, plan)
        _show_plan(plan, output_format)
        return
    result = fetch(
        name,
        out,
        revision=revision,
        include=include,
        exclude=exclude,
        workers=workers,
        progress=download_progress_for(output_format),
    )
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        _show(result, verbose=verbose)


def _show_plan(plan: DownloadPlan, output_format: str) -> None:
    if output_format == "json":
        print_json(plan.to_dict())
    elif output_format == "human":
        click.echo(f"{printable(plan.model.id)} at commit {plan.model.commit}")
        for file in plan.choice.files:
            click.echo(f"  {human_bytes(file.size):>8}  {printable(file.name)}")
        print_notes(plan.choice.notes)
        click.echo(
            f"{len(plan.choice.files)} files, {human_bytes(plan.bytes)}; nothing was fetched, leave out --dry-run to"
            " fetch them"
        )


def _show(result: Downloaded, *, verbose: bool) -> None:
    if verbose:
        for file in result.files:
            click.echo(
                f"  {human_bytes(file.size):>8}  {printable(file.name)}  {file.algorithm or 'size'} "
                f"{file.digest or 'alone'}{'' if file.fetched else '  (was there)'}"
            )
    print_notes(result.notes)
    fetched = sum(file.fetched for file in result.files)
    click.echo(
        f"{printable(result.folder, 300)}: {printable(result.id)} at commit {result.commit}; {len(result.files)} files,"
        f" {human_bytes(result.bytes)}, {fetched} of them fetched ({human_bytes(result.fetched)}), all verified"
    )
